//! The completion that `--generate` prints, in a real bash, zsh and fish.

use std::path::Path;
use std::process::{Command, Stdio};

use dcgm_exporter::cli::own;

use crate::common::{Scratch, exporter};

/// What a shell offers for a command line that is not finished.
type Offers = fn(&Path, &str) -> String;

const SHELLS: [(&str, Offers); 3] = [("bash", bash), ("zsh", zsh), ("fish", fish)];

fn output_of(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Calls the function as bash does, with the line in its words.
fn bash(directory: &Path, line: &str) -> String {
    const CALL: &str = "source \"$1\"; shift; compopt() { :; }; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                        _dcgm_exporter; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let spaced = line.replace('=', " = ");
    let line = if line.ends_with('=') { spaced.trim_end() } else { &spaced };
    output_of(
        Command::new("bash")
            .args(["--norc", "-c", CALL, "bash"])
            .arg(directory.join("dcgm-exporter"))
            .args(line.split(' ')),
    )
}

fn zsh(directory: &Path, line: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/completion.zsh");
    output_of(Command::new("zsh").arg("-f").arg(script).arg(directory).arg(line).env("TERM", "dumb"))
}

fn fish(directory: &Path, line: &str) -> String {
    let script = format!("source {}/dcgm-exporter.fish; complete -C $argv[1]", directory.display());
    output_of(Command::new("fish").args(["--no-config", "-c", &script, line]).env("HOME", directory))
}

/// Writes the scripts under the names by which the shells find them, and checks their syntax.
fn generate(scratch: &Scratch) -> std::path::PathBuf {
    for (shell, file) in [("bash", "dcgm-exporter"), ("zsh", "_dcgm-exporter"), ("fish", "dcgm-exporter.fish")] {
        let path = scratch.write(file, output_of(exporter().args(["--generate", shell])));
        output_of(Command::new(shell).arg("-n").arg(path));
    }
    scratch.path("")
}

#[test]
#[ignore = "needs zsh and fish: make e2e"]
fn shells_offer_every_flag() {
    let scratch = Scratch::new();
    let directory = generate(&scratch);
    for (shell, offers) in SHELLS {
        let offered = offers(&directory, "dcgm-exporter --");
        let words: Vec<&str> = offered.split_whitespace().collect();
        let table = own::GROUPS.iter().flat_map(|group| group.flags).map(|flag| flag.long);
        for name in table.chain(["help", "version", "generate"]) {
            assert!(words.contains(&format!("--{name}").as_str()), "{shell}: no --{name} in {offered}");
        }
        // A flag's help stands beside it. It has a colon, which zsh would take for the end of it.
        let help = "Format of log lines: text or json";
        assert!(shell == "bash" || offered.contains(help), "{shell}: {offered}");
    }
}

#[test]
#[ignore = "needs zsh and fish: make e2e"]
fn shells_offer_values() {
    let scratch = Scratch::new();
    let directory = generate(&scratch);
    std::fs::create_dir(scratch.path("counters")).unwrap();
    scratch.write("counters.csv", "");
    let prefix = scratch.path("coun").display().to_string();
    let cases = [
        ("--log-format ", &["text", "json"][..], "--debug"),
        ("--log-format=", &["text", "json"], "--debug"),
        ("--status-page g", &["gpus"], "full"),
        ("--debug --help job-l", &["job-labels"], "collectors"),
        ("--generate ", &["man", "bash", "zsh", "fish"], "--debug"),
        ("--collect", &["--collectors", "--collect-interval"], "--debug"),
        (&format!("-f {prefix}"), &["counters.csv", "counters"], "--debug"),
        (&format!("--job-summary-dir {prefix}"), &["counters"], "counters.csv"),
        ("--collect-interval ", &[], "--debug"),
    ];
    for (shell, offers) in SHELLS {
        for (line, wanted, unwanted) in &cases {
            let offered = offers(&directory, &format!("dcgm-exporter {line}"));
            // A shell writes a whole path, only its last part, or --flag=value, and zsh finishes a line that has one end.
            let is_offered = |word: &str| {
                let ends = offered.split_whitespace().map(|end| end.trim_end_matches('/'));
                ends.map(|end| end.rsplit(['/', '=']).next().unwrap_or(end)).any(|end| end == word)
            };
            for word in *wanted {
                assert!(is_offered(word), "{shell}: {line}: no {word} in {offered}");
            }
            assert!(!is_offered(unwanted), "{shell}: {line}: {unwanted} in {offered}");
        }
    }
}
