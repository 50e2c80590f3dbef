//! Vectors of eight `f32`: one set of kernels for AVX2 and for every other processor, with the same bits.

/// Numbers in a vector.
pub(super) const LANES: usize = 8;

/// Eight numbers. Every operation is that of IEEE 754 on each lane, multiply-add fused, so that all kinds agree.
pub(super) trait Lanes: Copy {
    /// `x` in all lanes.
    fn splat(x: f32) -> Self;

    /// The eight numbers at `from`.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load(from: *const f32) -> Self;

    /// Asks for the cache line of an address, which need not be readable.
    fn prefetch<T>(from: *const T);

    /// Puts the eight numbers at `to`.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn store(self, to: *mut f32);

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;

    /// `self * factor + sum`, rounded once.
    fn mul_add(self, factor: Self, sum: Self) -> Self;

    /// `self` where it is greater, else `other`: `other`, too, where one is NaN.
    fn max(self, other: Self) -> Self;

    /// `yes` where `self < bound`, else `no`.
    fn select_less(self, bound: Self, yes: Self, no: Self) -> Self;

    /// `2^n`, where the lanes hold `1.5 * 2^23 + n` with `-127 <= n <= 127`; 0 for -127.
    fn power_of_two(self) -> Self;

    /// Lane `i` of result `j` is lane `j` of row `i`.
    fn transpose(rows: [Self; LANES]) -> [Self; LANES];

    /// `exp(x)` for `x <= 88`, to 2e-7 relative; 0 below about -87.7. NaN gives NaN.
    ///
    /// `exp(x) = 2^n * exp(r)` with `n` an integer and `|r| <= ln(2) / 2`; `exp(r)` is the polynomial `1 + r + r^2 P(r)`
    /// of degree 6 nearest in relative error (4e-9 before rounding).
    #[inline(always)]
    fn exp(self) -> Self {
        /// Adding 1.5 * 2^23 leaves the sum rounded to an integer, which stands in its low bits.
        const ROUND: f32 = 12_582_912.0;
        /// ln(2) in two parts, of which the first has 9 bits: its product with `n` is exact.
        const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
        const SERIES: [f32; 6] = [
            0.008_368_745,
            0.041_668_39,
            0.166_665_21,
            0.499_999_94,
            1.0,
            1.0,
        ];
        // In this order NaN stays.
        let x = Self::splat(-88.0).max(self);
        let shifted = x.mul_add(Self::splat(std::f32::consts::LOG2_E), Self::splat(ROUND));
        let n = shifted.sub(Self::splat(ROUND));
        let r = n.mul_add(Self::splat(-LN2.0), x);
        let r = n.mul_add(Self::splat(-LN2.1), r);
        let mut series = Self::splat(0.001_381_453_9);
        for coefficient in SERIES {
            series = series.mul_add(r, Self::splat(coefficient));
        }
        series.mul(shifted.power_of_two())
    }

    /// `tanh(x)`, to 3e-7 relative. NaN gives NaN.
    ///
    /// Near 0, `x` times a polynomial in `x^2`, nearest in relative error (5e-9 before rounding); elsewhere `(1 - t) /
    /// (1 + t)` with `t = exp(-2 |x|)`, which would cancel near 0.
    #[inline(always)]
    fn tanh(self) -> Self {
        /// Where the polynomial ends.
        const NEAR: f32 = 0.625;
        const SERIES: [f32; 4] = [0.020_650_56, -0.053_743_49, 0.133_314_91, -0.333_332_84];
        let (zero, one) = (Self::splat(0.0), Self::splat(1.0));
        let negated = zero.sub(self);
        let size = self.select_less(zero, negated, self);
        let t = size.mul(Self::splat(-2.0)).exp();
        let far = one.sub(t).div(one.add(t));
        let far = self.select_less(zero, zero.sub(far), far);
        let square = self.mul(self);
        let mut series = Self::splat(-0.005_717_02);
        for coefficient in SERIES {
            series = series.mul_add(square, Self::splat(coefficient));
        }
        let near = series.mul(square).mul_add(self, self);
        size.select_less(Self::splat(NEAR), near, far)
    }

