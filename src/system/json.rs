//! JSON, for the log and for `--check`: strings, and objects of strings. Nothing else is written here, so no crate is
//! needed.

use std::fmt::Write;

use super::printable::acts_on_terminal;

/// A JSON string.
pub struct Json<'a>(pub &'a str);

impl std::fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                // Each of them has four digits. JSON is read on terminals, too.
                control if acts_on_terminal(control) => write!(f, "\\u{:04x}", u32::from(control))?,
                other => f.write_char(other)?,
            }
        }
        f.write_char('"')
    }
}

/// Appends an object whose values are strings, in this order.
pub fn push_object<'a>(out: &mut String, fields: impl IntoIterator<Item = (&'a str, &'a str)>) {
    out.push('{');
    for (index, (name, value)) in fields.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(out, "{comma}{}:{}", Json(name), Json(value));
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_reads_what_was_written() {
        let odd = "a \"b\"\\\n\t\r\u{1}\u{7f}\u{85}\u{e4}\u{1f600}\u{202e}\u{2028}";
        let mut text = String::new();
        push_object(&mut text, [("plain", "x"), (odd, odd)]);
        assert!(!text.contains(acts_on_terminal), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, serde_json::json!({ "plain": "x", odd: odd }));
        let mut text = String::new();
        push_object(&mut text, []);
        assert_eq!(text, "{}");
    }
}
