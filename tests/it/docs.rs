//! README, guides and help against what is there: links, flags, variables, metrics, files and make targets exist, and each
//! command block is run by somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use dcgm_exporter::cli::{flag, help, man};
use dcgm_exporter::dcgm::fields;
use dcgm_exporter::metrics::sources;

use crate::common::*;
use crate::markdown::{Block, all_blocks, blocks, files, root};

/// Languages of blocks that are no commands of a shell. `cmsh` are commands of Base Command Manager, of which the guide says
/// that they were not run.
const NOT_SHELL: [&str; 6] = ["yaml", "promql", "text", "ini", "json", "cmsh"];

/// Kinds of `sh` blocks, and where they are run.
const RUN_BY: [(&str, &str); 9] = [
    ("run", "tests/it/docs.rs"),
    ("install", "tests/image/readme.rs"),
    ("node", "tests/image/readme.rs"),
    ("missing", "tests/image/readme.rs"),
    ("move", "tests/image/readme.rs"),
    ("back", "tests/image/readme.rs"),
    ("head", "tests/image/main.rs"),
    ("node", "tests/image/main.rs"),
    ("undo", "tests/image/main.rs"),
];

/// Flags of other programs that the guides use.
const OF_OTHERS: [&str; 16] = [
    "agent",
    "all",
    "create",
    "data-binary",
    "enable-feature",
    "fail",
    "force-confold",
    "ignore-missing",
    "no-pager",
    "now",
    "seconds",
    "signal",
    "silent",
    "system",
    "test",
    "wait",
];

/// Files that an administrator makes in `/etc/dcgm-exporter`.
const OF_SITES: [&str; 3] = ["config.yaml", "web.yml", "mine.csv"];

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every place where one of these words begins in a text, with the characters that belong to it.
fn words<'a>(text: &'a str, start: &str, belongs: fn(char) -> bool) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(start) {
        let is_inside = text[..at].chars().next_back().is_some_and(|before| belongs(before) || before == '-');
        let word: &str = text[at..].split(|c| !belongs(c)).next().unwrap();
        if !is_inside {
            found.push((word, &text[at + word.len()..]));
        }
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What stands in `code` in a file, blocks left out.
fn spans(text: &str) -> Vec<String> {
    let mut prose = String::new();
    let mut is_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

/// Files with one of these endings, or with any but that of Markdown, by their path.
fn files_in(places: &[&str], endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<_> = places.iter().map(|name| root().join(name)).collect();
    while let Some(path) = open.pop() {
        let ending = path.extension().unwrap_or_default().to_str().unwrap();
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if endings.contains(&ending) || (endings.is_empty() && ending != "md") {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            found.push((path.strip_prefix(root()).unwrap().display().to_string(), text));
        }
    }
    found
}

/// Every line of source, scripts and tests, to look names up in.
fn sources_of(directories: &[&str]) -> String {
    files_in(directories, &[]).into_iter().map(|(_, text)| text + "\n").collect()
}

fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(is_name);
        let after = text[at + word.len()..].chars().next().is_some_and(is_name);
        !before && !after
    })
}

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_readme_is_in_the_order_in_which_it_is_needed() {
    let text = read("README.md");
    let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(
        headings,
        [
            "Install",
            "Scrape it",
            "Check it",
            "Settings",
            "Slurm jobs",
            "When something breaks",
            "Moving from NVIDIA's exporter",
            "Tested DCGM versions",
            "Security",
            "Building and testing",
            "Figures"
        ]
    );
    // A screen is some 50 lines.
    let before = text.lines().position(|line| line == "## Settings").unwrap();
    assert!(before <= 150, "{before} lines before Settings");
}

