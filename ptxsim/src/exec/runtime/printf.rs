//! C's `printf` formats, as far as CUDA has them.

use crate::sim::LaunchError;

/// A piece of the output.
#[derive(Debug, PartialEq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// The string at this address, for `%s`.
    Address(u64, Pad),
}

/// Flags, width and precision of a conversion.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pad {
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

impl Pad {
    /// Cuts text to the precision and fills it up to the width.
    pub fn apply(&self, text: String) -> String {
        let text: String = match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text,
        };
        self.fill(&text)
    }

    fn fill(&self, text: &str) -> String {
        match self.left {
            true => format!("{text:<width$}", width = self.width),
            false => format!("{text:>width$}", width = self.width),
        }
    }

    /// A number with its sign, filled with zeros where asked for.
    fn number(&self, sign: &str, digits: &str, zeros: bool) -> String {
        let fill = self.width.saturating_sub(sign.len() + digits.len());
        if self.zero && !self.left && zeros {
            format!("{sign}{}{digits}", "0".repeat(fill))
        } else {
            self.fill(&format!("{sign}{digits}"))
        }
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (.., true) => " ",
            _ => "",
        }
    }

    fn integer(&self, sign: &str, digits: String) -> String {
        let width = self.precision.unwrap_or(1);
        self.number(
            sign,
            &format!("{digits:0>width$}"),
            self.precision.is_none(),
        )
    }
}

/// Expands a format; `fetch` gives the next argument of 4 or 8 bytes.
///
/// # Errors
/// Those of `fetch`.
pub fn expand(
    format: &str,
    fetch: &mut dyn FnMut(u64) -> Result<u64, LaunchError>,
) -> Result<Vec<Piece>, LaunchError> {
    let mut pieces = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        pieces.push(Piece::Text(rest[..at].to_owned()));
        rest = &rest[at + 1..];
        let (pad, long, conversion, after) = parse(rest, fetch)?;
        rest = after;
        pieces.push(convert(pad, long, conversion, fetch)?);
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

type Conversion<'f> = (Pad, bool, char, &'f str);

fn parse<'f>(
    mut rest: &'f str,
    fetch: &mut dyn FnMut(u64) -> Result<u64, LaunchError>,
) -> Result<Conversion<'f>, LaunchError> {
    let mut pad = Pad::default();
    while let Some(flag) = rest.chars().next().filter(|c| "-0+ #".contains(*c)) {
        match flag {
            '-' => pad.left = true,
            '0' => pad.zero = true,
            '+' => pad.plus = true,
            ' ' => pad.space = true,
            _ => pad.alternate = true,
        }
        rest = &rest[1..];
    }
    let mut number = |rest: &mut &'f str| -> Result<Option<usize>, LaunchError> {
        if let Some(after) = rest.strip_prefix('*') {
            *rest = after;
            return Ok(Some(fetch(4)? as usize & 0xffff));
        }
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let value = rest[..end].parse::<u16>().ok().map(usize::from);
        *rest = &rest[end..];
        Ok(value)
    };
    pad.width = number(&mut rest)?.unwrap_or(0);
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        pad.precision = Some(number(&mut rest)?.unwrap_or(0));
    }
    let mut long = false;
    while let Some(length) = rest.chars().next().filter(|c| "hljztL".contains(*c)) {
        long |= length != 'h';
        rest = &rest[1..];
    }
    let conversion = rest.chars().next().unwrap_or('%');
    Ok((
        pad,
        long,
        conversion,
        &rest[conversion.len_utf8().min(rest.len())..],
    ))
}

