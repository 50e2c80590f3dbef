//! Corner pooling on the CPU: strips of neighbouring columns are scanned together, so that the inner
//! loop is over contiguous elements.

use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::Scan;
use half::{bf16, f16};
use rayon::prelude::*;

const OP: &str = "corner_pool";
/// Columns of a strip: their running maxima, with keys and sums, stay in the first-level cache.
const STRIP: usize = 1024;
/// Elements of a task where columns are not neighbours.
const TASK: usize = 1 << 14;

/// A float whose order, NaN above all, is that of an integer.
pub trait Ordered: Float {
    /// The integer.
    type Key: Copy + Ord + Default + Send;
    /// -0 and 0 have one key, and all NaN have one.
    fn key(self) -> Self::Key;
}

/// The sign and magnitude of a float's bits as an integer in the order of the floats.
macro_rules! ordered {
    ($float:ty, $key:ty, $infinity:expr) => {
        impl Ordered for $float {
            type Key = $key;
            #[inline(always)]
            fn key(self) -> $key {
                let bits = self.to_bits() as $key;
                let magnitude = bits & <$key>::MAX;
                let signed = if bits < 0 { -magnitude } else { magnitude };
                if magnitude > $infinity {
                    <$key>::MAX
                } else {
                    signed
                }
            }
        }
    };
}
ordered!(f32, i32, 0x7f80_0000);
ordered!(f16, i16, 0x7c00);
ordered!(bf16, i16, 0x7f80);

/// `out[s] = max(input[0..=s])` along each column; new maxima into `bits`, where given. See
/// [`ops::corner_pool`](crate::ops::corner_pool()) and [`Scan`].
///
/// # Errors
/// When the lengths do not fit the scan.
pub fn forward<T: Ordered>(
    input: &[T],
    scan: &Scan,
    bits: Option<&mut [i32]>,
    out: &mut [T],
) -> Result<()> {
    scan.check(OP)?;
    length("input", input.len(), scan.elements())?;
    length("out", out.len(), scan.elements())?;
    if let Some(bits) = &bits {
        length("bits", bits.len(), scan.bit_words())?;
    }
    if input.is_empty() {
        return Ok(());
    }
    let bits = bits.map(|bits| clear(bits, scan));
    match (scan.inner, bits) {
        (1, None) => lines(scan, out, &mut [], |at, out, _| {
            scan_line::<T, false>(&input[at..], scan, out, &mut []);
        }),
        (1, Some(bits)) => lines(scan, out, bits, |at, out, bits| {
            scan_line::<T, true>(&input[at..], scan, out, bits);
        }),
        (_, bits) => {
            let out = strips(out, scan.length, scan.inner);
            let bits = match bits {
                Some(bits) => strips(bits, scan.groups(), scan.inner),
                None => out.iter().map(|_| Vec::new()).collect(),
            };
            let tasks = out.into_par_iter().zip(bits).enumerate();
            tasks.for_each(|(task, (out, bits))| {
                scan_strip(&input[start(scan, task)..], scan, out, bits);
            });
        }
    }
    Ok(())
}

/// The gradient with respect to the input, from `bits` that [`forward`] wrote.
///
/// # Errors
/// When the lengths do not fit the scan.
pub fn backward<T: Float>(
    upstream: &[T],
    bits: &[i32],
    scan: &Scan,
    gradient: &mut [T],
) -> Result<()> {
    scan.check(OP)?;
    length("upstream", upstream.len(), scan.elements())?;
    length("bits", bits.len(), scan.bit_words())?;
    length("gradient", gradient.len(), scan.elements())?;
    if upstream.is_empty() {
        return Ok(());
    }
    let bits: &[u8] = bytemuck::cast_slice(bits);
    if scan.inner == 1 {
        lines(scan, gradient, &mut [], |at, gradient, _| {
            let bits = &bits[at / scan.length * scan.groups()..];
            gather_line(&upstream[at..], bits, scan, gradient);
        });
        return Ok(());
    }
    let gradient = strips(gradient, scan.length, scan.inner);
    gradient
        .into_par_iter()
        .enumerate()
        .for_each(|(task, rows)| {
            let (block, column) = place(scan, task);
            let bits = &bits[block * scan.groups() * scan.inner + column..];
            gather_strip(&upstream[start(scan, task)..], bits, scan, rows);
        });
    Ok(())
}