/// Each row of the README's table of settings: a flag stands in one row, beside its own variable.
#[test]
fn the_readme_has_each_setting_once_with_its_variable() {
    let text = read("README.md");
    let settings = text.split("## Settings").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = settings.lines().filter(|line| line.starts_with("| `-")).map(|line| line.split(" | ").collect());
    let rows: Vec<Vec<&str>> = rows.collect();
    assert!(rows.len() > 20, "{rows:?}");
    let mut seen = BTreeSet::new();
    for row in rows {
        let named: Vec<&flag::Flag> = spans(row[0])
            .iter()
            .map(|span| {
                let name = span.trim_start_matches('-');
                flag::all().find(|flag| flag.is_called(name)).unwrap_or_else(|| panic!("{span}"))
            })
            .collect();
        let variables: BTreeSet<String> =
            named.iter().map(|flag| flag.variable.to_owned()).filter(|name| !name.is_empty()).collect();
        assert_eq!(BTreeSet::from_iter(spans(row[1])), variables, "{}", row[0]);
        for variable in variables {
            assert!(seen.insert(variable.clone()), "{variable} has two rows");
        }
    }
}

/// As GitHub makes the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn links_inside_the_project_resolve() {
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (file, text) in files() {
        let directory = root().join(&file).parent().unwrap().to_owned();
        for (_, rest) in text.match_indices("](").map(|(at, _)| ((), &text[at + 2..])) {
            let target = rest.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            checked += 1;
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { root().join(&file) } else { directory.join(path) };
            let Ok(linked) = std::fs::read_to_string(&path) else {
                wrong.extend((!path.exists()).then(|| format!("{file}: there is no {target}")));
                continue;
            };
            let mut headings = linked.lines().filter(|line| line.starts_with('#'));
            if !fragment.is_empty() && !headings.any(|line| anchor(line.trim_start_matches('#')) == fragment) {
                wrong.push(format!("{file}: {target} has no such heading"));
            }
        }
    }
    none(wrong);
    assert!(checked > 15, "{checked}");
}

/// A block of commands is run by a test, or says why not.
#[test]
fn every_block_says_who_runs_it() {
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for (file, text) in files() {
        for Block { place, info, .. } in blocks(&file, &text) {
            let (language, rest) = info.split_once(' ').unwrap_or((&info, ""));
            if language != "sh" {
                if !NOT_SHELL.contains(&language) {
                    wrong.push(format!(
                        "{place}: the block has the language '{language}'; expected sh or {NOT_SHELL:?}"
                    ));
                }
                continue;
            }
            let is_reason = rest.strip_prefix("skip: ").is_some_and(|reason| reason.len() > 5);
            let runs = |(kind, by): &&(&str, &str)| {
                let of_bcm = file == "dist/bcm/README.md";
                *kind == rest && (*kind == "run" || (*by == "tests/image/main.rs") == of_bcm)
            };
            match RUN_BY.iter().find(runs) {
                Some(row) => _ = used.insert(row),
                None if is_reason => {}
                None => wrong.push(format!("{place}: who runs '{info}'? See CONTRIBUTING.md")),
            }
        }
    }
    none(wrong);
    assert_eq!(used.len(), RUN_BY.len(), "{used:?}");
    for (kind, file) in RUN_BY {
        let runner = read(file);
        assert!(runner.contains(&format!("\"{kind}\"")), "{file} runs no blocks of kind {kind}");
    }
}

/// With the simulator as the system's libdcgm, and this project's counters files as the installed ones.
#[test]
fn blocks_that_need_nothing_run_as_they_stand() {
    let scratch = Scratch::new();
    std::os::unix::fs::symlink(bare_exporter().get_program(), scratch.path("dcgm-exporter")).unwrap();
    let counters = root().join("counters");
    let runnable = all_blocks("sh run");
    assert!(runnable.len() >= 2);
    for Block { place, text, .. } in runnable {
        let commands = text.replace("/etc/dcgm-exporter/", &format!("{}/", counters.display()));
        for command in commands.lines() {
            let output = Command::new("sh")
                .args(["-euc", command])
                .env_clear()
                .env("PATH", format!("{}:/usr/bin:/bin", scratch.path("").display()))
                .env("DCGM_EXPORTER_LIBDCGM", simulator())
                .current_dir(scratch.path(""))
                .output()
                .unwrap();
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && !output.stdout.is_empty(), "{place}: {command}: {said}");
        }
    }
}

