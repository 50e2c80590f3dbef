//! Rounding to narrower formats without branches, so that loops over lanes vectorise.

use super::rounding::Rounding;

macro_rules! add_to_odd {
    ($name:ident, $real:ty, $bits:ty) => {
        /// `a + b`, with the last bit set where it is inexact: rounding it again to a format with at
        /// least two bits less gives what rounding the exact sum would (Boldo and Melquiond, 2008).
        #[inline(always)]
        pub fn $name(a: $real, b: $real) -> $real {
            let sum = a + b;
            let part = sum - a;
            let error = (a - (sum - part)) + (b - part);
            let inexact = sum.is_finite() & (error != 0.0);
            // The neighbour toward zero where rounding went away from it; its last bit is then set.
            let away = inexact & ((error > 0.0) != (sum > 0.0));
            <$real>::from_bits((sum.to_bits() - <$bits>::from(away)) | <$bits>::from(inexact))
        }
    };
}
add_to_odd!(add_to_odd, f64, u64);
add_to_odd!(add_to_odd32, f32, u32);

/// The f32 of a value, rounded to odd: rounding it again to at most 22 bits is as good as rounding
/// the value.
#[inline(always)]
pub fn narrow_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let wide = f64::from(nearest);
    // The neighbour toward zero where rounding went away from it; its last bit is then set.
    let bits = nearest.to_bits() - u32::from(wide.abs() > value.abs());
    let odd = bits | u32::from(wide != value);
    if value.is_nan() {
        nearest
    } else {
        f32::from_bits(odd)
    }
}

/// The f32 of a value, to nearest or rounded in a direction: [`Format::round`](super::rounding::Format::round)
/// without a branch. A NaN stays one.
#[inline(always)]
pub fn narrow(value: f64, rounding: Rounding) -> f32 {
    let nearest = value as f32;
    let (magnitude, exact) = (f64::from(nearest).abs(), value.abs());
    let negative = value.is_sign_negative();
    let directed = matches!(rounding, Rounding::Zero | Rounding::Down | Rounding::Up);
    let outward = if negative {
        rounding == Rounding::Down
    } else {
        rounding == Rounding::Up
    };
    // The neighbour on the other side of the value, where rounding went the wrong way.
    let out = directed & outward & (magnitude < exact);
    let back = directed & !outward & (magnitude > exact);
    f32::from_bits(nearest.to_bits() + u32::from(out) - u32::from(back))
}

/// Nearest binary16, ties to even: [`Format::round`](super::rounding::Format::round) for the common
/// case, without a branch.
#[inline(always)]
pub fn f16_nearest(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    // Adding 2^(e+13) makes the sum's last place that of the result: the machine does the rounding.
    let exponent = (magnitude.to_bits() >> 23).clamp(113, 143);
    let magic = f32::from_bits((exponent + 13) << 23);
    let units = (magnitude + magic).to_bits().wrapping_sub(magic.to_bits());
    let rounded = ((exponent - 113) << 10).wrapping_add(units) as u16;
    // 65520 lies halfway between the largest finite number and the next one.
    let finite_or_infinity = if magnitude >= 65520.0 {
        0x7c00
    } else {
        rounded
    };
    if magnitude.is_nan() {
        0x7fff
    } else {
        sign | finite_or_infinity
    }
}

/// Nearest bfloat16, ties to even, without a branch.
#[inline(always)]
pub fn bf16_nearest(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        0x7fff
    } else {
        rounded
    }
}

/// The value of a binary16 number.
#[inline(always)]
pub fn f16_value(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // Rebiasing by a multiplication normalises subnormal numbers, too.
    let finite = f32::from_bits(magnitude) * f32::from_bits((254 - 15) << 23);
    let special = f32::from_bits(magnitude | 0x7f80_0000);
    let value = if bits & 0x7c00 == 0x7c00 {
        special
    } else {
        finite
    };
    f32::from_bits(value.to_bits() | u32::from(bits & 0x8000) << 16)
}

