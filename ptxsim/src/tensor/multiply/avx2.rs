//! [`Model::fused_dot_add`] for finite operands, in floats, eight columns in a register: a product of
//! two significands is exact in f32 (at most 22 bits), scaling by a power of two is exact or falls
//! below the adder, the conversion to an integer truncates, and f64 holds every sum.

use super::{Accumulators, Block, LANES, Model};
use crate::tensor::format::ZERO_EXPONENT;
use crate::tensor::model::Accumulator;
use std::arch::x86_64::*;

/// Adds a block to its accumulators, unless one of them is infinite or NaN: then nothing is
/// done and the result is false.
#[inline]
#[target_feature(enable = "avx2")]
pub fn add<const N: usize>(block: &Block<'_, N>, model: &Model, c: Accumulators<'_>) -> bool {
    let addends = [load(c[0]), load(c[1])];
    let magnitudes = [without_sign(addends[0]), without_sign(addends[1])];
    let special = _mm256_cmpgt_epi32(
        _mm256_max_epi32(magnitudes[0], magnitudes[1]),
        all(0x7f7f_ffff),
    );
    if _mm256_testz_si256(special, special) == 0 {
        return false;
    }
    let addend = [
        split(model, addends[0], magnitudes[0]),
        split(model, addends[1], magnitudes[1]),
    ];
    let mut top = addend.map(|(_, exponent)| _mm256_max_epi32(exponent, all(model.min_exponent)));
    for k in 0..N {
        let b = load_i32(&block.b_exponent[k]);
        for (top, a) in top.iter_mut().zip(block.a_exponent) {
            *top = _mm256_max_epi32(*top, _mm256_add_epi32(all(a[k]), b));
        }
    }
    // Biased exponent of the scale that aligns a term: at most 127 + F, and at most 0 where the
    // term falls below the adder.
    let bias = top.map(|top| _mm256_sub_epi32(all(127 + model.fraction_bits), top));
    let first = |row: usize| {
        let (significand, exponent) = addend[row];
        Sum::new(align(significand, _mm256_add_epi32(exponent, bias[row])))
    };
    let mut sum = [first(0), first(1)];
    // Eight terms below 4 * 2^25 fit an i32; sixteen would not.
    for eight in (0..N).step_by(8) {
        let mut partial = [_mm256_setzero_si256(); 2];
        for k in eight..N.min(eight + 8) {
            let (sb, eb) = (
                load(&block.b_significand[k]),
                load_i32(&block.b_exponent[k]),
            );
            for row in 0..2 {
                let product = _mm256_mul_ps(_mm256_set1_ps(block.a_significand[row][k]), sb);
                let exponent = _mm256_add_epi32(all(block.a_exponent[row][k]), eb);
                let term = align(product, _mm256_add_epi32(exponent, bias[row]));
                partial[row] = _mm256_add_epi32(partial[row], term);
            }
        }
        sum[0].add(partial[0]);
        sum[1].add(partial[1]);
    }
    for ((sum, top), c) in sum.into_iter().zip(top).zip(c) {
        let unit = _mm256_sub_epi32(top, all(model.fraction_bits));
        let [low, high] = sum.scaled(model, unit);
        // SAFETY: a store of eight f32 to an array of eight.
        unsafe { _mm256_storeu_ps(c.as_mut_ptr(), _mm256_set_m128(high, low)) };
    }
    true
}

/// Bits without the sign.
#[inline]
#[target_feature(enable = "avx2")]
fn without_sign(value: __m256) -> __m256i {
    _mm256_and_si256(_mm256_castps_si256(value), all(0x7fff_ffff))
}

