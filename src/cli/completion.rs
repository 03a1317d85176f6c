//! Completion for bash, from the table of flags.

use super::flag::{Flag, Kind};
use super::own;

/// The script that bash reads.
pub fn bash() -> String {
    let flags = || own::GROUPS.iter().flat_map(|group| group.flags);
    let name = |flag: &Flag| format!("--{}", flag.long);
    let names: Vec<String> = flags().map(name).collect();
    let is_file = |flag: &&Flag| matches!(flag.kind, Kind::Value("FILE" | "PATH" | "DIR"));
    let of_files: Vec<String> = flags().filter(is_file).map(name).collect();
    format!(
        "# bash completion of dcgm-exporter\n_dcgm_exporter() {{\n    local word=${{COMP_WORDS[COMP_CWORD]}} \
         before=${{COMP_WORDS[COMP_CWORD-1]}}\n    case $before in\n        {}|-f) mapfile -t COMPREPLY < <(compgen -f -- \
         \"$word\") ;;\n        *) mapfile -t COMPREPLY < <(compgen -W '{} --help --version' -- \"$word\") ;;\n    esac\n}}\n\
         complete -F _dcgm_exporter dcgm-exporter\n",
        of_files.join("|"),
        names.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_completed() {
        let script = bash();
        for flag in own::GROUPS.iter().flat_map(|group| group.flags) {
            assert!(script.contains(&format!("--{}", flag.long)), "{}", flag.long);
        }
    }
}
