//! A sample's value and its text, for values of the page and for numbers that are label values.

use std::fmt::Write;

use crate::dcgm::Value;

/// A number, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Number {
    #[default]
    Blank,
    Int(i64),
    Double(f64),
}

impl From<&Value<'_>> for Number {
    fn from(value: &Value<'_>) -> Number {
        match value {
            Value::Int(number) => Number::Int(*number),
            Value::Double(number) => Number::Double(*number),
            Value::Text(_) | Value::Blank | Value::NotSupported | Value::Opaque => Number::Blank,
        }
    }
}

impl Number {
    /// Appends the number as dcgm-exporter prints it: integers plain, doubles with six decimals as C's `%f`. Nothing for
    /// a blank. Does not allocate while `out` has room.
    pub fn push(self, out: &mut String) {
        match self {
            Number::Blank => {}
            Number::Int(number) => out.push_str(itoa::Buffer::new().format(number)),
            Number::Double(number) if number.is_nan() => out.push_str("NaN"),
            Number::Double(number) if number.is_infinite() => out.push_str(if number > 0.0 { "+Inf" } else { "-Inf" }),
            // Writing to a String does not fail.
            Number::Double(number) => drop(write!(out, "{number:.6}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: Number) -> String {
        let mut out = String::new();
        number.push(&mut out);
        out
    }

    #[test]
    fn numbers_as_c_prints_them() {
        for (value, expected) in [
            (0.0, "0.000000"),
            (-0.0, "-0.000000"),
            (1e-7, "0.000000"),
            (0.9999995, "1.000000"),
            (0.0078125, "0.007812"),
            (0.0234375, "0.023438"),
            (-12.25, "-12.250000"),
            (9007199254740993.0, "9007199254740992.000000"),
            (1e20, "100000000000000000000.000000"),
            (1e39, "999999999999999939709166371603178586112.000000"),
            (5e-324, "0.000000"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(text(Number::Double(value)), expected);
        }
        assert_eq!(text(Number::Int(i64::MIN)), "-9223372036854775808");
        assert_eq!(text(Number::Blank), "");
    }
}
