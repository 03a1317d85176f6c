//! One metric family in the Prometheus text format, version 0.0.4: the only place that writes HELP, TYPE and samples.

use crate::metrics::number::Number;
use crate::system::printable::{acts_on_terminal, printable_lines};

/// What ends the labels of a sample.
pub const END: &str = "} ";

/// A metric family: its HELP and TYPE lines once, then its samples, all together.
pub struct Family<'a> {
    name: &'a str,
    head: Head<'a>,
    begun: bool,
}

enum Head<'a> {
    /// As [`head`] makes it.
    Prepared(&'a str),
    Parts {
        kind: &'a str,
        help: &'a str,
    },
}

impl<'a> Family<'a> {
    pub fn new(name: &'a str, kind: &'a str, help: &'a str) -> Family<'a> {
        Family { name, head: Head::Parts { kind, help }, begun: false }
    }

    /// A family whose HELP and TYPE lines have been put together by [`head`].
    pub fn prepared(name: &'a str, head: &'a str) -> Family<'a> {
        Family { name, head: Head::Prepared(head), begun: false }
    }

    /// Whether HELP and TYPE have been written.
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Writes HELP and TYPE, if that has not been done. The first sample does it, too.
    pub fn begin(&mut self, out: &mut String) {
        if self.begun {
            return;
        }
        self.begun = true;
        match self.head {
            Head::Prepared(text) => out.push_str(text),
            Head::Parts { kind, help } => push_head(out, self.name, kind, help),
        }
    }

    /// Writes a sample. Its labels are `prepared`, an open brace and labels that do not change; then `more`; then `end`,
    /// which is [`END`] or what [`job_end`] makes. A sample without labels has an empty `prepared`.
    pub fn sample<'l>(
        &mut self,
        out: &mut String,
        prepared: &str,
        more: impl IntoIterator<Item = (&'l str, &'l str)>,
        end: &str,
        number: Number,
    ) {
        self.begin(out);
        out.push_str(self.name);
        out.push_str(prepared);
        for (name, value) in more {
            push_label(out, name, value);
        }
        out.push_str(if prepared.is_empty() { " " } else { end });
        number.push(out);
        out.push('\n');
    }
}

/// HELP and TYPE lines.
pub fn head(name: &str, kind: &str, help: &str) -> String {
    let mut out = String::new();
    push_head(&mut out, name, kind, help);
    out
}

fn push_head(out: &mut String, name: &str, kind: &str, help: &str) {
    out.push_str("# HELP ");
    out.push_str(name);
    out.push(' ');
    push_escaped(out, help, b"\\\n");
    out.push_str("\n# TYPE ");
    out.push_str(name);
    out.push(' ');
    out.push_str(kind);
    out.push('\n');
}

/// Adds `name="value"`, after a comma unless it is the first.
pub fn push_label(out: &mut String, name: &str, value: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    // Names of jobs and containers come from strangers, and pages are looked at in terminals.
    match value.contains(|character| character != '\n' && acts_on_terminal(character)) {
        true => push_escaped(out, &printable_lines(value), b"\\\"\n"),
        false => push_escaped(out, value, b"\\\"\n"),
    }
    out.push('"');
}

/// Adds a text with a backslash before each of these ASCII characters, a line feed as `\n`. Most texts have none and are one
/// copy.
fn push_escaped(out: &mut String, text: &str, special: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| special.contains(&byte)) {
        out.push_str(&rest[..at]);
        out.push('\\');
        out.push_str(if rest.as_bytes()[at] == b'\n' { "n" } else { &rest[at..=at] });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_and_help_text_is_escaped() {
        let mut out = String::from("{");
        push_label(&mut out, "a", "say \"hi\"\\\n");
        push_label(&mut out, "b", "ü");
        assert_eq!(out, "{a=\"say \\\"hi\\\"\\\\\\n\",b=\"ü\"");
        let mut out = String::from("{");
        push_label(&mut out, "a", "\x1b[2J\u{202e}\u{2028}\r\n");
        assert_eq!(out, "{a=\"\\\\x1b[2J\\\\u{202e}\\\\u{2028}\\\\x0d\\n\"");
        assert_eq!(head("x", "gauge", "a \\ \"b\"\nc"), "# HELP x a \\\\ \"b\"\\nc\n# TYPE x gauge\n");
    }

    #[test]
    fn a_family_begins_once_and_however_it_is_made_it_reads_the_same() {
        let lines = head("x", "gauge", "help");
        let mut texts = [Family::new("x", "gauge", "help"), Family::prepared("x", &lines)].map(|mut family| {
            let mut out = String::new();
            assert!(!family.is_begun());
            family.sample(&mut out, "", [], END, Number::Int(1));
            family.sample(&mut out, "{", [("a", "1"), ("b", "2")], END, Number::Double(0.5));
            family.sample(&mut out, "{a=\"1\"", [], ",b=\"3\"} ", Number::Int(2));
            out
        });
        texts.sort();
        let samples = "x 1\nx{a=\"1\",b=\"2\"} 0.500000\nx{a=\"1\",b=\"3\"} 2\n";
        assert_eq!(texts, [format!("{lines}{samples}"), format!("{lines}{samples}")]);
    }
}
