//! The source keeps to the map that `src/lib.rs` draws: which module may import which, and which words are used for
//! what.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What each module may import, from the ground floor up. `config` and `system` may be imported by every module, and
/// import none but `config`.
const ALLOWED: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("system", &["config"]),
    ("jobs", &[]),
    ("containers", &["jobs"]),
    ("status", &[]),
    ("publish", &["status"]),
    ("dcgm", &[]),
    ("counters", &["dcgm"]),
    ("engine", &["dcgm"]),
    ("inventory", &["dcgm", "jobs"]),
    ("cli", &[]),
    ("server", &["publish", "status"]),
    ("metrics", &["counters", "dcgm", "inventory"]),
    ("summary", &["metrics"]),
    ("exposition", &["containers", "counters", "inventory", "jobs", "metrics"]),
    (
        "watcher",
        &[
            "containers",
            "counters",
            "dcgm",
            "engine",
            "exposition",
            "inventory",
            "jobs",
            "metrics",
            "publish",
            "status",
            "summary",
        ],
    ),
    (
        "check",
        &[
            "cli",
            "counters",
            "dcgm",
            "engine",
            "inventory",
            "jobs",
            "metrics",
            "publish",
            "server",
            "status",
            "summary",
            "watcher",
        ],
    ),
];
const EVERYWHERE: [&str; 2] = ["config", "system"];

/// Imports that are not allowed but still there. An entry that is there no more is to be taken out.
const IMPORTS_NOT_YET: &[(&str, &str)] = &[];

/// Words that have a standard equivalent, with that. Matched as whole words, also inside of names.
const WORDS: [(&str, &str); 13] = [
    ("board", "PublishedPage"),
    ("scene", "ActiveWatches"),
    ("beat", "ScrapePeriod"),
    ("rhythm", "ScrapeSchedule"),
    ("grudge", "RefusedUntil"),
    ("knock", "probe"),
    ("visit", "scrape"),
    ("mend", "fix"),
    ("remark", "warning"),
    ("front door", "connections"),
    ("back room", "routes"),
    ("let go", "release"),
    ("lets go", "releases"),
];

/// Files, or directories, that still have such a word. An entry that has it no more is to be taken out.
const WORDS_NOT_YET: &[(&str, &str)] = &[];

/// Files and directories in which a word is the usual one.
const USUAL_THERE: &[(&str, &str)] = &[
    // log::kv::VisitSource
    ("src/system/logging.rs", "visit"),
    // A callback that is called with each value.
    ("src/dcgm/", "visit"),
    // NVIDIA's texts of XIDs.
    ("src/metrics/", "board"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file with its path in the project.
fn sources() -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), vec![root().join("src")]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(found.len() > 40, "{}", found.len());
    found
}

/// The module of a file: the first part of its path below `src`.
fn module(file: &str) -> &str {
    let rest = file.strip_prefix("src/").unwrap();
    rest.split(['/', '.']).next().unwrap()
}

/// A file without comments and without its test modules.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.starts_with("mod ")) {
            // rustfmt puts the brace that closes a module of a file into the first column.
            lines.by_ref().find(|line| *line == "}");
            continue;
        }
        code.push_str(line.split("//").next().unwrap());
        code.push('\n');
    }
    code
}

/// The modules of this crate that code names: `crate::x`, `crate::{x::y, z}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let identifier = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = 0;
        for (at, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.insert(identifier(&list[item..at]));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.insert(identifier(&list[item..at]));
                    item = at + 1;
                }
                _ => {}
            }
        }
    }
    found.remove("");
    found
}

/// Lower case words, names taken apart: `LostEntities` and `lost_entities` are `lost entities`.
fn words(text: &str) -> String {
    let mut words = String::from(" ");
    let mut before = ' ';
    for character in text.chars() {
        if character.is_ascii_uppercase() && before.is_ascii_lowercase() {
            words.push(' ');
        }
        let is_letter = character.is_alphabetic();
        if is_letter || !words.ends_with(' ') {
            words.push(if is_letter { character.to_ascii_lowercase() } else { ' ' });
        }
        before = character;
    }
    words.push(' ');
    words
}