/// The sum of two pools, each of a map of its own, and their bits where asked for. See
/// [`ops::corner_pool_pair`](crate::ops::corner_pool_pair()).
///
/// # Errors
/// When the lengths do not fit the scans or each other.
pub fn pair<T: Ordered>(
    [(first, down), (second, across)]: [(&[T], &Scan); 2],
    bits: Option<&mut [Vec<i32>; 2]>,
) -> Result<Vec<T>> {
    length("horizontal", second.len(), first.len())?;
    let (first_bits, second_bits) = match bits {
        Some([first, second]) => (Some(&mut first[..]), Some(&mut second[..])),
        None => (None, None),
    };
    let mut sums = vec![T::default(); first.len()];
    let mut pooled = vec![T::default(); second.len()];
    forward(first, down, first_bits, &mut sums)?;
    forward(second, across, second_bits, &mut pooled)?;
    let parts = sums.par_chunks_mut(TASK).zip(pooled.par_chunks(TASK));
    parts.for_each(|(sums, values)| {
        let (mut left, mut right) = ([0.0; STRIP], [0.0; STRIP]);
        for (sums, values) in sums.chunks_mut(STRIP).zip(values.chunks(STRIP)) {
            let (left, right) = (&mut left[..sums.len()], &mut right[..sums.len()]);
            T::widen(sums, left);
            T::widen(values, right);
            left.iter_mut().zip(&*right).for_each(|(a, b)| *a += b);
            T::narrow(left, sums);
        }
    });
    Ok(sums)
}

fn length(argument: &str, is: usize, expected: usize) -> Result<()> {
    if is == expected {
        return Ok(());
    }
    let rule = format!("{expected} elements");
    Err(Error::input(OP, argument, rule, is))
}

/// The bytes of the bits, the padding behind them cleared. A scan writes all others.
fn clear<'a>(bits: &'a mut [i32], scan: &Scan) -> &'a mut [u8] {
    if let Some(last) = bits.last_mut() {
        *last = 0;
    }
    let used = scan.outer * scan.groups() * scan.inner;
    &mut bytemuck::cast_slice_mut(bits)[..used]
}

/// Pieces of rows by strip: `[outer, rows, inner]` cut into at most [`STRIP`] columns.
fn strips<U>(data: &mut [U], rows: usize, inner: usize) -> Vec<Vec<&mut [U]>> {
    let mut all = Vec::new();
    for block in data.chunks_mut(rows * inner) {
        let first = all.len();
        all.resize_with(first + inner.div_ceil(STRIP), || Vec::with_capacity(rows));
        for row in block.chunks_mut(inner) {
            for (strip, piece) in all[first..].iter_mut().zip(row.chunks_mut(STRIP)) {
                strip.push(piece);
            }
        }
    }
    all
}

/// Block and first column of a strip.
fn place(scan: &Scan, task: usize) -> (usize, usize) {
    let of_block = scan.inner.div_ceil(STRIP);
    (task / of_block, task % of_block * STRIP)
}

/// Where a strip's first row starts in the map.
fn start(scan: &Scan, task: usize) -> usize {
    let (block, column) = place(scan, task);
    block * scan.length * scan.inner + column
}

/// Position of a step on its axis.
#[inline(always)]
fn position(scan: &Scan, step: usize) -> usize {
    if scan.from_end {
        scan.length - 1 - step
    } else {
        step
    }
}

/// Scans a strip; `input` starts at its first element.
fn scan_strip<T: Ordered>(
    input: &[T],
    scan: &Scan,
    mut out: Vec<&mut [T]>,
    mut bits: Vec<&mut [u8]>,
) {
    let width = out[0].len();
    let row = |step| &input[position(scan, step) * scan.inner..][..width];
    let mut best = row(0).to_vec();
    let mut keys: Vec<T::Key> = best.iter().map(|x| x.key()).collect();
    out[position(scan, 0)].copy_from_slice(&best);
    if let Some(first) = bits.first_mut() {
        first.fill(1);
    }
    for step in 1..scan.length {
        let out = &mut *out[position(scan, step)];
        match bits.get_mut(step / 8) {
            None => raise::<T, false>(row(step), &mut best, &mut keys, out, &mut [], 0),
            Some(bits) => {
                if step.is_multiple_of(8) {
                    bits.fill(0);
                }
                raise::<T, true>(row(step), &mut best, &mut keys, out, bits, step % 8);
            }
        }
    }
}

/// One step of a strip. Without `BITS` no bits are touched.
#[inline(always)]
fn raise<T: Ordered, const BITS: bool>(
    row: &[T],
    best: &mut [T],
    keys: &mut [T::Key],
    out: &mut [T],
    bits: &mut [u8],
    bit: usize,
) {
    let width = row.len();
    let (best, keys, out) = (&mut best[..width], &mut keys[..width], &mut out[..width]);
    let bits = if BITS { &mut bits[..width] } else { bits };
    for i in 0..width {
        let key = row[i].key();
        let rises = key > keys[i];
        keys[i] = if rises { key } else { keys[i] };
        best[i] = if rises { row[i] } else { best[i] };
        out[i] = best[i];
        if BITS {
            bits[i] |= u8::from(rises) << bit;
        }
    }
}

