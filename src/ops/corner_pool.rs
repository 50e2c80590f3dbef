//! Corner pooling.

use super::{check, on_device, with_float};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::{Corner, Direction, Layout, Scan};
use crate::tensor::{ShapeText, Tensor};

const OP: &str = "corner_pool";
const PAIR: &str = "corner_pool_pair";

/// The running maximum of a feature map from one of its edges.
///
/// ```text
/// top:    out[y, x] = max over y' >= y of map[y', x]      left:  max over x' >= x of map[y, x']
/// bottom: out[y, x] = max over y' <= y of map[y', x]      right: max over x' <= x of map[y, x']
/// ```
///
/// | argument | shape | type |
/// |---|---|---|
/// | `map` | `[B, H, W, C]` or `[B, C, H, W]`, as `layout` says | f32, f16, bf16 |
/// | returned | the same | the same |
///
/// A scan starts at the edge that the direction looks to. NaN is greater than any number: it is the
/// maximum from where the scan meets it to the scan's end. An output is one of the inputs, bit for
/// bit (but for the payload of a NaN), so the result is the same on every device. Of equal inputs
/// the first met stands (which shows where 0 equals -0, and in the gradient).
///
/// The map is read once and the result written once, in one launch.
///
/// ```
/// use ocelli::params::{Direction, Layout};
/// use ocelli::{Device, Tensor, ops};
///
/// let map = Tensor::from_vec(vec![1f32, 3., 2., 0.], &[1, 1, 4, 1], &Device::Cpu)?;
/// let pooled = ops::corner_pool(&map, Direction::Left, Layout::ChannelsLast)?;
/// assert_eq!(pooled.to_vec::<f32>()?, [3., 3., 2., 0.]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: Law and Deng, *CornerNet: Detecting Objects as Paired Keypoints*, 2018, section 3.3.
///
/// # Errors
/// [`Error::Input`] when shape or type do not fit; the environment family from the device.
pub fn corner_pool(map: &Tensor, direction: Direction, layout: Layout) -> Result<Tensor> {
    let scan = scan_of(OP, "map", map, direction, layout)?;
    on_device!(&map.device(),
        cpu => with_float!(OP, "map", map, T => {
            let mut pooled = vec![T::default(); map.len()];
            cpu::corner_pool::forward(map.as_slice::<T>()?, &scan, None, &mut pooled)?;
            Ok(Tensor::from_cpu(pooled, map.shape()))
        }),
        cuda(context) => with_float!(OP, "map", map, T => {
            let pooled = crate::cuda::corner_pool::pool::<T>(context, map.as_cuda()?, scan)?;
            Ok(Tensor::from_cuda(pooled, map.shape()))
        }),
    )
}

/// [`corner_pool`] that also returns what [`corner_pool_backward`] needs.
///
/// The second tensor holds one bit an element, `[words]` i32, 1 where the scan met a new maximum
/// ([`Scan`] says in which order). It adds 1/8 byte an element to what is written.
///
/// # Errors
/// As [`corner_pool`].
pub fn corner_pool_with_bits(
    map: &Tensor,
    direction: Direction,
    layout: Layout,
) -> Result<(Tensor, Tensor)> {
    let scan = scan_of(OP, "map", map, direction, layout)?;
    let words = [scan.bit_words()];
    on_device!(&map.device(),
        cpu => with_float!(OP, "map", map, T => {
            let mut pooled = vec![T::default(); map.len()];
            let mut bits = vec![0; words[0]];
            cpu::corner_pool::forward(map.as_slice::<T>()?, &scan, Some(&mut bits), &mut pooled)?;
            Ok((Tensor::from_cpu(pooled, map.shape()), Tensor::from_cpu(bits, &words)))
        }),
        cuda(context) => with_float!(OP, "map", map, T => {
            let (pooled, bits) =
                crate::cuda::corner_pool::pool_with_bits::<T>(context, map.as_cuda()?, scan)?;
            Ok((Tensor::from_cuda(pooled, map.shape()), Tensor::from_cuda(bits, &words)))
        }),
    )
}

