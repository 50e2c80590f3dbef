//! Whole matrix products by a [`Model`], eight columns at a time.

#[cfg(target_arch = "x86_64")]
mod avx2;

use super::format::{Format, SPECIAL_EXPONENT, Term};
use super::model::Model;

/// Columns that are computed together: one AVX2 register of f32.
pub const LANES: usize = 8;

/// Matrix A, split into significands and exponents; row-major `[m][k]`.
#[derive(Debug, Default, Clone)]
pub struct Rows {
    significand: Vec<f32>,
    exponent: Vec<i32>,
    depth: usize,
    special: bool,
}

/// Matrix B, split likewise; panels of eight columns, `[n / 8][k][8]`.
#[derive(Debug, Default, Clone)]
pub struct Columns {
    significand: Vec<[f32; LANES]>,
    exponent: Vec<[i32; LANES]>,
    depth: usize,
    special: bool,
}

impl Rows {
    /// Splits the elements of A, given row-major with `depth` elements a row, each in the low bits.
    pub fn load(&mut self, format: Format, elements: &[u32], depth: usize, negate: bool) {
        self.depth = depth;
        self.significand.resize(elements.len(), 0.0);
        self.exponent.resize(elements.len(), 0);
        let target = (&mut self.significand[..], &mut self.exponent[..]);
        self.special = split(format, elements, negate, target);
    }
}

impl Columns {
    /// Splits the elements of B, given as panels `[n / 8][k][8]`, each in the low bits.
    pub fn load(&mut self, format: Format, elements: &[u32], depth: usize, negate: bool) {
        self.depth = depth;
        self.significand
            .resize(elements.len() / LANES, [0.0; LANES]);
        self.exponent.resize(elements.len() / LANES, [0; LANES]);
        let significands = self.significand.as_flattened_mut();
        let target = (significands, self.exponent.as_flattened_mut());
        self.special = split(format, elements, negate, target);
    }
}

/// Splits elements into significands and exponents; true where one is infinite or NaN.
fn split(format: Format, elements: &[u32], negate: bool, target: (&mut [f32], &mut [i32])) -> bool {
    let sign = if negate { 1 << (format.bits() - 1) } else { 0 };
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature that the function is compiled for.
        return unsafe { split_avx2(format, elements, sign, target) };
    }
    split_portable(format, elements, sign, target)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn split_avx2(
    format: Format,
    elements: &[u32],
    sign: u32,
    target: (&mut [f32], &mut [i32]),
) -> bool {
    split_portable(format, elements, sign, target)
}

#[inline(always)]
fn split_portable(
    format: Format,
    elements: &[u32],
    sign: u32,
    target: (&mut [f32], &mut [i32]),
) -> bool {
    // One loop a format, so that each vectorises.
    match format {
        Format::F16 => split_with(elements, target, |bits| Format::F16.term(bits ^ sign)),
        Format::Bf16 => split_with(elements, target, |bits| Format::Bf16.term(bits ^ sign)),
        Format::Tf32 => split_with(elements, target, |bits| Format::Tf32.term(bits ^ sign)),
        other => split_with(elements, target, |bits| other.term(bits ^ sign)),
    }
}

#[inline(always)]
fn split_with(
    elements: &[u32],
    (significands, exponents): (&mut [f32], &mut [i32]),
    term: impl Fn(u32) -> Term,
) -> bool {
    let mut lowest = 0;
    for ((&bits, significand), exponent) in elements.iter().zip(significands).zip(exponents) {
        let term = term(bits);
        *significand = term.significand;
        *exponent = term.exponent;
        lowest = lowest.min(term.exponent);
    }
    lowest == SPECIAL_EXPONENT
}

/// `c += a * b` by the model; `c` is row-major `[m][n]`, f16 accumulators as the f32 of their value.
///
/// # Panics
/// Where the shapes do not fit each other.
pub fn multiply_add(model: &Model, a: &Rows, b: &Columns, c: &mut [f32]) {
    assert!(a.depth == b.depth && c.len() * a.depth == a.significand.len() * b.width());
    match model.block.min(a.depth) {
        4 => in_blocks::<4>(model, a, b, c),
        8 => in_blocks::<8>(model, a, b, c),
        16 => in_blocks::<16>(model, a, b, c),
        32 => in_blocks::<32>(model, a, b, c),
        block => panic!("no tensor core adds {block} products"),
    }
}