/// Sums each run of a strip into its new maximum; `upstream` and `bits` start at its first element.
fn gather_strip<T: Float>(upstream: &[T], bits: &[u8], scan: &Scan, mut rows: Vec<&mut [T]>) {
    let width = rows[0].len();
    let mut sums = vec![0f32; width];
    let mut values = vec![0f32; width];
    for step in (0..scan.length).rev() {
        let at = position(scan, step);
        T::widen(&upstream[at * scan.inner..][..width], &mut values);
        let bits = &bits[step / 8 * scan.inner..][..width];
        for ((value, sum), &bits) in values.iter_mut().zip(&mut sums).zip(bits) {
            let starts = bits >> (step % 8) & 1 == 1;
            let total = *sum + *value;
            *value = if starts { total } else { 0.0 };
            *sum = if starts { 0.0 } else { total };
        }
        T::narrow(&values, rows[at]);
    }
}

/// Calls `run` with each contiguous column's place in the map, its elements and its bytes of bits.
fn lines<T: Float>(
    scan: &Scan,
    out: &mut [T],
    bits: &mut [u8],
    run: impl Fn(usize, &mut [T], &mut [u8]) + Sync,
) {
    let of_task = TASK.div_ceil(scan.length);
    let groups = if bits.is_empty() { 0 } else { scan.groups() };
    let mut bits: Vec<&mut [u8]> = bits.chunks_mut((of_task * groups).max(1)).collect();
    let tasks = out.len().div_ceil(of_task * scan.length);
    bits.resize_with(tasks, || &mut []);
    let tasks = out.par_chunks_mut(of_task * scan.length).zip(bits);
    tasks.enumerate().for_each(|(task, (out, bits))| {
        let first = task * of_task * scan.length;
        for (line, out) in out.chunks_mut(scan.length).enumerate() {
            let bits = &mut bits[line * groups..][..groups];
            run(first + line * scan.length, out, bits);
        }
    });
}

/// Scans one contiguous column.
fn scan_line<T: Ordered, const BITS: bool>(
    input: &[T],
    scan: &Scan,
    out: &mut [T],
    bits: &mut [u8],
) {
    let mut best = input[position(scan, 0)];
    let mut key = best.key();
    if BITS {
        bits.fill(0);
        bits[0] = 1;
    }
    for step in 0..scan.length {
        let at = position(scan, step);
        let next = input[at].key();
        let rises = next > key;
        best = if rises { input[at] } else { best };
        key = if rises { next } else { key };
        out[at] = best;
        if BITS {
            bits[step / 8] |= u8::from(rises) << (step % 8);
        }
    }
}

/// Sums each run of one contiguous column into its new maximum.
fn gather_line<T: Float>(upstream: &[T], bits: &[u8], scan: &Scan, gradient: &mut [T]) {
    let mut sum = 0.0;
    for step in (0..scan.length).rev() {
        let at = position(scan, step);
        let total = sum + upstream[at].to_f32();
        let starts = bits[step / 8] >> (step % 8) & 1 == 1;
        gradient[at] = T::from_f32(if starts { total } else { 0.0 });
        sum = if starts { 0.0 } else { total };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order<T: Ordered>(values: &[f32]) {
        let keys: Vec<_> = values.iter().map(|&x| T::from_f32(x).key()).collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(T::from_f32(0.0).key() == T::from_f32(-0.0).key());
        assert!(T::from_f32(f32::NAN).key() == T::from_f32(-f32::NAN).key());
    }

    #[test]
    fn keys_are_in_the_order_of_the_floats() {
        let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
        let values = [low, -2.0, -1.0, -6e-5, 0.0, 6e-5, 0.5, 2.0, high, f32::NAN];
        in_order::<f32>(&values);
        in_order::<f16>(&values);
        in_order::<bf16>(&values);
    }

    #[test]
    fn lengths_are_checked() {
        let scan = Scan {
            outer: 1,
            length: 3,
            inner: 2,
            from_end: false,
        };
        let error = forward(&[0f32; 5], &scan, None, &mut [0.0; 6]).unwrap_err();
        let text = "corner_pool: input must be 6 elements, got 5";
        assert_eq!(error.to_string(), text);
        assert!(forward(&[0f32; 6], &scan, Some(&mut []), &mut [0.0; 6]).is_err());
        assert!(backward(&[0f32; 6], &[0; 2], &scan, &mut [0.0; 6]).is_err());
        assert!(pair([(&[0f32; 6], &scan), (&[0f32; 5], &scan)], None).is_err());
    }
}