/// Exact sums of eight columns.
struct Sum {
    low: __m256d,
    high: __m256d,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(first: __m256i) -> Sum {
        Sum {
            low: _mm256_cvtepi32_pd(_mm256_castsi256_si128(first)),
            high: _mm256_cvtepi32_pd(_mm256_extracti128_si256::<1>(first)),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(&mut self, terms: __m256i) {
        let terms = Sum::new(terms);
        self.low = _mm256_add_pd(self.low, terms.low);
        self.high = _mm256_add_pd(self.high, terms.high);
    }

    /// `sum * 2^unit`, rounded to the accumulator's format.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn scaled(self, model: &Model, unit: __m256i) -> [__m128; 2] {
        let low = power_of_two(_mm256_castsi256_si128(unit));
        let high = power_of_two(_mm256_extracti128_si256::<1>(unit));
        match model.accumulator {
            Accumulator::F32 => {
                let bits = model.result_bits;
                [
                    round_f32(self.low, low, bits),
                    round_f32(self.high, high, bits),
                ]
            }
            Accumulator::F16 => [
                round_f16(_mm256_mul_pd(self.low, low)),
                round_f16(_mm256_mul_pd(self.high, high)),
            ],
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[f32; LANES]) -> __m256 {
    // SAFETY: a load of eight f32 from an array of eight.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_i32(values: &[i32; LANES]) -> __m256i {
    // SAFETY: a load of eight i32 from an array of eight.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn all(value: i32) -> __m256i {
    _mm256_set1_epi32(value)
}

/// `term * 2^(biased - 127)`, truncated; 0 where `biased` is not positive.
#[inline]
#[target_feature(enable = "avx2")]
fn align(term: __m256, biased: __m256i) -> __m256i {
    let exponent = _mm256_max_epi32(biased, _mm256_setzero_si256());
    let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
    _mm256_cvttps_epi32(_mm256_mul_ps(term, scale))
}

/// [`Model::addend`] of finite numbers; `magnitude` is their bits without the sign.
#[inline]
#[target_feature(enable = "avx2")]
fn split(model: &Model, addend: __m256, magnitude: __m256i) -> (__m256, __m256i) {
    let smallest = model.smallest_exponent();
    let field = _mm256_srli_epi32::<23>(magnitude);
    let exponent = _mm256_sub_epi32(field, all(127));
    let exponent = _mm256_max_epi32(exponent, all(smallest));
    // In two steps, since 2^-127 is no normal number. Exact: what lies below
    // the smallest exponent stays a subnormal significand.
    let half = _mm256_srai_epi32::<1>(exponent);
    let rest = _mm256_sub_epi32(exponent, half);
    let scale = |e| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_sub_epi32(all(127), e)));
    let significand = _mm256_mul_ps(_mm256_mul_ps(addend, scale(half)), scale(rest));
    let zero = _mm256_cmpeq_epi32(magnitude, _mm256_setzero_si256());
    (
        significand,
        _mm256_blendv_epi8(exponent, all(ZERO_EXPONENT), zero),
    )
}

/// Powers of two as f64.
#[inline]
#[target_feature(enable = "avx2")]
fn power_of_two(exponent: __m128i) -> __m256d {
    let biased = _mm_add_epi32(exponent, _mm_set1_epi32(1023));
    _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_cvtepu32_epi64(biased)))
}

/// `sum * unit` towards zero to f32 with `bits` fraction bits.
#[inline]
#[target_feature(enable = "avx2")]
fn round_f32(sum: __m256d, unit: __m256d, bits: i32) -> __m128 {
    let mask = _mm256_set1_epi64x(-1 << (52 - bits));
    let value = _mm256_and_pd(sum, _mm256_castsi256_pd(mask));
    let value = _mm256_mul_pd(value, unit);
    // Subnormal results lose the bits below the last place; normal ones have none there. The
    // final conversion is exact or an overflow.
    let to_last = f64::from_bits(((126 + bits + 1023) as u64) << 52);
    let last = _mm256_mul_pd(value, _mm256_set1_pd(to_last));
    let last = _mm256_round_pd::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(last);
    _mm256_cvtpd_ps(_mm256_mul_pd(last, _mm256_set1_pd(1.0 / to_last)))
}

/// To the nearest f16, ties to even, as f32.
#[inline]
#[target_feature(enable = "avx2")]
fn round_f16(value: __m256d) -> __m128 {
    let bits = _mm256_castpd_si256(value);
    let exponent = _mm256_and_si256(bits, _mm256_set1_epi64x(0x7ff << 52));
    // 2^(max(exponent, -14) - 10): comparing doubles compares their exponents.
    let smallest = _mm256_set1_pd(1.0 / 16384.0);
    let power = _mm256_max_pd(_mm256_castsi256_pd(exponent), smallest);
    let unit = _mm256_mul_pd(power, _mm256_set1_pd(1.0 / 1024.0));
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let rounded = _mm256_round_pd::<NEAREST>(_mm256_div_pd(value, unit));
    let rounded = _mm256_mul_pd(rounded, unit);
    // From 65536 on the value is beyond f16.
    let sign = _mm256_set1_pd(-0.0);
    let limit = _mm256_set1_pd(65536.0);
    let over = _mm256_cmp_pd::<_CMP_GE_OQ>(_mm256_andnot_pd(sign, rounded), limit);
    let infinite = _mm256_or_pd(_mm256_and_pd(sign, rounded), _mm256_set1_pd(f64::INFINITY));
    _mm256_cvtpd_ps(_mm256_blendv_pd(rounded, infinite, over))
}
