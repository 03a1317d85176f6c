//! `--list-fields`: the names that a counters file may have, and whether this library has them.

use std::fmt::Write;

use crate::dcgm::Library;
use crate::dcgm::fields::{self, Listed, ValueType};

/// A table of the fields whose name has `pattern` in it, in any case; `*` and `?` in the pattern stand for any text and
/// for any character, and it is then the whole name. An empty pattern is all of them. Without a library its column says
/// `?`.
pub fn list(pattern: &str, library: Option<&Library>) -> String {
    let mut text = format!("{:<66} {:>5} {:<7} {:<8} {:<17} {}\n", "NAME", "ID", "TYPE", "UNIT", "ENTITY", "LIBRARY");
    for listed in fields::all().filter(|listed| matches(pattern, listed.field.name)) {
        let Listed { field, entity } = listed;
        let value_type = match field.value_type {
            ValueType::Int64 => "int64",
            ValueType::Double => "double",
            ValueType::Text => "text",
            ValueType::Binary => "binary",
            ValueType::None => continue,
        };
        let has = |id| library.map(|library| library.field(id).is_some());
        let availability = match (has(field.id), field.classic) {
            (None, _) => "?",
            (Some(true), _) => "yes",
            (Some(false), Some(classic)) if has(classic.id) == Some(true) => "converted",
            (Some(false), _) => "no",
        };
        let unit = fields::unit(&field).unwrap_or("-");
        // Writing to a string does not fail.
        let _ =
            writeln!(text, "{:<66} {:>5} {value_type:<7} {unit:<8} {entity:<17} {availability}", field.name, field.id);
    }
    text
}

fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_uppercase(), name.to_ascii_uppercase());
    match pattern.contains(['*', '?']) {
        true => is_like(pattern.as_bytes(), name.as_bytes()),
        false => name.contains(&pattern),
    }
}

/// In time of length times length: after a mismatch only the last star takes one more character.
fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("", "ANY", true),
            ("gpu_temp", "DCGM_FI_DEV_GPU_TEMP", true),
            ("TEMP_GPU", "DCGM_FI_DEV_GPU_TEMP", false),
            ("*GPU_TEMP", "DCGM_FI_DEV_GPU_TEMP", true),
            ("*GPU_TEMP", "DCGM_FI_DEV_GPU_TEMP_LIMIT", false),
            ("DCGM*GPU*", "DCGM_FI_DEV_GPU_TEMP", true),
            ("DCGM_FI_DEV_GPU_TEM?", "DCGM_FI_DEV_GPU_TEMP", true),
            ("?", "", false),
            ("a*b*c", "axbxbxc", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