#[test]
fn flags_exist() {
    let known: BTreeSet<&str> =
        flag::all().map(|flag| flag.long).chain(["help", "help-inherited", "version", "generate"]).collect();
    let shorts: BTreeSet<&str> = flag::all().filter_map(|flag| flag.short).chain(["h", "v"]).collect();
    let (mut wrong, mut unused) = (Vec::new(), BTreeSet::from(OF_OTHERS));
    let mut checked = 0;
    let mut texts: Vec<(String, String)> = files();
    texts.extend(["dist/systemd/environment", "dist/systemd/remote.conf"].map(|file| (file.to_owned(), read(file))));
    texts.extend([("--help".to_owned(), help::help(80)), ("--help inherited".to_owned(), help::help_inherited(80))]);
    texts.extend(flag::all().map(|flag| (format!("--help {}", flag.long), help::of_flag(flag.long, 80).unwrap())));
    texts.push(("the man page".to_owned(), man::page().replace("\\fR", "").replace('\\', "")));
    for (file, text) in &texts {
        for (word, _) in words(text, "--", |c| c.is_ascii_alphanumeric() || c == '-') {
            let name = word.trim_matches('-');
            if name.is_empty() || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
                continue;
            }
            checked += 1;
            if !known.contains(name) && !unused.contains(name) && !OF_OTHERS.contains(&name) {
                wrong.push(format!("{file}: there is no flag --{name}"));
            }
            unused.remove(name);
        }
        for span in spans(text) {
            let letter = span.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
            let letter = letter.and_then(|rest| rest.split([' ', '=']).next());
            if letter
                .is_some_and(|letter| letter.starts_with(|c: char| c.is_ascii_lowercase()) && !shorts.contains(letter))
            {
                // `-w` of imageupdate, and flags of vmagent.
                let is_of_others = file == "dist/bcm/README.md" && span == "-w" || span.starts_with("-promscrape.");
                if !is_of_others {
                    wrong.push(format!("{file}: there is no flag {span}"));
                }
            }
        }
    }
    none(wrong);
    assert!(checked > 200, "{checked}");
    assert!(unused.is_empty(), "take these out of OF_OTHERS: {unused:?}");
}

#[test]
fn metrics_and_variables_exist() {
    let code = sources_of(&["src"]);
    let scripts = sources_of(&["dist/slurm", "dist/systemd", "tests/simulator/src"]);
    let computed = sources::names();
    let fields: BTreeSet<&str> = fields::all().map(|listed| listed.field.name).collect();
    let variables: BTreeSet<&str> = flag::all().map(|flag| flag.variable).filter(|name| !name.is_empty()).collect();
    let rules = read("dist/prometheus/rules/recording.yaml");
    let (mut wrong, mut checked) = (Vec::new(), 0);
    let mut texts: Vec<(String, String)> = files();
    texts.push(("dist/systemd/environment".to_owned(), read("dist/systemd/environment")));
    texts.extend(flag::all().map(|flag| (format!("--help {}", flag.long), help::of_flag(flag.long, 80).unwrap())));
    for (file, text) in &texts {
        for (name, after) in words(text, "DCGM_", is_name) {
            checked += 1;
            // `DCGM_FI_PROF_*` stands for all that begin so.
            let is_known = match after.starts_with('*') || name.ends_with('_') {
                true => fields.iter().chain(&computed).chain(&variables).any(|known| known.starts_with(name)),
                false => {
                    fields.contains(name)
                        || computed.contains(&name)
                        || variables.contains(name)
                        || (!name.starts_with("DCGM_FI_") && has_word(&scripts, name))
                }
            };
            if !is_known {
                wrong.push(format!("{file}: there is no {name}"));
            }
        }
        for (name, after) in words(text, "dcgm_exporter_", is_name) {
            checked += 1;
            // A file of a package is called so, too.
            let is_file = after.starts_with("amd64.deb") || name.contains("VERSION") || after.starts_with('.');
            let is_known = match after.starts_with('*') || name.ends_with('_') {
                true => code.contains(name),
                false => has_word(&code, name),
            };
            if !is_known && !is_file {
                wrong.push(format!("{file}: there is no metric {name}"));
            }
        }
        for (name, _) in words(text, "gpu:dcgm_", |c| is_name(c) || c == ':') {
            if !has_word(&rules, name) {
                wrong.push(format!("{file}: dist/prometheus has no rule {name}"));
            }
        }
    }
    none(wrong);
    assert!(checked > 150, "{checked}");
}

