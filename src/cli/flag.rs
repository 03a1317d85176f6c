//! One flag: how it is typed, what it is for, and how its value becomes a part of [`Config`].
//!
//! The rows are in [`own`](super::own) and [`inherited`](super::inherited). Parsing, `--help`, the man page, the
//! completions and the checks of the documentation all come from them.

use super::{inherited, own, values};
use crate::config::Config;
use crate::system::printable::cut;

/// One flag.
pub struct Flag {
    pub long: &'static str,
    pub short: Option<&'static str>,
    /// Environment variable, looked at when the flag is not typed. Empty for what is typed only: a service that finds
    /// `--once` in its environment would not serve.
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

/// No slip is longer, and comparing takes the square of the length.
const LONGEST: usize = 64;

/// Names that other exporters have, and our flags for the same.
const OF_OTHERS: [(&str, &str); 10] = [
    ("web.listen-address", "address"),
    ("web.config.file", "web-config-file"),
    ("listen-address", "address"),
    ("listen", "address"),
    ("port", "address"),
    ("host", "address"),
    ("config", "config-file"),
    ("counters", "collectors"),
    ("log-level", "debug"),
    ("log.level", "debug"),
];

/// The flag that is meant by a name that no flag has: what others call it, one that is written almost so, or the only one
/// that has it as a part.
fn nearest(name: &str) -> Option<&'static Flag> {
    if name.len() > LONGEST {
        return None;
    }
    let called = |name: &str| all().find(|flag| flag.long == name);
    let of_others = OF_OTHERS.iter().find(|(other, _)| *other == name).and_then(|(_, long)| called(long));
    let almost = || {
        let scored = all().map(|flag| (strsim::jaro_winkler(name, flag.long), flag));
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.8).map(|(_, flag)| flag)
    };
    let part = || {
        let mut with_it = all().filter(|flag| matches!(flag.effect, Effect::Yes) && flag.long.contains(name));
        with_it.next().filter(|_| name.len() > 3)
    };
    of_others.or_else(almost).or_else(part)
}

/// What to say of a name that no flag has, typed with these dashes.
pub fn unknown(name: &str, dashes: &str) -> String {
    let best = nearest(name);
    let name = cut(name);
    match best {
        Some(Flag { long, .. }) => {
            format!("{dashes}{name} is not a flag; did you mean --{long}? (--help lists all)")
        }
        None => format!("{dashes}{name} is not a flag; --help lists all"),
    }
}

/// What to say of variables that look like ours and are not read, in the order of their names.
pub fn unknown_variables<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    /// Of the prolog and the epilog, whose environment may be the same file, and of our tests.
    const SCRIPTS: [&str; 5] = [
        "DCGM_JOB_MAP_",
        "DCGM_JOB_SUMMARY_",
        "DCGM_SIMULATOR_",
        "DCGM_EXPORTER_TEST_",
        "DCGM_EXPORTER_ENVIRONMENT_FILE",
    ];
    const MOST: usize = 20;
    let is_read = |name: &str| all().any(|flag| flag.variable == name);
    let alike = |name: &str| {
        let name = if name.len() > LONGEST { "" } else { name };
        let scored = all().map(|flag| (strsim::jaro_winkler(name, flag.variable), flag));
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.95).map(|(_, flag)| flag)
    };
    let mut said: Vec<String> = names
        .filter(|name| name.starts_with("DCGM_") && !is_read(name) && !SCRIPTS.iter().any(|of| name.starts_with(of)))
        .filter_map(|name| {
            let of_flag = name.strip_prefix("DCGM_EXPORTER_").map(|rest| rest.to_ascii_lowercase().replace('_', "-"));
            let typed = of_flag.as_deref().and_then(|long| all().find(|flag| flag.long == long));
            let meant = typed.or_else(|| alike(name)).or_else(|| nearest(of_flag.as_deref()?));
            let shown = cut(name);
            match meant {
                Some(flag) if flag.variable.is_empty() => {
                    Some(format!("variable {shown} is not read: --{} is for the command line alone", flag.long))
                }
                Some(flag) => Some(format!("variable {shown} is not read; did you mean {}?", flag.variable)),
                None if of_flag.is_some() => {
                    Some(format!("variable {shown} is not read; --help FLAG names the variable of a flag"))
                }
                None => None,
            }
        })
        .collect();
    said.sort();
    said.truncate(MOST);
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `--help` has one line for each flag on a terminal of 132 columns, and two at most on one of 80.
    const LONGEST_HELP: usize = 88;

    #[test]
    fn the_table_is_whole() {
        for (index, flag) in all().enumerate() {
            assert!(!flag.long.is_empty());
            let is_refused = matches!(flag.effect, Effect::Kubernetes);
            assert!(!flag.help.is_empty() || is_refused, "--{} has no help", flag.long);
            assert!(!flag.help.ends_with('.') && flag.help.len() <= LONGEST_HELP, "--{}: {}", flag.long, flag.help);
            assert!(flag.details.is_empty() || flag.details.ends_with(['.', ':']), "--{}", flag.long);
            let mut config = Config::default();
            (flag.apply)(&mut config, flag.default).unwrap_or_else(|_| panic!("--{} refuses its default", flag.long));
            for other in all().skip(index + 1) {
                let has_same = !flag.variable.is_empty() && other.variable == flag.variable;
                assert!(!other.is_called(flag.long) && !has_same, "--{}", flag.long);
                assert!(flag.short.is_none_or(|short| !other.is_called(short)), "--{}", other.long);
            }
        }
    }
    #[test]
    fn variables_that_nobody_reads_are_named_with_the_right_one() {
        let said = |name: &str| unknown_variables([name].into_iter()).pop().unwrap_or_default();
        for (name, part) in [
            ("DCGM_EXPORTER_COLLECT_INTERVAL", "did you mean DCGM_EXPORTER_INTERVAL?"),
            ("DCGM_EXPORTER_PORT", "did you mean DCGM_EXPORTER_LISTEN?"),
            ("DCGM_EXPORTER_INTERVALL", "did you mean DCGM_EXPORTER_INTERVAL?"),
            ("DCGM_EXPORTER_ADDRESS", "did you mean DCGM_EXPORTER_LISTEN?"),
            ("DCGM_REMOTE_HOSTENGINE", "did you mean DCGM_REMOTE_HOSTENGINE_INFO?"),
            ("DCGM_HPC_JOB_MAPING_DIR", "did you mean DCGM_HPC_JOB_MAPPING_DIR?"),
            ("DCGM_EXPORTER_ONCE", "--once is for the command line alone"),
            ("DCGM_EXPORTER_QQQQ", "--help FLAG names the variable"),
        ] {
            assert!(said(name).contains(name) && said(name).contains(part), "{name}: {}", said(name));
        }
        let read = all().map(|flag| flag.variable).filter(|name| !name.is_empty());
        let others = ["DCGM_JOB_MAP_GRES", "DCGM_HOME", "PATH", "__DCGM_FATAL_XIDS__", "DCGM_JOB_SUMMARY_TO"];
        assert_eq!(unknown_variables(read.chain(others)), Vec::<String>::new());
    }

    #[test]
    fn names_of_other_exporters_lead_to_ours() {
        for (name, long) in [
            ("web.listen-address", "address"),
            ("port", "address"),
            ("interval", "collect-interval"),
            ("colectors", "collectors"),
        ] {
            assert!(unknown(name, "--").contains(&format!("did you mean --{long}?")), "{}", unknown(name, "--"));
        }
        let long = unknown(&"x".repeat(1 << 20), "--");
        assert!(long.len() < 300, "{} bytes", long.len());
    }
}
