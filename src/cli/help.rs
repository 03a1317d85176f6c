//! The texts of `--help`, `--help FLAG` and `--help inherited`.

use std::fmt::Write;

use super::flag::{self, Effect, Flag};
use super::{inherited, own};

/// Where the text beside a flag begins.
const COLUMN: usize = 38;

/// Widths at which a text can be read. What is no terminal has the first one.
const NARROWEST: usize = 80;
const WIDEST: usize = 132;

/// Columns of the terminal that standard output is.
pub fn width() -> usize {
    let columns = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    columns.clamp(NARROWEST, WIDEST)
}

/// `--help`: the flags that have an effect, a line for each.
pub fn help(width: usize) -> String {
    let mut text = String::from(
        "dcgm-exporter: metrics of NVIDIA datacenter GPUs for Prometheus\n\nUsage: dcgm-exporter [FLAGS]\n\n",
    );
    wrap(
        &mut text,
        "",
        width,
        "Flags take one or two dashes. Give the value as the next word or after '='. Each flag has an environment \
         variable, which is used where the flag is not given; --help FLAG names it. Those that print and exit have none.",
    );
    for group in own::GROUPS {
        let _ = write!(text, "\n{}:\n", group.title);
        for flag in group.flags {
            let help = match flag.shown_default() {
                Some(default) => format!("{} (default {default})", flag.help),
                None => flag.help.to_owned(),
            };
            beside(&mut text, &head(flag), &help, width);
        }
    }
    text.push_str("\nAlso:\n");
    for (flag, what) in [
        ("  -h, --help", "Print this"),
        ("      --help FLAG", "Print a flag's help in full, with its variable and an example"),
        ("      --help inherited", "Print the flags of NVIDIA's dcgm-exporter that have no effect here or are refused"),
        ("  -v, --version", "Print the version"),
        ("      --generate man|bash|zsh|fish", "Print the man page, or completion for a shell"),
    ] {
        beside(&mut text, flag, what, width);
    }
    text
}

/// `--help FLAG`: everything about it.
///
/// Errors: no flag has this name.
pub fn of_flag(name: &str, width: usize) -> Result<String, String> {
    let flag = flag::all().find(|flag| flag.is_called(name)).ok_or_else(|| flag::unknown(name, "--"))?;
    let mut text = head(flag).trim_start().to_owned();
    text.push_str("\n\n");
    match flag.effect {
        Effect::Yes => wrap(&mut text, "  ", width, &sentence(flag.help)),
        Effect::None(why) => wrap(&mut text, "  ", width, &format!("Accepted without effect: {}", sentence(why))),
        Effect::Kubernetes => wrap(&mut text, "  ", width, "For Kubernetes: refused when it is not at its default."),
    }
    if !flag.details.is_empty() {
        wrap(&mut text, "  ", width, flag.details);
    }
    text.push('\n');
    if !flag.variable.is_empty() {
        let _ = writeln!(text, "  Variable: {}", flag.variable);
    }
    if let Some(default) = flag.shown_default() {
        let _ = writeln!(text, "  Default:  {default}");
    }
    if !flag.example.is_empty() {
        let _ = writeln!(text, "  Example:  dcgm-exporter {}", flag.example);
    }
    Ok(text)
}

/// `--help inherited`: the flags of dcgm-exporter that have no effect, with why.
pub fn help_inherited(width: usize) -> String {
    let mut text = String::from("Accepted without effect, so that command lines for NVIDIA's dcgm-exporter work:\n");
    for flag in inherited::FLAGS {
        if let Effect::None(why) = flag.effect {
            in_full(&mut text, flag, why, width);
        }
    }
    text.push_str("\nRefused when switched on, because they are for Kubernetes:\n");
    for flag in inherited::FLAGS.iter().filter(|flag| matches!(flag.effect, Effect::Kubernetes)) {
        in_full(&mut text, flag, "", width);
    }
    text
}

/// A flag with its variable, and a paragraph below it.
fn in_full(text: &mut String, flag: &Flag, paragraph: &str, width: usize) {
    let _ = writeln!(text, "{}  [{}]", head(flag), flag.variable);
    if !paragraph.is_empty() {
        wrap(text, "        ", width, paragraph);
    }
}

/// `  -c, --collect-interval TIME`
fn head(flag: &Flag) -> String {
    let mut head = match flag.short {
        Some(short) => format!("  -{short}, --{}", flag.long),
        None => format!("      --{}", flag.long),
    };
    if let Some(value) = flag.value() {
        let _ = write!(head, " {value}");
    }
    head
}

/// A text with a full stop.
fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

/// A text in the column beside a flag, and below the flag where that is too long.
fn beside(text: &mut String, head: &str, what: &str, width: usize) {
    let mut paragraph = String::new();
    wrap(&mut paragraph, &" ".repeat(COLUMN), width, what);
    text.push_str(head);
    if head.len() + 2 > COLUMN {
        text.push('\n');
        text.push_str(&paragraph);
    } else {
        text.push_str(&paragraph[head.len()..]);
    }
}

/// Breaks a paragraph into indented lines.
fn wrap(text: &mut String, indent: &str, width: usize, paragraph: &str) {
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        if column > 0 && column + 1 + word.len() > width {
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
    fn every_flag_and_variable_is_named() {
        let (own_help, inherited_help) = (help(80), help_inherited(80));
        for flag in flag::all() {
            let help = if matches!(flag.effect, Effect::Yes) { &own_help } else { &inherited_help };
            assert!(help.contains(&format!("--{}", flag.long)), "--{}", flag.long);
            let full = of_flag(flag.long, 80).unwrap();
            assert!(full.contains(flag.variable) && full.starts_with(head(flag).trim_start()), "{full}");
            assert!(matches!(flag.effect, Effect::Yes) || inherited_help.contains(flag.variable), "{}", flag.variable);
        }
        assert_eq!(of_flag("c", 80).unwrap(), of_flag("collect-interval", 80).unwrap());
        assert!(of_flag("colect-interval", 80).unwrap_err().contains("--collect-interval"));
    }

    #[test]
    fn lines_fit_the_terminal() {
        for width in [80, 100, 132] {
            let full: String = flag::all().map(|flag| of_flag(flag.long, width).unwrap()).collect();
            let heads = |line: &&str| !line.contains("[DCGM_") && !line.contains("  Example:");
            for line in help(width).lines().chain(help_inherited(width).lines()).chain(full.lines()).filter(heads) {
                assert!(line.len() <= width, "{width}: {line}");
            }
        }
    }

    /// Where the terminal is wide enough, each flag has one line but for those with a long name.
    #[test]
    fn a_flag_takes_a_line() {
        let text = help(WIDEST);
        for flag in own::GROUPS.iter().flat_map(|group| group.flags) {
            let at = text.find(&head(flag)).unwrap();
            let mut lines = text[at..].lines();
            let first = lines.next().unwrap();
            let is_whole = |line: &str| line.contains(flag.help);
            assert!(is_whole(first) || is_whole(lines.next().unwrap()), "{first}");
        }
    }
}
