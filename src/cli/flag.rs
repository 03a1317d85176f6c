//! One flag: how it is typed, what it is for, and how its value becomes a part of [`Config`].
//!
//! The rows are in [`own`](super::own) and [`inherited`](super::inherited). Parsing, `--help`, the man page, the
//! completions and the checks of the documentation all come from them.

use super::{inherited, own, values};
use crate::config::Config;

/// One flag.
pub struct Flag {
    pub long: &'static str,
    pub short: Option<&'static str>,
    /// Environment variable, looked at when the flag is not typed.
    pub variable: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    /// One line for `--help`, without the last full stop.
    pub help: &'static str,
    /// Whole sentences for `--help FLAG` and the man page, after `help`; may be empty.
    pub details: &'static str,
    /// Arguments that use the flag, as in a shell; for `--help FLAG` and the man page.
    pub example: &'static str,
    /// Every value that a flag may have, where they are few.
    pub choices: &'static [&'static str],
    pub effect: Effect,
    /// Puts a value into the configuration.
    pub apply: fn(&mut Config, &str) -> Result<(), Refusal>,
    /// Looks at the value beside all others, once every flag is applied; may add a warning.
    pub check: fn(&mut Config) -> Result<(), Refusal>,
}

pub enum Kind {
    /// `--flag` or `--flag=false`.
    Switch,
    /// Needs a value; the text names it in the help.
    Value(&'static str),
    /// May have a value, after '=' or as the next word; the text names it in the help. `true` without one.
    Optional(&'static str),
    /// Needs a value, and may be given more than once: its values reach `apply` as one text, with commas between them.
    List(&'static str),
}

pub enum Effect {
    Yes,
    /// Accepted so that a command line for dcgm-exporter works; the reason why there is nothing to do.
    None(&'static str),
    /// For Kubernetes: refused when it differs from its default.
    Kubernetes,
}

/// Why a value was not taken.
#[derive(Debug)]
pub enum Refusal {
    /// The value is wrong; this would be right.
    Value(String),
    /// The flag itself cannot be used.
    Flag(String),
}

impl From<String> for Refusal {
    fn from(right: String) -> Refusal {
        Refusal::Value(right)
    }
}

/// What most rows have: a switch, off by default.
pub const FLAG: Flag = Flag {
    long: "",
    short: None,
    variable: "",
    kind: Kind::Switch,
    default: "false",
    help: "",
    details: "",
    example: "",
    choices: &[],
    effect: Effect::Yes,
    apply: |_, value| values::boolean(value).map(drop).map_err(Refusal::Value),
    check: |_| Ok(()),
};

impl Flag {
    /// What a value is called in the help; `None` for a switch.
    pub fn value(&self) -> Option<String> {
        match self.kind {
            Kind::Switch => None,
            Kind::Value(what) | Kind::List(what) => Some(what.to_owned()),
            Kind::Optional(what) => Some(format!("[{what}]")),
        }
    }

    /// The default, where it says more than that the flag is off.
    pub fn shown_default(&self) -> Option<&'static str> {
        (!self.default.is_empty() && self.default != "false").then_some(self.default)
    }

    pub fn is_called(&self, name: &str) -> bool {
        self.long == name || self.short == Some(name)
    }
}

/// Every flag: our own, then those that are inherited without effect.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    own::GROUPS.iter().flat_map(|group| group.flags).chain(inherited::FLAGS)
}

/// What to say of a name that no flag has, typed with these dashes.
pub fn unknown(name: &str, dashes: &str) -> String {
    let best = all()
        .map(|flag| (strsim::jaro_winkler(name, flag.long), flag))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score > 0.8);
    match best {
        Some((_, Flag { long, .. })) => {
            format!("{dashes}{name} is not a flag; did you mean --{long}? (--help lists all)")
        }
        None => format!("{dashes}{name} is not a flag; --help lists all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `--help` has one line for each flag on a terminal of 132 columns, and two at most on one of 80.
    const LONGEST_HELP: usize = 88;

    #[test]
    fn the_table_is_whole() {
        for (index, flag) in all().enumerate() {
            assert!(!flag.long.is_empty() && !flag.variable.is_empty());
            let is_refused = matches!(flag.effect, Effect::Kubernetes);
            assert!(!flag.help.is_empty() || is_refused, "--{} has no help", flag.long);
            assert!(!flag.help.ends_with('.') && flag.help.len() <= LONGEST_HELP, "--{}: {}", flag.long, flag.help);
            assert!(flag.details.is_empty() || flag.details.ends_with(['.', ':']), "--{}", flag.long);
            let mut config = Config::default();
            (flag.apply)(&mut config, flag.default).unwrap_or_else(|_| panic!("--{} refuses its default", flag.long));
            for other in all().skip(index + 1) {
                assert!(!other.is_called(flag.long) && other.variable != flag.variable, "--{}", flag.long);
                assert!(flag.short.is_none_or(|short| !other.is_called(short)), "--{}", other.long);
            }
        }
    }
}
