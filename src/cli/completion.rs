//! Completion for bash, zsh and fish, from the table of flags.

use std::fmt::Write;

use super::flag::{Flag, Kind};
use super::own;

/// Flags that are not in the table.
const HELP: &str = "Print help, all or of a flag";
const VERSION: &str = "Print the version";
const GENERATE: &str = "Print the man page, or completion for a shell";

/// What `--generate` can print.
pub const GENERATED: [&str; 4] = ["man", "bash", "zsh", "fish"];

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

/// What may follow `--help`.
fn topics() -> String {
    let names: Vec<&str> = flags().map(|flag| flag.long).collect();
    format!("inherited {}", names.join(" "))
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
    // Bash makes `--flag=value` three words.
    let mut script = String::from(
        "# bash completion of dcgm-exporter\n_dcgm_exporter() {\n    local word=${COMP_WORDS[COMP_CWORD]} \
         before=${COMP_WORDS[COMP_CWORD-1]}\n    if [[ $word == = ]]; then\n        word=''\n    elif [[ $before == = ]]; \
         then\n        before=${COMP_WORDS[COMP_CWORD-2]}\n    fi\n    case $before in\n",
    );
    let complete = |pattern: &str, how: &str| {
        format!("        {pattern}) mapfile -t COMPREPLY < <(compgen {how} -- \"$word\") ;;\n")
    };
    script.push_str(&complete("--help|-h", &format!("-W '{}'", topics())));
    script.push_str(&complete("--generate", &format!("-W '{}'", GENERATED.join(" "))));
    for flag in flags() {
        let pattern = pattern(flag);
        match value_of(flag) {
            ValueOf::Nothing => {}
            // With this option bash puts a slash, and no blank, after a directory.
            ValueOf::File => script.push_str(&complete(&pattern, "-f").replacen(") ", ") compopt -o filenames; ", 1)),
            ValueOf::Directory => {
                script.push_str(&complete(&pattern, "-d").replacen(") ", ") compopt -o filenames; ", 1));
            }
            ValueOf::OneOf(choices) => script.push_str(&complete(&pattern, &format!("-W '{}'", choices.join(" ")))),
            ValueOf::Anything => drop(writeln!(script, "        {pattern}) COMPREPLY=() ;;")),
        }
    }
    let mut names: Vec<String> = flags().map(|flag| format!("--{}", flag.long)).collect();
    names.extend(["--help", "--version", "--generate"].map(str::to_owned));
    script.push_str(&complete("*", &format!("-W '{}'", names.join(" "))));
    script.push_str("    esac\n}\ncomplete -F _dcgm_exporter dcgm-exporter\n");
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
    let _ = writeln!(script, "    '(- *)'{{-h,--help}}'[{HELP}]::flag:({})' \\", topics());
    let _ = writeln!(script, "    '(- *)--generate=[{GENERATE}]:what:({})' \\", GENERATED.join(" "));
    let _ = writeln!(script, "    '(- *)'{{-v,--version}}'[{VERSION}]'");
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
    let _ = writeln!(script, "complete -c dcgm-exporter -l help -s h -x -a '{}' -d '{HELP}'", topics());
    let _ = writeln!(script, "complete -c dcgm-exporter -l generate -x -a '{}' -d '{GENERATE}'", GENERATED.join(" "));
    let _ = writeln!(script, "complete -c dcgm-exporter -l version -s v -d '{VERSION}'");
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