#[test]
fn files_and_make_targets_exist() {
    let makefile = read("Makefile");
    let is_target = |name: &str| makefile.contains(&format!("\n{name}:"));
    let top: Vec<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "target" && name != "shared")
        .collect();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (file, text) in files() {
        // Former names may stand there.
        let is_history = file == "CHANGELOG.md";
        let commands =
            blocks(&file, &text).into_iter().filter(|block| block.info.starts_with("sh")).map(|block| block.text);
        let code: Vec<String> = spans(&text).into_iter().chain(commands).collect();
        for span in &code {
            for line in span.lines() {
                let line = line.split(" #").next().unwrap();
                for (at, _) in line.match_indices("make ") {
                    let is_word = at == 0 || line[..at].ends_with([' ', ';', '`']);
                    let mut rest = line[at + 5..].split_whitespace().filter(|word| !word.contains('='));
                    let target = rest.next().unwrap_or_default().trim_end_matches([';', '`', ',']);
                    if is_word && target.starts_with(|c: char| c.is_ascii_lowercase()) {
                        checked += 1;
                        if !is_target(target) {
                            wrong.push(format!("{file}: make has no target {target}"));
                        }
                    }
                }
            }
            for word in span.split(|c: char| c.is_whitespace() || "\"'()<>|;,=".contains(c)) {
                let word = word.trim_end_matches(['.', ':', '/']);
                let is_placeholder = word.contains(['*', '$', '{', '[', '…'])
                    || word.split('/').any(|part| part == "NAME" || part == "DIR");
                if is_history || is_placeholder || word.is_empty() {
                    continue;
                }
                let exists = |path: &Path| path.exists();
                let beside = root().join(&file).parent().unwrap().to_owned();
                let found = if let Some(name) = word.strip_prefix("/etc/dcgm-exporter/") {
                    ["counters", "dist/systemd"].iter().any(|place| exists(&root().join(place).join(name)))
                        || OF_SITES.contains(&name)
                } else if let Some((_, name)) = word.split_once("share/dcgm-exporter/") {
                    ["dist", "dist/systemd"].iter().any(|place| exists(&root().join(place).join(name)))
                        || name == "config.sha256"
                } else if word.starts_with('/') {
                    continue;
                } else if word.contains('/') && top.iter().any(|name| word.split('/').next() == Some(name)) {
                    exists(&root().join(word)) || exists(&beside.join(word))
                } else if !word.contains('/') && word.ends_with(".csv") {
                    exists(&root().join("counters").join(word))
                        || exists(&beside.join(word))
                        || OF_SITES.contains(&word)
                        || ["counters.csv"].contains(&word)
                } else {
                    continue;
                };
                checked += 1;
                if !found {
                    wrong.push(format!("{file}: there is no {word}"));
                }
            }
        }
    }
    none(wrong);
    assert!(checked > 120, "{checked}");
}