/// The gradient of [`corner_pool`] with respect to its map.
///
/// Each element of `upstream`, the gradient of the result, goes to the one input that it was taken
/// from: of equal inputs the first met by the scan, as in the original implementation (PyTorch's
/// `cummax` gives it to the last). The first NaN that a scan meets takes the gradients of all results
/// from its place to the end of the scan.
///
/// | argument | shape | type |
/// |---|---|---|
/// | `upstream` | the map's | f32, f16, bf16 |
/// | `bits` | `[words]`, from [`corner_pool_with_bits`] with the same direction and layout | i32 |
/// | returned | the map's | that of `upstream` |
///
/// Sums are in f32, in an order that depends on the shape and the device alone. Any bits whatever
/// are safe: an upstream value before the scan's first set bit is dropped.
///
/// One map and the bits are read, one map is written.
///
/// # Errors
/// As [`corner_pool`].
pub fn corner_pool_backward(
    upstream: &Tensor,
    bits: &Tensor,
    direction: Direction,
    layout: Layout,
) -> Result<Tensor> {
    let scan = scan_of(OP, "upstream", upstream, direction, layout)?;
    check::device(OP, "bits", bits, &upstream.device())?;
    check::dtype(OP, "bits", bits, DType::I32)?;
    check::shape(OP, "bits", bits, &[scan.bit_words()])?;
    on_device!(&upstream.device(),
        cpu => with_float!(OP, "upstream", upstream, T => {
            let mut gradient = vec![T::default(); upstream.len()];
            cpu::corner_pool::backward(
                upstream.as_slice::<T>()?, bits.as_slice()?, &scan, &mut gradient)?;
            Ok(Tensor::from_cpu(gradient, upstream.shape()))
        }),
        cuda(context) => with_float!(OP, "upstream", upstream, T => {
            let gradient = crate::cuda::corner_pool::pool_backward::<T>(
                context, upstream.as_cuda()?, bits.as_cuda()?, scan)?;
            Ok(Tensor::from_cuda(gradient, upstream.shape()))
        }),
    )
}

/// What [`corner_pool_pair_backward`] needs of its forward pass, as of [`corner_pool_with_bits`].
#[derive(Debug, Clone)]
pub struct PairBits {
    /// Bits of the vertical pool.
    pub vertical: Tensor,
    /// Bits of the horizontal pool.
    pub horizontal: Tensor,
}

/// The sum of a vertical pool of one map and a horizontal pool of another, CornerNet's corner pooling.
///
/// ```text
/// out = pool(vertical, top or bottom) + pool(horizontal, left or right)
/// ```
///
/// | argument | shape | type |
/// |---|---|---|
/// | `vertical`, `horizontal` | `[B, H, W, C]` or `[B, C, H, W]`, as `layout` says, both alike | f32, f16, bf16 |
/// | returned | the same | the same |
///
/// The maxima are those of [`corner_pool`]; their sum is rounded once, the same on every device.
///
/// Where the pixels of `[B, H, W, C]` maps are whole vectors of 16 bytes, one launch on CUDA reads each map
/// once and writes the sum once; else two launches read three maps and write two.
///
/// ```
/// use ocelli::params::{Corner, Layout};
/// use ocelli::{Device, Tensor, ops};
///
/// let map = Tensor::from_vec(vec![1f32, 3., 2., 0.], &[1, 2, 2, 1], &Device::Cpu)?;
/// let corners = ops::corner_pool_pair(&map, &map, Corner::TopLeft, Layout::ChannelsLast)?;
/// assert_eq!(corners.to_vec::<f32>()?, [5., 6., 4., 0.]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: Law and Deng, *CornerNet: Detecting Objects as Paired Keypoints*, 2018, section 3.3.
///
/// # Errors
/// [`Error::Input`] when shapes, types or devices do not fit; the environment family from the device.
pub fn corner_pool_pair(
    vertical: &Tensor,
    horizontal: &Tensor,
    corner: Corner,
    layout: Layout,
) -> Result<Tensor> {
    let [down, across] = pair_scans(vertical, horizontal, corner, layout)?;
    on_device!(&vertical.device(),
        cpu => with_float!(PAIR, "vertical", vertical, T => {
            let maps = [(vertical.as_slice::<T>()?, &down), (horizontal.as_slice()?, &across)];
            Ok(Tensor::from_cpu(cpu::corner_pool::pair(maps, None)?, vertical.shape()))
        }),
        cuda(context) => with_float!(PAIR, "vertical", vertical, T => {
            let maps = on_cuda(vertical, horizontal, corner, layout)?;
            let sum = crate::cuda::corner_pool_pair::run::<T>(context, &maps, None)?;
            Ok(Tensor::from_cuda(sum, vertical.shape()))
        }),
    )
}

/// [`corner_pool_pair`] that also returns what [`corner_pool_pair_backward`] needs.
///
/// # Errors
/// As [`corner_pool_pair`].
pub fn corner_pool_pair_with_bits(
    vertical: &Tensor,
    horizontal: &Tensor,
    corner: Corner,
    layout: Layout,
) -> Result<(Tensor, PairBits)> {
    let [down, across] = pair_scans(vertical, horizontal, corner, layout)?;
    let words = [[down.bit_words()], [across.bit_words()]];
    on_device!(&vertical.device(),
        cpu => with_float!(PAIR, "vertical", vertical, T => {
            let mut bits = words.map(|[words]| vec![0; words]);
            let maps = [(vertical.as_slice::<T>()?, &down), (horizontal.as_slice()?, &across)];
            let sum = cpu::corner_pool::pair(maps, Some(&mut bits))?;
            let [first, second] = bits;
            let bits = PairBits {
                vertical: Tensor::from_cpu(first, &words[0]),
                horizontal: Tensor::from_cpu(second, &words[1]),
            };
            Ok((Tensor::from_cpu(sum, vertical.shape()), bits))
        }),
        cuda(context) => with_float!(PAIR, "vertical", vertical, T => {
            let maps = on_cuda(vertical, horizontal, corner, layout)?;
            let mut bits = crate::cuda::corner_pool_pair::bits(context, [&down, &across])?;
            let sum = crate::cuda::corner_pool_pair::run::<T>(context, &maps, Some(&mut bits))?;
            let [first, second] = bits;
            let bits = PairBits {
                vertical: Tensor::from_cuda(first, &words[0]),
                horizontal: Tensor::from_cuda(second, &words[1]),
            };
            Ok((Tensor::from_cuda(sum, vertical.shape()), bits))
        }),
    )
}