impl Columns {
    /// n.
    fn width(&self) -> usize {
        self.significand.len() / self.depth * LANES
    }
}

/// [`multiply_add`] in blocks of `N` products.
fn in_blocks<const N: usize>(model: &Model, a: &Rows, b: &Columns, c: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && !a.special && !b.special {
        // SAFETY: the processor has the feature that the function is compiled for.
        return unsafe { multiply_add_avx2::<N>(model, a, b, c) };
    }
    each_block::<N>(a, b, c, |block, c| block.add_by_definition(model, c));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_add_avx2<const N: usize>(model: &Model, a: &Rows, b: &Columns, c: &mut [f32]) {
    each_block::<N>(a, b, c, |block, c| {
        let [upper, lower] = c;
        if !avx2::add(block, model, [upper, lower]) {
            block.add_by_definition(model, [upper, lower]);
        }
    });
}

/// Accumulators of eight columns in two rows.
type Accumulators<'a> = [&'a mut [f32; LANES]; 2];

/// Calls `add` with each block and the accumulators that it is added to, in rising k.
#[inline(always)]
fn each_block<const N: usize>(
    a: &Rows,
    b: &Columns,
    c: &mut [f32],
    add: impl Fn(&Block<'_, N>, Accumulators<'_>),
) {
    let (blocks, width) = (a.depth / N, b.width());
    assert!(blocks * N == a.depth);
    let a_significand = a.significand.as_chunks::<N>().0.chunks_exact(2 * blocks);
    let a_exponent = a.exponent.as_chunks::<N>().0.chunks_exact(2 * blocks);
    let rows = a_significand
        .zip(a_exponent)
        .zip(c.chunks_exact_mut(2 * width));
    for ((a_significand, a_exponent), c) in rows {
        let (upper, lower) = c.split_at_mut(width);
        for k in 0..blocks {
            let b_significand = b
                .significand
                .as_chunks::<N>()
                .0
                .iter()
                .skip(k)
                .step_by(blocks);
            let b_exponent = b.exponent.as_chunks::<N>().0.iter().skip(k).step_by(blocks);
            let upper = upper.as_chunks_mut::<LANES>().0;
            let c = upper.iter_mut().zip(lower.as_chunks_mut::<LANES>().0);
            for ((b_significand, b_exponent), c) in b_significand.zip(b_exponent).zip(c) {
                let block = Block {
                    a_significand: [&a_significand[k], &a_significand[blocks + k]],
                    a_exponent: [&a_exponent[k], &a_exponent[blocks + k]],
                    b_significand,
                    b_exponent,
                };
                add(&block, [c.0, c.1]);
            }
        }
    }
}

/// One fused add for eight columns of two rows: two, because the steps of one depend on each other
/// and leave half of the processor idle.
struct Block<'a, const N: usize> {
    a_significand: [&'a [f32; N]; 2],
    a_exponent: [&'a [i32; N]; 2],
    b_significand: &'a [[f32; LANES]; N],
    b_exponent: &'a [[i32; LANES]; N],
}

impl<const N: usize> Block<'_, N> {
    /// Element by element: where infinities or NaNs occur, and on processors without AVX2.
    #[cold]
    #[inline(never)]
    fn add_by_definition(&self, model: &Model, c: Accumulators<'_>) {
        let term = |significand, exponent| Term {
            significand,
            exponent,
        };
        for (row, c) in c.into_iter().enumerate() {
            let (significand, exponent) = (self.a_significand[row], self.a_exponent[row]);
            let a: [Term; N] = std::array::from_fn(|k| term(significand[k], exponent[k]));
            for (l, c) in c.iter_mut().enumerate() {
                let b: [Term; N] =
                    std::array::from_fn(|k| term(self.b_significand[k][l], self.b_exponent[k][l]));
                *c = model.fused_dot_add(&a, &b, *c);
            }
        }
    }
}

#[cfg(test)]
mod tests;
