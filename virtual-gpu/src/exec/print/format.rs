//! Formats of C's `printf`, and how they write values.

/// A piece of a format.
#[derive(Debug, PartialEq)]
pub enum Piece<'f> {
    Text(&'f [u8]),
    Conversion(Conversion),
}

/// What a conversion takes from the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Int,
    Long,
    Double,
    /// Address of a zero-terminated text.
    Text,
}

impl Wanted {
    /// Its size in bytes.
    pub fn bytes(self) -> u32 {
        if self == Wanted::Int { 4 } else { 8 }
    }
}

/// A value taken.
pub enum Value {
    Bits(u64),
    Text(Vec<u8>),
}

/// A width or precision: as written, or the next value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Fixed(usize),
    Value,
}

/// One `%…`.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    left: bool,
    plus: bool,
    blank: bool,
    alternate: bool,
    zeros: bool,
    width: Option<Number>,
    precision: Option<Number>,
    /// Bytes of an integer.
    bytes: u32,
    kind: u8,
}

/// Wider or more precise than anybody means; a value taken for one may be anything.
const LARGEST: usize = 4096;

/// The pieces of a format.
pub fn pieces(format: &[u8]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.iter().position(|&b| b == b'%') {
        if at > 0 {
            pieces.push(Piece::Text(&rest[..at]));
        }
        rest = &rest[at..];
        match Conversion::parse(&rest[1..]) {
            Some((conversion, len)) => {
                pieces.push(Piece::Conversion(conversion));
                rest = &rest[1 + len..];
            }
            // `%%`, or what is no conversion and stays as it is.
            None => {
                let doubled = rest.get(1) == Some(&b'%');
                pieces.push(Piece::Text(&rest[..1]));
                rest = &rest[1 + usize::from(doubled)..];
            }
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

impl Conversion {
    /// The conversion behind a `%` and its length.
    fn parse(text: &[u8]) -> Option<(Conversion, usize)> {
        let mut c = Conversion {
            left: false,
            plus: false,
            blank: false,
            alternate: false,
            zeros: false,
            width: None,
            precision: None,
            bytes: 4,
            kind: 0,
        };
        let mut at = 0;
        while let Some(flag) = text.get(at) {
            match flag {
                b'-' => c.left = true,
                b'+' => c.plus = true,
                b' ' => c.blank = true,
                b'#' => c.alternate = true,
                b'0' => c.zeros = true,
                _ => break,
            }
            at += 1;
        }
        c.width = number(text, &mut at);
        if text.get(at) == Some(&b'.') {
            at += 1;
            c.precision = number(text, &mut at).or(Some(Number::Fixed(0)));
        }
        loop {
            c.bytes = match text.get(at)? {
                b'h' if c.bytes == 2 => 1,
                b'h' => 2,
                b'l' | b'j' | b'z' | b't' | b'L' => 8,
                _ => break,
            };
            at += 1;
        }
        c.kind = *text.get(at)?;
        b"diouxXcspeEfFgGaA".contains(&c.kind).then_some((c, at + 1))
    }

    /// The values that it takes, in their order.
    pub fn wanted(&self) -> impl Iterator<Item = Wanted> {
        let numbers = [self.width, self.precision].into_iter().filter(|n| *n == Some(Number::Value));
        let value = match self.kind {
            b's' => Wanted::Text,
            b'p' => Wanted::Long,
            b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => Wanted::Double,
            b'c' => Wanted::Int,
            _ if self.bytes == 8 => Wanted::Long,
            _ => Wanted::Int,
        };
        numbers.map(|_| Wanted::Int).chain([value])
    }

    /// Writes the values that it wanted.
    pub fn write(&self, values: &[Value]) -> Vec<u8> {
        let mut values = values.iter();
        let mut next = || match values.next() {
            Some(Value::Bits(bits)) => *bits,
            _ => 0,
        };
        let mut c = self.clone();
        if c.width == Some(Number::Value) {
            let width = next() as i32;
            c.left |= width < 0;
            c.width = Some(Number::Fixed(width.unsigned_abs() as usize));
        }
        if c.precision == Some(Number::Value) {
            // A negative one counts as none.
            c.precision = usize::try_from(next() as i32).ok().map(Number::Fixed);
        }
        let precision = c.precision.map(|p| p.fixed());
        match c.kind {
            b's' => {
                let Some(Value::Text(text)) = values.next() else { return Vec::new() };
                c.pad("", &text[..precision.unwrap_or(usize::MAX).min(text.len())], false)
            }
            b'c' => c.pad("", &[next() as u8], false),
            b'p' => match next() {
                0 => c.pad("", b"(nil)", false),
                address => c.pad("0x", format!("{address:x}").as_bytes(), c.zeros),
            },
            b'd' | b'i' | b'o' | b'u' | b'x' | b'X' => c.integer(next(), precision),
            _ => c.float(f64::from_bits(next()), precision),
        }
    }

    fn integer(&self, bits: u64, precision: Option<usize>) -> Vec<u8> {
        let unused = 64 - 8 * self.bytes;
        let unsigned = bits << unused >> unused;
        let signed = (bits << unused) as i64 >> unused;
        let mut digits = match self.kind {
            b'd' | b'i' => signed.unsigned_abs().to_string(),
            b'u' => unsigned.to_string(),
            b'o' => format!("{unsigned:o}"),
            b'x' => format!("{unsigned:x}"),
            _ => format!("{unsigned:X}"),
        };
        if unsigned == 0 && precision == Some(0) {
            digits.clear();
        }
        let missing = precision.unwrap_or(1).saturating_sub(digits.len());
        digits.insert_str(0, &"0".repeat(missing));
        if self.kind == b'o' && self.alternate && !digits.starts_with('0') {
            digits.insert(0, '0');
        }
        let prefix = match self.kind {
            b'd' | b'i' => self.sign(signed < 0),
            b'x' if self.alternate && unsigned != 0 => "0x",
            b'X' if self.alternate && unsigned != 0 => "0X",
            _ => "",
        };
        self.pad(prefix, digits.as_bytes(), self.zeros && precision.is_none())
    }

    fn float(&self, value: f64, precision: Option<usize>) -> Vec<u8> {
        let sign = self.sign(value.is_sign_negative());
        let upper = self.kind.is_ascii_uppercase();
        let magnitude = value.abs();
        if !value.is_finite() {
            let name = match (value.is_nan(), upper) {
                (true, false) => "nan",
                (true, true) => "NAN",
                (false, false) => "inf",
                (false, true) => "INF",
            };
            return self.pad(sign, name.as_bytes(), false);
        }
        let mut text = match self.kind.to_ascii_lowercase() {
            b'f' => self.fixed_point(magnitude, precision.unwrap_or(6)),
            b'e' => self.exponential(magnitude, precision.unwrap_or(6)),
            b'g' => self.shortest(magnitude, precision.unwrap_or(6).max(1)),
            _ => self.hexadecimal(magnitude, precision),
        };
        if upper {
            text.make_ascii_uppercase();
        }
        let prefix = match self.kind {
            b'a' => format!("{sign}0x"),
            b'A' => format!("{sign}0X"),
            _ => sign.to_string(),
        };
        self.pad(&prefix, text.as_bytes(), self.zeros)
    }

    fn fixed_point(&self, value: f64, precision: usize) -> String {
        let point = if precision == 0 && self.alternate { "." } else { "" };
        format!("{value:.precision$}{point}")
    }

    fn exponential(&self, value: f64, precision: usize) -> String {
        let text = format!("{value:.precision$e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        let point = if precision == 0 && self.alternate { "." } else { "" };
        format!("{digits}{point}e{sign}{exponent:0>2}")
    }

    /// `%g`: `digits` significant digits, without zeros at the end.
    fn shortest(&self, value: f64, digits: usize) -> String {
        let exponential = self.exponential(value, digits - 1);
        let exponent: i32 = exponential.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
        let as_fixed = (-4..digits as i32).contains(&exponent);
        let text = if as_fixed {
            self.fixed_point(value, (digits as i32 - 1 - exponent) as usize)
        } else {
            exponential
        };
        if self.alternate {
            return text;
        }
        let (mantissa, exponent) = text.find('e').map_or((text.as_str(), ""), |at| text.split_at(at));
        let mantissa = match mantissa.contains('.') {
            true => mantissa.trim_end_matches('0').trim_end_matches('.'),
            false => mantissa,
        };
        format!("{mantissa}{exponent}")
    }

    /// `%a` without its `0x`.
    fn hexadecimal(&self, value: f64, precision: Option<usize>) -> String {
        const FRACTION_BITS: u32 = 52;
        let bits = value.to_bits();
        let (mut mantissa, biased) = (bits & ((1 << FRACTION_BITS) - 1), (bits >> FRACTION_BITS) as i32);
        let exponent = match (biased, mantissa) {
            (0, 0) => 0,
            (0, _) => -1022,
            _ => biased - 1023,
        };
        mantissa |= u64::from(biased != 0) << FRACTION_BITS;
        let digits = precision.unwrap_or(13);
        if digits < 13 {
            // Round to even.
            let dropped = FRACTION_BITS - 4 * digits as u32;
            let half = 1u64 << (dropped - 1);
            let rest = mantissa & ((1 << dropped) - 1);
            mantissa >>= dropped;
            mantissa += u64::from(rest > half || rest == half && mantissa & 1 != 0);
            mantissa <<= dropped;
        }
        let mut fraction = format!("{:013x}", mantissa & ((1 << FRACTION_BITS) - 1));
        match precision {
            None => fraction.truncate(fraction.trim_end_matches('0').len()),
            Some(digits) if digits < 13 => fraction.truncate(digits),
            Some(digits) => fraction.push_str(&"0".repeat(digits - 13)),
        }
        let point = if !fraction.is_empty() || self.alternate { "." } else { "" };
        format!("{}{point}{fraction}p{exponent:+}", mantissa >> FRACTION_BITS)
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.blank) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (.., true) => " ",
            _ => "",
        }
    }

    /// Fills up to the width: with zeros between prefix and digits, or with blanks.
    fn pad(&self, prefix: &str, digits: &[u8], zeros: bool) -> Vec<u8> {
        let len = prefix.len() + digits.len();
        let missing = self.width.map_or(0, |w| w.fixed()).saturating_sub(len);
        let (blanks, zeros) = if zeros && !self.left { (0, missing) } else { (missing, 0) };
        let mut out = Vec::with_capacity(len + missing);
        if !self.left {
            out.resize(blanks, b' ');
        }
        out.extend(prefix.as_bytes());
        out.resize(out.len() + zeros, b'0');
        out.extend(digits);
        if self.left {
            out.resize(out.len() + blanks, b' ');
        }
        out
    }
}

impl Number {
    fn fixed(self) -> usize {
        match self {
            Number::Fixed(n) => n.min(LARGEST),
            Number::Value => 0,
        }
    }
}

/// Digits or a `*`.
fn number(text: &[u8], at: &mut usize) -> Option<Number> {
    if text.get(*at) == Some(&b'*') {
        *at += 1;
        return Some(Number::Value);
    }
    let start = *at;
    let mut value = 0usize;
    while let Some(digit) = text.get(*at).filter(|b| b.is_ascii_digit()) {
        value = value.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
        *at += 1;
    }
    (*at > start).then_some(Number::Fixed(value))
}

#[cfg(test)]
mod tests;
