//! Doubles as C's `%f` prints them: six decimals, rounded half to even on the exact binary value.
//!
//! A double is `m * 2^e` with `m < 2^53`, so `m * 10^6` fits in 73 bits and both the rounding and its ties are exact in
//! 128-bit integers. Only values from 2^128 on need more, and go the standard library's way.

use std::fmt::Write;

const MILLION: u128 = 1_000_000;

/// Appends a finite number.
pub fn push(out: &mut String, number: f64) {
    let bits = number.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let fraction = bits & ((1 << 52) - 1);
    // Subnormal numbers have no hidden bit and the smallest exponent.
    let (mantissa, exponent) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    let millionths = match exponent {
        0.. => match u128::from(mantissa)
            .checked_shl(exponent as u32)
            .filter(|shifted| shifted >> exponent == u128::from(mantissa))
        {
            Some(whole) if exponent < 75 => return push_parts(out, bits, whole, 0),
            _ => {
                // A String takes everything.
                let _ = write!(out, "{number:.6}");
                return;
            }
        },
        -127.. => shift_to_even(u128::from(mantissa) * MILLION, exponent.unsigned_abs()),
        _ => 0,
    };
    push_parts(out, bits, millionths / MILLION, (millionths % MILLION) as u32);
}

fn shift_to_even(value: u128, by: u32) -> u128 {
    let (quotient, rest, half) = (value >> by, value & ((1 << by) - 1), 1u128 << (by - 1));
    quotient + u128::from(rest > half || (rest == half && quotient & 1 == 1))
}

fn push_parts(out: &mut String, bits: u64, whole: u128, millionths: u32) {
    if bits >> 63 == 1 {
        out.push('-');
    }
    match u64::try_from(whole) {
        Ok(small) => out.push_str(itoa::Buffer::new().format(small)),
        Err(_) => out.push_str(itoa::Buffer::new().format(whole)),
    }
    let mut digits = *b".000000";
    let mut rest = millionths;
    for digit in digits[1..].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    out.extend(digits.map(char::from));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn check(number: f64) {
        let mut out = String::new();
        super::push(&mut out, number);
        assert_eq!(out, format!("{number:.6}"), "{number:e} ({:#x})", number.to_bits());
    }

    #[test]
    fn edges() {
        for number in [
            0.0,
            -0.0,
            1.0,
            0.1,
            1e-7,
            5e-7,
            4.9999e-7,
            0.0000005,
            0.0078125,
            0.0234375,
            0.9999995,
            0.99999949,
            123456.7890125,
            1e15,
            9007199254740993.0,
            1e20,
            1e22,
            3.4e38,
            1e39,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            0.5,
            2.5,
            -12.25,
        ] {
            check(number);
            check(-number);
        }
        for exponent in 0..2047u64 {
            for fraction in [0, 1, (1 << 52) - 1, 1 << 51] {
                check(f64::from_bits(exponent << 52 | fraction));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_double_as_the_standard_library_prints_it(bits: u64) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite());
            check(number);
        }

        #[test]
        fn shares_and_ties(numerator in -2_000_000i64..2_000_000, shift in 0u32..40, small in -1e9f64..1e9) {
            check(numerator as f64 / (1u64 << shift) as f64);
            check(small);
        }
    }
}