fn has_word(words: &str, word: &str) -> bool {
    ["", "s", "ed", "ing"].iter().any(|ending| words.contains(&format!(" {word}{ending} ")))
}

#[test]
fn no_module_imports_what_is_above_it() {
    let mut wrong = Vec::new();
    let mut not_yet: BTreeSet<(&str, &str)> = IMPORTS_NOT_YET.iter().copied().collect();
    let sources = sources();
    for (file, text) in &sources {
        let importer = module(file);
        // They wire the modules together; `src/fixed.rs` is one of the entries that are not yet out.
        if ["lib", "main"].contains(&importer) || IMPORTS_NOT_YET.iter().any(|(_, module)| *module == importer) {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(module, _)| *module == importer) else {
            wrong.push(format!("{file}: '{importer}' has no row in the table of allowed imports"));
            continue;
        };
        let is_everywhere = |module: &str| EVERYWHERE.contains(&module) && importer != "config";
        for imported in imports(&code(text)) {
            if imported == importer || is_everywhere(&imported) || allowed.contains(&imported.as_str()) {
                continue;
            }
            match IMPORTS_NOT_YET.iter().find(|entry| **entry == (importer, imported.as_str())) {
                Some(entry) => _ = not_yet.remove(entry),
                None => wrong.push(format!("{file}: {importer} may not import {imported}")),
            }
        }
    }
    assert!(wrong.is_empty(), "the map in src/lib.rs has no such arrows:\n{}", wrong.join("\n"));
    assert!(not_yet.is_empty(), "take these out of IMPORTS_NOT_YET: {not_yet:?}");
}

/// Each row of the table of allowed imports may name only rows before it, so that no arrow runs up.
#[test]
fn the_table_has_no_circle() {
    for (index, (module, allowed)) in ALLOWED.iter().enumerate() {
        let is_below = |name: &&str| ALLOWED[..index].iter().any(|(below, _)| below == name);
        assert!(allowed.iter().all(is_below), "{module}: {allowed:?}");
    }
}

#[test]
fn one_word_for_one_thing() {
    let mut wrong = Vec::new();
    let mut not_yet: BTreeSet<(&str, &str)> = WORDS_NOT_YET.iter().copied().collect();
    for (file, text) in sources() {
        let words = words(&text);
        for (word, better) in WORDS {
            let is_listed = |(place, known): &&(&str, &str)| *known == word && file.starts_with(place);
            if !has_word(&words, word) || USUAL_THERE.iter().any(|entry| is_listed(&entry)) {
                continue;
            }
            match WORDS_NOT_YET.iter().find(is_listed) {
                Some(entry) => _ = not_yet.remove(entry),
                None => wrong.push(format!("{file}: '{word}'; say {better}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(not_yet.is_empty(), "take these out of WORDS_NOT_YET: {not_yet:?}");
}

#[test]
fn imports_are_found() {
    let text = "use crate::a::b;\n// crate::comment\nuse crate::{c::{d, e}, f};\nfn x() { crate::g::h(); }\n\
                #[cfg(test)]\nmod tests {\n    use crate::only_in_tests;\n}\nuse crate::i;\n";
    assert_eq!(imports(&code(text)).into_iter().collect::<Vec<_>>(), ["a", "c", "f", "g", "i"]);
    assert_eq!(module("src/a/b.rs"), "a");
    assert_eq!(module("src/publish.rs"), "publish");
    let words = words("struct BackRoom; let last_visit = 1; // scenery, boards");
    assert!(has_word(&words, "back room") && has_word(&words, "visit") && has_word(&words, "board"), "{words}");
    assert!(!has_word(&words, "scene"), "{words}");
}