fn convert(
    pad: Pad,
    long: bool,
    conversion: char,
    fetch: &mut dyn FnMut(u64) -> Result<u64, LaunchError>,
) -> Result<Piece, LaunchError> {
    let size = if long { 8 } else { 4 };
    let text = match conversion {
        'd' | 'i' => {
            let bits = fetch(size)?;
            let value = if long {
                bits as i64
            } else {
                i64::from(bits as i32)
            };
            pad.integer(pad.sign(value < 0), value.unsigned_abs().to_string())
        }
        'u' => pad.integer("", fetch(size)?.to_string()),
        'o' => pad.integer("", format!("{:o}", fetch(size)?)),
        'x' => {
            let prefix = if pad.alternate { "0x" } else { "" };
            pad.integer(prefix, format!("{:x}", fetch(size)?))
        }
        'X' => {
            let prefix = if pad.alternate { "0X" } else { "" };
            pad.integer(prefix, format!("{:X}", fetch(size)?))
        }
        'p' => pad.fill(&format!("{:#x}", fetch(8)?)),
        'c' => pad.fill(&char::from(fetch(4)? as u8).to_string()),
        's' => return Ok(Piece::Address(fetch(8)?, pad)),
        'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'a' | 'A' => {
            let value = f64::from_bits(fetch(8)?);
            let digits = float(value.abs(), conversion, pad);
            pad.number(
                pad.sign(value.is_sign_negative()),
                &digits,
                value.is_finite(),
            )
        }
        other => other.to_string(),
    };
    Ok(Piece::Text(text))
}

/// The digits of a number that is not negative.
fn float(value: f64, conversion: char, pad: Pad) -> String {
    let precision = pad.precision.unwrap_or(6);
    let text = match conversion.to_ascii_lowercase() {
        _ if value.is_nan() => "nan".to_owned(),
        _ if value.is_infinite() => "inf".to_owned(),
        'f' => format!("{value:.precision$}"),
        'e' => exponential(value, precision),
        'g' => general(value, precision.max(1), pad.alternate),
        _ => hexadecimal(value),
    };
    if conversion.is_ascii_uppercase() {
        text.to_ascii_uppercase()
    } else {
        text
    }
}

fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(magnitude) => ('-', magnitude),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// All digits of a finite value.
fn hexadecimal(value: f64) -> String {
    let bits = value.to_bits();
    let (field, fraction) = ((bits >> 52) as i32, bits & ((1 << 52) - 1));
    let exponent = if bits == 0 { 0 } else { field.max(1) - 1023 };
    let digits = format!("{fraction:013x}");
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    format!("0x{}{point}{digits}p{exponent:+}", i32::from(field > 0))
}

fn general(value: f64, precision: usize, keep_zeros: bool) -> String {
    let scientific = exponential(value, precision - 1);
    let exponent = scientific
        .rsplit('e')
        .next()
        .and_then(|e| e.parse::<i32>().ok())
        .unwrap_or(0);
    let trim = |digits: &str| match keep_zeros || !digits.contains('.') {
        true => digits.to_owned(),
        false => digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let (digits, tail) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        return format!("{}e{tail}", trim(digits));
    }
    let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
    trim(&format!("{value:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(format: &str, arguments: &[u64]) -> String {
        let mut next = arguments.iter().copied();
        let pieces = expand(format, &mut |_| Ok(next.next().unwrap())).unwrap();
        let text = |piece| match piece {
            Piece::Text(text) => text,
            Piece::Address(address, pad) => pad.apply(format!("<{address}>")),
        };
        pieces.into_iter().map(text).collect()
    }

    #[test]
    fn integers() {
        assert_eq!(
            print("a %d b %5u|%-4d|%05d", &[-3i32 as u32 as u64, 7, 2, 42]),
            "a -3 b     7|2   |00042"
        );
        assert_eq!(
            print("%lld %#x %X %+d %%", &[u64::MAX, 255, 255, 1]),
            "-1 0xff FF +1 %"
        );
        assert_eq!(print("%*d", &[4, 7]), "   7");
    }

    #[test]
    fn floats() {
        let bits = |v: f64| v.to_bits();
        assert_eq!(
            print("%f %.2f %8.3f", &[bits(1.5), bits(-0.126), bits(2.0)]),
            "1.500000 -0.13    2.000"
        );
        assert_eq!(
            print(
                "%e %g %g %g",
                &[bits(12345.678), bits(0.0001), bits(1e10), bits(3.0)]
            ),
            "1.234568e+04 0.0001 1e+10 3"
        );
        assert_eq!(print("%f", &[bits(f64::NAN)]), "nan");
        assert_eq!(print("%a %a", &[bits(1.5), bits(0.0)]), "0x1.8p+0 0x0p+0");
    }

    #[test]
    fn strings_and_odd_formats() {
        assert_eq!(print("%s|%c|%10s", &[1, 65, 2]), "<1>|A|       <2>");
        assert_eq!(print("100%", &[]), "100%");
    }
}
