//! The texts of `--help` and `--help-inherited`.

use super::flag::{Effect, Flag, Kind};
use super::{inherited, own};

/// Columns of a terminal that is not set wider.
const WIDTH: usize = 80;
const INDENT: &str = "        ";

/// `--help`: the flags that have an effect.
pub fn help() -> String {
    let mut text = String::from(
        "dcgm-exporter: metrics of NVIDIA datacenter GPUs for Prometheus\n\nUsage: dcgm-exporter [FLAGS]\n\n",
    );
    wrap(
        &mut text,
        "",
        "Flags take one or two dashes. Give the value as the next word or after '='. Where a flag is not given, the \
         environment variable in brackets counts.",
    );
    for group in own::GROUPS {
        text.push_str(&format!("\n{}:\n", group.title));
        for flag in group.flags {
            head(&mut text, flag);
            wrap(&mut text, INDENT, flag.help);
        }
    }
    text.push_str("\nAlso:\n");
    for (flag, what) in [
        ("--help, -h", "Print this"),
        ("--help-inherited", "Print the flags of NVIDIA's dcgm-exporter that have no effect here or are refused"),
        ("--version, -v", "Print the version"),
        ("--generate man|bash", "Print the man page, or completion for bash"),
    ] {
        text.push_str(&format!("  {flag}\n"));
        wrap(&mut text, INDENT, what);
    }
    text
}

/// `--help-inherited`: the flags of dcgm-exporter that have no effect, with why.
pub fn help_inherited() -> String {
    let mut text = String::from("Accepted without effect, so that command lines for dcgm-exporter work:\n");
    for flag in inherited::FLAGS {
        if let Effect::None(why) = flag.effect {
            head(&mut text, flag);
            wrap(&mut text, INDENT, why);
        }
    }
    text.push_str("\nRefused when given:\n");
    for flag in inherited::FLAGS {
        if let Effect::Refused(why) = flag.effect {
            head(&mut text, flag);
            wrap(&mut text, INDENT, why);
        }
    }
    text.push_str("\nRefused when switched on, because they are for Kubernetes:\n");
    for flag in inherited::FLAGS.iter().filter(|flag| matches!(flag.effect, Effect::Kubernetes)) {
        head(&mut text, flag);
    }
    text
}

/// `  --collect-interval, -c TIME  [DCGM_EXPORTER_INTERVAL] (default 30000)`
fn head(text: &mut String, flag: &Flag) {
    text.push_str(&format!("  --{}", flag.long));
    if let Some(short) = flag.short {
        text.push_str(&format!(", -{short}"));
    }
    if let Kind::Value(what) | Kind::List(what) = flag.kind {
        text.push_str(&format!(" {what}"));
    }
    if let Kind::Optional(what) = flag.kind {
        text.push_str(&format!(" [{what}]"));
    }
    text.push_str(&format!("  [{}]", flag.variable));
    if !flag.default.is_empty() && flag.default != "false" {
        text.push_str(&format!(" (default {})", flag.default));
    }
    text.push('\n');
}

/// Breaks a paragraph into indented lines.
fn wrap(text: &mut String, indent: &str, paragraph: &str) {
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        if column > 0 && column + 1 + word.len() > WIDTH {
            text.push('\n');
            column = 0;
        }
        text.push_str(if column == 0 { indent } else { " " });
        text.push_str(word);
        column += word.len() + if column == 0 { indent.len() } else { 1 };
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_flag_and_variable() {
        let (own_help, inherited_help) = (help(), help_inherited());
        for flag in super::super::flag::all() {
            let help = if matches!(flag.effect, Effect::Yes) { &own_help } else { &inherited_help };
            assert!(help.contains(&format!("--{}", flag.long)), "--{}", flag.long);
            assert!(help.contains(flag.variable), "{}", flag.variable);
        }
    }

    #[test]
    fn paragraphs_fit_a_terminal() {
        let is_text = |line: &&str| line.starts_with(INDENT) || !line.starts_with(' ');
        for line in help().lines().chain(help_inherited().lines()).filter(is_text) {
            assert!(line.len() <= WIDTH, "{line}");
        }
        let mut text = String::new();
        wrap(&mut text, "  ", &"word ".repeat(40));
        assert!(text.lines().count() == 3 && text.lines().all(|line| line.starts_with("  word word")), "{text}");
    }
}