/// The value of a bfloat16 number.
#[inline(always)]
pub fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A subnormal number becomes a zero of its sign: `.ftz`.
#[inline(always)]
pub fn flush(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE {
        f32::from_bits(value.to_bits() & 0x8000_0000)
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::super::rounding::Format;
    use super::*;

    #[test]
    fn the_short_cuts_agree_with_the_general_form() {
        for step in 0..4_000_000u32 {
            let value = f32::from_bits(step.wrapping_mul(1_073));
            let wide = f64::from(value);
            let general = Format::F16.round(wide, Rounding::Nearest, false);
            assert_eq!(u32::from(f16_nearest(value)), general, "{value:e}");
            let general = Format::BF16.round(wide, Rounding::Nearest, false);
            assert_eq!(u32::from(bf16_nearest(value)), general, "{value:e}");
        }
        for bits in 0..=u16::MAX {
            let general = Format::F16.value(u32::from(bits)) as f32;
            let short = f16_value(bits);
            assert!(short.to_bits() == general.to_bits() || short.is_nan() && general.is_nan());
        }
    }

    #[test]
    fn narrowing_to_odd_rounds_once() {
        for bits in (0..0x7c00u16).chain([0x7bff]) {
            let [low, high] = [bits, bits + 1].map(|b| f64::from(f16_value(b.min(0x7bff))));
            let tie = (low + high) / 2.0;
            for value in [
                tie,
                tie * (1.0 + 2f64.powi(-50)),
                tie * (1.0 - 2f64.powi(-50)),
                low,
            ] {
                let expected = Format::F16.round(value, Rounding::Nearest, false) as u16;
                assert_eq!(f16_nearest(narrow_to_odd(value)), expected, "{value}");
                assert_eq!(
                    f16_nearest(narrow_to_odd(-value)),
                    expected | 0x8000,
                    "-{value}"
                );
            }
        }
        for value in [1e39, 65519.999, 65520.0, 1e300, f64::INFINITY, 1e-60, 0.0] {
            let expected = Format::F16.round(value, Rounding::Nearest, false) as u16;
            assert_eq!(f16_nearest(narrow_to_odd(value)), expected, "{value}");
        }
        assert_eq!(f16_nearest(narrow_to_odd(f64::NAN)), 0x7fff);
    }

    #[test]
    fn odd_sums_round_once() {
        // 1 + 2^-11 is a tie of binary16; a crumb above it must go up.
        let tie = 1.0 + 2f64.powi(-11);
        let exact = add_to_odd(tie, 2f64.powi(-70));
        assert_eq!(Format::F16.round(exact, Rounding::Nearest, false), 0x3c01);
        assert_eq!(Format::F16.round(tie, Rounding::Nearest, false), 0x3c00);
    }

    #[test]
    fn directions_agree_with_the_general_form() {
        let edges = [
            0.0,
            1e-60,
            1.4e-45,
            2.0e-45,
            1.0 + 2f64.powi(-30),
            1.0,
            f64::from(f32::MIN_POSITIVE) * (1.0 - 2f64.powi(-40)),
            f64::from(f32::MAX),
            f64::from(f32::MAX) * (1.0 + 2f64.powi(-40)),
            1e39,
            f64::INFINITY,
        ];
        let steps =
            (0..400_000u64).map(|i| f64::from_bits(0x3680_0000_0000_0000 + i * 0x0300_1234_5679));
        for value in edges.into_iter().chain(steps).flat_map(|v| [v, -v]) {
            for rounding in [
                Rounding::Nearest,
                Rounding::Zero,
                Rounding::Down,
                Rounding::Up,
            ] {
                let general = Format::F32.round(value, rounding, false);
                assert_eq!(
                    narrow(value, rounding).to_bits(),
                    general,
                    "{value:e} {rounding:?}"
                );
            }
            assert!(narrow(f64::NAN, Rounding::Up).is_nan());
        }
    }
}
