//! The man page and the shell completion, from the same table as `--help`.

use std::fmt::Write;

use super::flags::{Effect, FLAGS, Kind};

/// `man` or `bash`. Errors: what can be generated.
pub fn generate(what: &str) -> Result<String, String> {
    match what {
        "man" => Ok(man()),
        "bash" => Ok(bash()),
        _ => Err(format!("--generate: '{what}' is not known; expected man or bash")),
    }
}

fn man() -> String {
    let mut page = format!(
        ".TH DCGM-EXPORTER 1 \"\" \"dcgm-exporter {}\"\n.SH NAME\ndcgm\\-exporter \\- NVIDIA datacenter GPUs as Prometheus \
         metrics\n.SH SYNOPSIS\n.B dcgm\\-exporter\n[\\fIFLAGS\\fR]\n.SH DESCRIPTION\nPolls NVIDIA DCGM, embedded or in a \
         running host engine, and serves its fields as Prometheus metrics on /metrics. What can be asked of it in a \
         word: /health.\n.SH FLAGS\nOne or two dashes; a value follows or stands behind an equals sign. A flag that is \
         not given takes its environment variable.\n",
        env!("CARGO_PKG_VERSION")
    );
    for flag in FLAGS.iter().filter(|flag| matches!(flag.effect, Effect::Yes)) {
        let _ = write!(page, ".TP\n\\fB\\-\\-{}\\fR", escaped(flag.long));
        if let Some(short) = flag.short {
            let _ = write!(page, ", \\fB\\-{short}\\fR");
        }
        if let Kind::Value(what) | Kind::List(what) = flag.kind {
            let _ = write!(page, " \\fI{}\\fR", escaped(what));
        }
        let _ = write!(page, "\n{} Variable: {}.", sentence(flag.help), flag.variable);
        if !flag.default.is_empty() && flag.default != "false" {
            let _ = write!(page, " Default: {}.", escaped(flag.default));
        }
        page.push('\n');
    }
    page.push_str(
        ".SH SIGNALS\n.TP\nSIGHUP\nReads the counters file again.\n.TP\nSIGUSR1\nLets the GPUs go, for a reset or a driver \
         reload.\n.TP\nSIGUSR2\nTakes them up again.\n.TP\nSIGTERM, SIGINT, SIGQUIT\nReleases everything and ends.\n.SH EXIT \
         STATUS\n0 after a signal to end, 1 for anything that kept it from starting or ending well. Of \\-\\-check: 0 if \
         all is well, 1 after a warning, 2 if something fails.\n.SH FILES\n.TP\n\
         /etc/dcgm\\-exporter/default\\-counters.csv\nWhich fields to export: name, type, help.\n.TP\n\
         /etc/dcgm\\-exporter/environment\nVariables of the service, of the prolog and of the epilog.\n",
    );
    page
}

fn sentence(help: &str) -> String {
    format!("{}.", escaped(help))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('-', "\\-")
}

fn bash() -> String {
    let shown = || FLAGS.iter().filter(|flag| matches!(flag.effect, Effect::Yes));
    let names: Vec<String> = shown().map(|flag| format!("--{}", flag.long)).collect();
    let of_files: Vec<String> = shown()
        .filter(|flag| matches!(flag.kind, Kind::Value("FILE" | "PATH" | "DIR")))
        .map(|flag| format!("--{}", flag.long))
        .collect();
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
    fn every_flag_is_documented() {
        let (man, bash) = (man(), bash());
        for flag in FLAGS.iter().filter(|flag| matches!(flag.effect, Effect::Yes)) {
            assert!(man.contains(&escaped(flag.long)) && man.contains(flag.variable), "{}", flag.long);
            assert!(bash.contains(&format!("--{}", flag.long)), "{}", flag.long);
        }
        assert!(generate("zsh").unwrap_err().contains("man or bash"));
    }
}