/// Guides, rules, dashboards and configurations meet in names: of the scrape job, of the labels that targets are given, of
/// recorded series. One that differs leaves an alert or a panel without data, and nobody is told.
#[test]
fn names_that_rules_and_dashboards_share_are_the_same_everywhere() {
    let texts = files_in(&["dist", "README.md"], &["md", "yaml", "json", "py"]);
    let all: String = texts.iter().map(|(_, text)| text.as_str()).collect();
    let recorded: BTreeSet<&str> = all.split("- record: ").skip(1).map(|rest| rest.lines().next().unwrap()).collect();
    let (mut wrong, mut jobs, mut targets, mut series) = (Vec::new(), 0, 0, 0);
    for (file, text) in &texts {
        // As JSON has it within a text.
        let text = text.replace("\\\"", "\"");
        for start in ["{job=\"", "{job=~\"", ", job=\"", ",job=\"", "\"job\": \"", "job_name: ", "/job/"] {
            for (at, _) in text.match_indices(start) {
                let name = text[at + start.len()..].split(['"', '\n', ' ']).next().unwrap();
                jobs += 1;
                if name != "dcgm-exporter" {
                    wrong.push(format!("{file}: the scrape job is '{name}' after {start}"));
                }
            }
        }
        for (at, _) in text.match_indices("\"labels\": {").chain(text.match_indices("labels: {")) {
            let labels = text[at..].split('}').next().unwrap();
            // Those of rules have no targets before them.
            if text[..at].lines().rev().take(2).any(|line| line.contains("targets")) {
                targets += 1;
                if !labels.contains("cluster\":") && !labels.contains("cluster:") {
                    wrong.push(format!("{file}: targets without the label cluster: {labels}}}"));
                }
            }
        }
        for prefix in ["gpu:dcgm_", "instance:dcgm_", "hpc_job:dcgm_", "user:dcgm_", "cluster:dcgm_"] {
            for (name, _) in words(&text, prefix, |c| is_name(c) || c == ':') {
                series += 1;
                if !recorded.contains(name) {
                    wrong.push(format!("{file}: no rule records {name}"));
                }
            }
        }
    }
    none(wrong);
    assert!(jobs > 10 && targets >= 4 && series > 50, "{jobs} {targets} {series}");
}

/// `make e2e` lets promtool read them; here only what needs no parser is looked at.
#[test]
fn promql_is_balanced() {
    let queries = all_blocks("promql");
    assert!(queries.len() >= 9, "{}", queries.len());
    for Block { place, text, .. } in &queries {
        let mut open = Vec::new();
        let mut is_text = false;
        for character in text.chars() {
            match character {
                '"' => is_text = !is_text,
                '(' | '[' | '{' if !is_text => open.push(character),
                ')' | ']' | '}' if !is_text => {
                    let pair = BTreeMap::from([(')', '('), (']', '['), ('}', '{')]);
                    assert_eq!(open.pop(), pair.get(&character).copied(), "{place}: {text}");
                }
                _ => {}
            }
        }
        assert!(open.is_empty() && !is_text && !text.trim().is_empty(), "{place}: {text}");
        assert!(!text.trim_end().ends_with(['*', '+', '-', '/', '=']), "{place}: {text}");
    }
    assert_eq!(all_blocks("yaml rules").len(), 1);
}

/// No figure without the command that measures it.
#[test]
fn figures_have_their_command() {
    let text = read("benches/FIGURES.md");
    let mut rows = 0;
    for section in text.split("\n## ").skip(1) {
        let has_one = section.contains("The command: `");
        for row in section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).skip(1) {
            let last = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap().trim();
            assert!(has_one || (last.starts_with('`') && last.ends_with('`')), "{row}");
            rows += 1;
        }
    }
    assert!(rows > 30, "{rows}");
    assert!(read("README.md").contains("side by side: `benches/compare.py`"));
}

#[test]
fn markdown_is_read_as_it_is_meant() {
    let text = "a `b c`\n\n1. x\n   ```sh run\n   d `e`\n   ```\n`f\ng`\n";
    assert_eq!(spans(text), ["b c", "f g"]);
    let found = blocks("x.md", text);
    assert_eq!((found.len(), found[0].place.as_str(), found[0].info.as_str()), (1, "x.md:4", "sh run"));
    assert_eq!(found[0].text, "   d `e`\n");
    assert_eq!(anchor(" Moving from NVIDIA's exporter"), "moving-from-nvidias-exporter");
    let found: Vec<&str> =
        words("DCGM_A xDCGM_B (DCGM_C)", "DCGM_", is_name).into_iter().map(|(word, _)| word).collect();
    assert_eq!(found, ["DCGM_A", "DCGM_C"]);
    assert!(has_word("a b_c.", "b_c") && !has_word("a b_cd", "b_c"));
}
