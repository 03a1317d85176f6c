//! Text of strangers, made fit for a terminal.
//!
//! Names of processes and files, answers of other programs and rows of a file may hold escape sequences: they would
//! clear the screen, set the title, or hide what is printed next to them.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a terminal would act on this character instead of showing it: control characters, line and paragraph
/// separators, and those that turn or join the text around them.
pub fn acts_on_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The text with such characters written as `\x1b` or `\u{202e}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(acts_on_terminal) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        // Writing to a String cannot fail.
        let _ = match u32::from(character) {
            _ if !acts_on_terminal(character) => out.write_char(character),
            code if code <= 0xff => write!(out, "\\x{code:02x}"),
            code => write!(out, "\\u{{{code:x}}}"),
        };
    }
    Cow::Owned(out)
}

/// The same for a text of several lines, which it keeps.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// A text of strangers, cut to a length that fits into a message.
pub fn cut(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}… ({} bytes)", &text[..end], text.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert!(matches!(cut(&"ä".repeat(100)), Cow::Borrowed(_)));
        assert_eq!(cut(&"ä".repeat(101)), format!("{}… (202 bytes)", "ä".repeat(100)));
    }

    #[test]
    fn what_a_terminal_acts_on_is_written_out() {
        assert!(matches!(printable("GPU 0: \u{e4} \u{1f600} \\x1b"), Cow::Borrowed(_)));
        assert_eq!(printable("a\x1b[2J\x07\x7f\u{9b}b\t\n"), "a\\x1b[2J\\x07\\x7f\\x9bb\\x09\\x0a");
        assert_eq!(printable("exe\u{202e}txt.\u{2028}\u{feff}"), "exe\\u{202e}txt.\\u{2028}\\u{feff}");
        assert_eq!(printable_lines("a\x1b\nb\r\n"), "a\\x1b\nb\\x0d\n");
    }
}