/// The gradients of [`corner_pool_pair`] with respect to its vertical and its horizontal map.
///
/// Both are those of [`corner_pool_backward`], for the same `upstream`, but for the grouping of f32 sums.
/// Where [`corner_pool_pair`] takes one launch on CUDA, so does this: one map and the bits are read, two maps
/// written.
///
/// # Errors
/// As [`corner_pool_pair`].
pub fn corner_pool_pair_backward(
    upstream: &Tensor,
    bits: &PairBits,
    corner: Corner,
    layout: Layout,
) -> Result<(Tensor, Tensor)> {
    let scan = |direction| scan_of(PAIR, "upstream", upstream, direction, layout);
    let (down, across) = (scan(corner.vertical())?, scan(corner.horizontal())?);
    let parts = [
        ("vertical bits", &bits.vertical, &down),
        ("horizontal bits", &bits.horizontal, &across),
    ];
    for (name, bits, scan) in parts {
        check::device(PAIR, name, bits, &upstream.device())?;
        check::dtype(PAIR, name, bits, DType::I32)?;
        check::shape(PAIR, name, bits, &[scan.bit_words()])?;
    }
    on_device!(&upstream.device(),
        cpu => with_float!(PAIR, "upstream", upstream, T => {
            let gradient = |bits: &Tensor, scan| {
                let mut gradient = vec![T::default(); upstream.len()];
                let (upstream, bits) = (upstream.as_slice::<T>()?, bits.as_slice()?);
                cpu::corner_pool::backward(upstream, bits, scan, &mut gradient)?;
                Ok::<_, Error>(gradient)
            };
            let shape = upstream.shape();
            let vertical = Tensor::from_cpu(gradient(&bits.vertical, &down)?, shape);
            Ok((vertical, Tensor::from_cpu(gradient(&bits.horizontal, &across)?, shape)))
        }),
        cuda(context) => with_float!(PAIR, "upstream", upstream, T => {
            let shape = upstream.shape();
            let [vertical, horizontal] = crate::cuda::corner_pool_pair::run_backward::<T>(
                context,
                upstream.as_cuda()?,
                [bits.vertical.as_cuda()?, bits.horizontal.as_cuda()?],
                [shape[0], shape[1], shape[2], shape[3]],
                (corner, layout),
            )?;
            Ok((Tensor::from_cuda(vertical, shape), Tensor::from_cuda(horizontal, shape)))
        }),
    )
}

/// Checks two maps and returns their scans.
fn pair_scans(
    vertical: &Tensor,
    horizontal: &Tensor,
    corner: Corner,
    layout: Layout,
) -> Result<[Scan; 2]> {
    let down = scan_of(PAIR, "vertical", vertical, corner.vertical(), layout)?;
    check::shape(PAIR, "horizontal", horizontal, vertical.shape())?;
    check::dtype(PAIR, "horizontal", horizontal, vertical.dtype())?;
    check::device(PAIR, "horizontal", horizontal, &vertical.device())?;
    let across = scan_of(PAIR, "horizontal", horizontal, corner.horizontal(), layout)?;
    Ok([down, across])
}

/// The scan of a map after checks of its shape and type.
fn scan_of(
    op: &'static str,
    argument: &str,
    map: &Tensor,
    direction: Direction,
    layout: Layout,
) -> Result<Scan> {
    let Ok(shape) = <[usize; 4]>::try_from(map.shape()) else {
        let rule = match layout {
            Layout::ChannelsLast => "[B, H, W, C]",
            Layout::ChannelsFirst => "[B, C, H, W]",
        };
        return Err(Error::input(op, argument, rule, ShapeText(map.shape())));
    };
    Ok(Scan::new(shape, direction, layout))
}

/// Two checked maps on CUDA.
#[cfg(feature = "cuda")]
fn on_cuda<'a>(
    vertical: &'a Tensor,
    horizontal: &'a Tensor,
    corner: Corner,
    layout: Layout,
) -> Result<crate::cuda::corner_pool_pair::Maps<'a>> {
    let shape = vertical.shape();
    Ok(crate::cuda::corner_pool_pair::Maps {
        vertical: vertical.as_cuda()?,
        horizontal: horizontal.as_cuda()?,
        shape: [shape[0], shape[1], shape[2], shape[3]],
        corner,
        layout,
    })
}
