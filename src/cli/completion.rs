//! Completion for bash, zsh and fish, from the table of flags.

use std::fmt::Write;

use super::flag::{Flag, Kind};
use super::own;

/// Flags that are not in the table: name, help.
const ALSO: [(&str, &str); 2] = [("help", "Print help, all or of a flag"), ("version", "Print the version")];

/// What the value of a flag is, for the shells.
enum ValueOf {
    Nothing,
    File,
    Directory,
    OneOf(&'static [&'static str]),
    Anything,
}

fn flags() -> impl Iterator<Item = &'static Flag> {
    own::GROUPS.iter().flat_map(|group| group.flags)
}

fn value_of(flag: &Flag) -> ValueOf {
    match flag.kind {
        Kind::Switch | Kind::Optional(_) => ValueOf::Nothing,
        _ if !flag.choices.is_empty() => ValueOf::OneOf(flag.choices),
        Kind::Value("FILE" | "PATH") => ValueOf::File,
        Kind::Value("DIR") => ValueOf::Directory,
        Kind::Value(_) | Kind::List(_) => ValueOf::Anything,
    }
}

/// `--collectors|-f`, as a pattern of the shell.
fn pattern(flag: &Flag) -> String {
    match flag.short {
        Some(short) => format!("--{}|-{short}", flag.long),
        None => format!("--{}", flag.long),
    }
}

/// The script that bash reads.
pub fn bash() -> String {
    let mut names: Vec<String> = flags().map(|flag| format!("--{}", flag.long)).collect();
    let bare: Vec<&str> = flags().map(|flag| flag.long).collect();
    let mut script = String::from(
        "# bash completion of dcgm-exporter\n_dcgm_exporter() {\n    local word=${COMP_WORDS[COMP_CWORD]} \
         before=${COMP_WORDS[COMP_CWORD-1]}\n    case $before in\n",
    );
    let _ = writeln!(
        script,
        "        --help|-h) mapfile -t COMPREPLY < <(compgen -W 'inherited {}' -- \"$word\") ;;",
        bare.join(" ")
    );
    for flag in flags() {
        let words = match value_of(flag) {
            ValueOf::File => "-f".to_owned(),
            ValueOf::Directory => "-d".to_owned(),
            ValueOf::OneOf(choices) => format!("-W '{}'", choices.join(" ")),
            ValueOf::Nothing => continue,
            ValueOf::Anything => {
                let _ = writeln!(script, "        {}) COMPREPLY=() ;;", pattern(flag));
                continue;
            }
        };
        let _ =
            writeln!(script, "        {}) mapfile -t COMPREPLY < <(compgen {words} -- \"$word\") ;;", pattern(flag));
    }
    names.extend(ALSO.iter().map(|(name, _)| format!("--{name}")));
    let _ = write!(
        script,
        "        *) mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$word\") ;;\n    esac\n}}\ncomplete -F _dcgm_exporter \
         dcgm-exporter\n",
        names.join(" ")
    );
    script
}

/// The script that zsh reads, from a file `_dcgm-exporter` in its `fpath`.
pub fn zsh() -> String {
    // In a description ' ends the word, and [, ] and : have a meaning.
    let text = |text: &str| {
        text.replace('\\', "\\\\").replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:")
    };
    let mut script = String::from("#compdef dcgm-exporter\n_arguments -s \\\n");
    for flag in flags() {
        let action = match value_of(flag) {
            ValueOf::Nothing => String::new(),
            ValueOf::File => ":file:_files".to_owned(),
            ValueOf::Directory => ":directory:_files -/".to_owned(),
            ValueOf::OneOf(choices) => format!(":value:({})", choices.join(" ")),
            ValueOf::Anything => format!(":{}: ", flag.value().unwrap_or_default().to_lowercase()),
        };
        let help = text(flag.help);
        let list = if matches!(flag.kind, Kind::List(_)) { "*" } else { "" };
        let equals = if action.is_empty() { "" } else { "=" };
        let _ = writeln!(script, "    '{list}--{}{equals}[{help}]{action}' \\", flag.long);
        if let Some(short) = flag.short {
            let _ = writeln!(script, "    '{list}-{short}[{help}]{action}' \\");
        }
    }
    let names: Vec<&str> = flags().map(|flag| flag.long).collect();
    let _ = writeln!(script, "    '(- *)'{{-h,--help}}'[{}]::flag:(inherited {})' \\", ALSO[0].1, names.join(" "));
    let _ = writeln!(script, "    '(- *)'{{-v,--version}}'[{}]'", ALSO[1].1);
    script
}

/// The script that fish reads.
pub fn fish() -> String {
    let text = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut script = String::from("# fish completion of dcgm-exporter\ncomplete -c dcgm-exporter -f\n");
    for flag in flags() {
        let _ = write!(script, "complete -c dcgm-exporter -l {}", flag.long);
        match flag.short {
            Some(short) if short.len() == 1 => drop(write!(script, " -s {short}")),
            Some(short) => drop(write!(script, " -o {short}")),
            None => {}
        }
        match value_of(flag) {
            ValueOf::Nothing => {}
            ValueOf::File => script.push_str(" -r -F"),
            ValueOf::Directory => script.push_str(" -x -a '(__fish_complete_directories)'"),
            ValueOf::OneOf(choices) => drop(write!(script, " -x -a '{}'", choices.join(" "))),
            ValueOf::Anything => script.push_str(" -x"),
        }
        let _ = writeln!(script, " -d '{}'", text(flag.help));
    }
    let names: Vec<&str> = flags().map(|flag| flag.long).collect();
    let _ = writeln!(
        script,
        "complete -c dcgm-exporter -l help -s h -a 'inherited {}' -d '{}'",
        names.join(" "),
        ALSO[0].1
    );
    let _ = writeln!(script, "complete -c dcgm-exporter -l version -s v -d '{}'", ALSO[1].1);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_completed() {
        let (bash, zsh, fish) = (bash(), zsh(), fish());
        for flag in flags() {
            assert!(bash.contains(&format!("--{}", flag.long)), "{}", flag.long);
            assert!(zsh.contains(&format!("--{}", flag.long)), "{}", flag.long);
            assert!(fish.contains(&format!(" -l {} ", flag.long)), "{}", flag.long);
        }
        // A flag whose value can be nothing else gets that.
        assert!(bash.contains("--log-format) mapfile -t COMPREPLY < <(compgen -W 'text json'"), "{bash}");
        assert!(zsh.contains("'--log-format=[Format of log lines\\: text or json]:value:(text json)'"), "{zsh}");
        assert!(fish.contains("-l log-format -x -a 'text json'"), "{fish}");
    }

    #[test]
    fn quotes_are_whole() {
        for script in [bash(), zsh(), fish()] {
            let plain = script.replace("'\\''", "").replace("\\'", "");
            for line in plain.lines() {
                assert_eq!(line.matches('\'').count() % 2, 0, "{line}");
            }
        }
    }
}