    /// `1 - tanh(x)^2`, the slope of [`tanh`](Self::tanh), to 6e-7 relative. NaN gives NaN.
    ///
    /// `4 t / (1 + t)^2` with `t = exp(-2 |x|)`: the difference has no digits left where the tangent is near 1.
    #[inline(always)]
    fn tanh_slope(self) -> Self {
        let (zero, one) = (Self::splat(0.0), Self::splat(1.0));
        let size = self.select_less(zero, zero.sub(self), self);
        let t = size.mul(Self::splat(-2.0)).exp();
        let sum = one.add(t);
        t.mul(Self::splat(4.0)).div(sum.mul(sum))
    }
}

/// Eight numbers in an array, for any processor. Without fused multiply-add in hardware it is slow, and still exact.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }
}

impl Lanes for Portable {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises eight readable numbers.
        Self(unsafe { from.cast::<[f32; LANES]>().read() })
    }
    #[inline(always)]
    fn prefetch<T>(_: *const T) {}
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises eight writable numbers.
        unsafe { to.cast::<[f32; LANES]>().write(self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            self.0[lane].mul_add(factor.0[lane], sum.0[lane])
        }))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn select_less(self, bound: Self, yes: Self, no: Self) -> Self {
        let select = |lane: usize| {
            if self.0[lane] < bound.0[lane] {
                yes.0[lane]
            } else {
                no.0[lane]
            }
        };
        Self(std::array::from_fn(select))
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        // The low bits hold n; with the bias of 127 they become the exponent.
        Self(
            self.0
                .map(|x| f32::from_bits(x.to_bits().wrapping_add(127) << 23)),
        )
    }
    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        std::array::from_fn(|j| Self(std::array::from_fn(|i| rows[i].0[j])))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{LANES, Lanes};
    use std::arch::x86_64::*;

    /// Eight numbers in a register.
    ///
    /// Whoever names this type as a kernel's has found AVX2 and FMA: every `unsafe` block of its methods without an
    /// argument of its own relies on that.
    #[derive(Clone, Copy)]
    pub(in crate::cpu) struct Avx2(__m256);

    impl Avx2 {
        /// Whether this processor has the instructions.
        pub(in crate::cpu) fn is_available() -> bool {
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
        }
    }

    impl Lanes for Avx2 {
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: the processor has AVX2, as the type says.
            Self(unsafe { _mm256_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller promises eight readable numbers; the processor has AVX2, as the type says.
            Self(unsafe { _mm256_loadu_ps(from) })
        }
        #[inline(always)]
        fn prefetch<T>(from: *const T) {
            // SAFETY: an address that cannot be read is passed over.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller promises eight writable numbers; the processor has AVX2, as the type says.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: the processor has AVX2, as the type says.
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: the processor has AVX2, as the type says.
            Self(unsafe { _mm256_sub_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: the processor has AVX2, as the type says.
            Self(unsafe { _mm256_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn div(self, other: Self) -> Self {
            // SAFETY: the processor has AVX2, as the type says.
            Self(unsafe { _mm256_div_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn mul_add(self, factor: Self, sum: Self) -> Self {
            // SAFETY: the processor has FMA, as the type says.
            Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, sum.0) })
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // SAFETY: the processor has AVX2, as the type says.
            Self(unsafe { _mm256_max_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn select_less(self, bound: Self, yes: Self, no: Self) -> Self {
            // SAFETY: the processor has AVX2, as the type says.
            Self(unsafe {
                let less = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0);
                _mm256_blendv_ps(no.0, yes.0, less)
            })
        }
        #[inline(always)]
        fn power_of_two(self) -> Self {
            // The low bits hold n; with the bias of 127 they become the exponent.
            // SAFETY: the processor has AVX2, as the type says.
            Self(unsafe {
                let biased = _mm256_add_epi32(_mm256_castps_si256(self.0), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        }
        #[inline(always)]
        fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
            let r = rows.map(|row| row.0);
            // SAFETY: the processor has AVX2, as the type says.
            unsafe {
                // Pairs of rows, then quartets, each within its half of the register.
                let low = |a, b| _mm256_unpacklo_ps(a, b);
                let high = |a, b| _mm256_unpackhi_ps(a, b);
                let pairs = [
                    low(r[0], r[1]),
                    high(r[0], r[1]),
                    low(r[2], r[3]),
                    high(r[2], r[3]),
                    low(r[4], r[5]),
                    high(r[4], r[5]),
                    low(r[6], r[7]),
                    high(r[6], r[7]),
                ];
                let first = |a, b| _mm256_shuffle_ps::<0x44>(a, b);
                let second = |a, b| _mm256_shuffle_ps::<0xee>(a, b);
                let q = [
                    first(pairs[0], pairs[2]),
                    second(pairs[0], pairs[2]),
                    first(pairs[1], pairs[3]),
                    second(pairs[1], pairs[3]),
                    first(pairs[4], pairs[6]),
                    second(pairs[4], pairs[6]),
                    first(pairs[5], pairs[7]),
                    second(pairs[5], pairs[7]),
                ];
                // The halves that belong together.
                [
                    Self(_mm256_permute2f128_ps::<0x20>(q[0], q[4])),
                    Self(_mm256_permute2f128_ps::<0x20>(q[1], q[5])),
                    Self(_mm256_permute2f128_ps::<0x20>(q[2], q[6])),
                    Self(_mm256_permute2f128_ps::<0x20>(q[3], q[7])),
                    Self(_mm256_permute2f128_ps::<0x31>(q[0], q[4])),
                    Self(_mm256_permute2f128_ps::<0x31>(q[1], q[5])),
                    Self(_mm256_permute2f128_ps::<0x31>(q[2], q[6])),
                    Self(_mm256_permute2f128_ps::<0x31>(q[3], q[7])),
                ]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply<V: Lanes>(f: impl Fn(V) -> V, x: f32) -> f32 {
        let mut result = [0.0; LANES];
        // SAFETY: the array holds eight numbers.
        unsafe { f(V::splat(x)).store(result.as_mut_ptr()) };
        result[3]
    }

    #[test]
    fn functions_hold_their_bounds() {
        for step in -870_000..=10_000 {
            let x = step as f32 * 1e-4;
            let exp = apply(Portable::exp, x);
            let error = (f64::from(exp) / f64::from(x).exp() - 1.0).abs();
            assert!(error <= 2e-7, "exp {x}: {error}");
        }
        for step in 1..=100_000 {
            let x = step as f32 * 1e-4;
            let tanh = apply(Portable::tanh, x);
            let error = (f64::from(tanh) / f64::from(x).tanh() - 1.0).abs();
            assert!(error <= 3e-7, "tanh {x}: {error}");
            assert_eq!(apply(Portable::tanh, -x), -tanh);
            let slope = apply(Portable::tanh_slope, x);
            let error = (f64::from(slope) * f64::from(x).cosh().powi(2) - 1.0).abs();
            assert!(error <= 6e-7, "the slope of tanh {x}: {error}");
            assert_eq!(apply(Portable::tanh_slope, -x), slope);
        }
        let exp = |x| apply(Portable::exp, x);
        let tanh = |x| apply(Portable::tanh, x);
        assert_eq!(
            [
                exp(0.0),
                exp(f32::NEG_INFINITY),
                tanh(0.0),
                tanh(f32::INFINITY)
            ],
            [1.0, 0.0, 0.0, 1.0]
        );
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }

    #[test]
    fn a_transposition_swaps_rows_and_lanes() {
        fn run<V: Lanes>() {
            let numbers: [f32; LANES * LANES] = std::array::from_fn(|at| at as f32);
            let mut result = [0.0; LANES * LANES];
            // SAFETY: each of the eight rows lies within its array.
            unsafe {
                let rows = std::array::from_fn(|row| V::load(numbers.as_ptr().add(row * LANES)));
                for (row, lanes) in V::transpose(rows).into_iter().enumerate() {
                    lanes.store(result.as_mut_ptr().add(row * LANES));
                }
            }
            for (at, &x) in result.iter().enumerate() {
                assert_eq!(x as usize, at % LANES * LANES + at / LANES);
            }
        }
        run::<Portable>();
        #[cfg(target_arch = "x86_64")]
        if Avx2::is_available() {
            run::<Avx2>();
        }
    }
}
