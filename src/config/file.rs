//! The configuration file (`--config-file`), in the format of NVIDIA's dcgm-exporter, versions 1 and 2.
//!
//! Read strictly: an unknown key, a value of another type, a key that is missing or belongs to the other version are
//! errors, all of them reported with their place. What is a flag, too, becomes a value of that flag, and is judged with
//! the flags. Whether a pattern matches a field is known when the counters are.
//!
//! One file, because its keys are read by one parser that collects all problems.

use std::collections::HashMap;
use std::time::Duration;

use super::duration::{LONGEST_INTERVAL, SHORTEST_INTERVAL, parse_go};
use super::glob::Pattern;
use super::yaml::{self, Map, Node, Position, Problem, Reader, Value};

/// A larger file is no configuration.
pub const LARGEST_FILE: u64 = 1024 * 1024;

/// What the file says.
#[derive(Debug, Default, PartialEq)]
pub struct ConfigFile {
    pub version: u8,
    /// Values of flags.
    pub settings: Vec<Setting>,
    /// Instead of a counters file; at least one.
    pub rows: Option<Vec<InlineRow>>,
    pub collections: Vec<Collection>,
    /// Settings without effect here.
    pub warnings: Vec<Problem>,
}

/// A flag's value, which counts where neither the flag nor its variable is set.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    pub flag: &'static str,
    pub value: String,
    pub at: Position,
    /// The keys that lead to it: `collection.interval`.
    pub key: &'static str,
}

/// A row of the counters file, written in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineRow {
    pub at: Position,
    pub name: String,
    pub kind: String,
    pub help: String,
}

/// Fields that are sampled at an interval of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    pub at: Position,
    pub name: String,
    pub interval: Duration,
    /// For names of fields as the counters file has them.
    pub patterns: Vec<Pattern>,
}

/// An engine has room for 61 groups of fields, and every kind of entity may need some for each collection.
const MOST_COLLECTIONS: usize = 16;
/// Twice the fields that there are.
const MOST_PATTERNS: usize = 4096;
/// How much dcgm-exporter lets DCGM keep by default, as the flags have it.
const KEPT_AGE: (Duration, &str) = (Duration::from_secs(600), "10m0s");
const MOST_KEPT: u64 = i32::MAX as u64;

const TOP: [&[&str]; 2] = [
    &["version", "metrics", "collection", "sources", "server"],
    &["version", "metrics", "collections", "sources", "server"],
];

impl ConfigFile {
    /// Reads the file's content.
    ///
    /// Errors: the problems, by place.
    pub fn parse(bytes: &[u8]) -> Result<ConfigFile, Vec<Problem>> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            vec![problem_after(before, format!("byte {:#04x} is not UTF-8", bytes[error.valid_up_to()]))]
        })?;
        if let Some(at) = text.find('\0') {
            return Err(vec![problem_after(&bytes[..at], "a NUL byte; this is not a text file".to_owned())]);
        }
        let node = yaml::parse(text).map_err(|problem| vec![problem])?;
        let mut parser = Parser::default();
        parser.top(&node);
        let Parser { reader, file, .. } = parser;
        let problems = yaml::first(reader.problems);
        if problems.is_empty() { Ok(file) } else { Err(problems) }
    }
}

/// A problem behind this much of the text.
fn problem_after(before: &[u8], what: String) -> Problem {
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    Problem { at: Position { line, column }, what }
}

#[derive(Default)]
struct Parser {
    reader: Reader,
    file: ConfigFile,
    kept: Kept,
    /// Names of collections, and the line of each.
    names: HashMap<String, usize>,
    patterns: usize,
}

/// How much DCGM is to keep, as far as the file has it, and where in the file.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    age: Option<(Duration, Position)>,
    samples: Option<(u64, Position)>,
}

impl Kept {
    fn or(self, other: Kept) -> Kept {
        Kept { age: self.age.or(other.age), samples: self.samples.or(other.samples) }
    }

    fn is_nothing(self) -> bool {
        self.age.is_some_and(|(age, _)| age.is_zero()) && self.samples.is_none_or(|(samples, _)| samples == 0)
    }
}

impl Parser {
    fn top(&mut self, node: &Node) {
        const WHAT: &str = "a configuration file";
        let entries = self.reader.entries(node, WHAT);
        let map = Map::new(entries);
        let before = self.reader.problems.len();
        let version = match map.get("version") {
            // What is no map has been reported.
            None if !matches!(node.value, Value::Map(_) | Value::Null) => return,
            None => {
                let at = map.place_of("version").unwrap_or(node.at);
                self.reader.problem(at, "version is missing; write 'version: 2'");
                None
            }
            Some(node) => match self.integer(node, "version") {
                Some(version @ (1 | 2)) => Some(version as u8),
                Some(version) => {
                    self.reader.problem(node.at, format!("version {version} is not known; expected 1 or 2"));
                    None
                }
                None => None,
            },
        };
        // What is wrong with the rest depends on the version.
        let Some(version) = version.filter(|_| self.reader.problems.len() == before) else { return };
        self.file.version = version;
        let (known, others) = match version {
            1 => (TOP[0], TOP[1]),
            _ => (TOP[1], TOP[0]),
        };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            if others.contains(&key.name.as_str()) {
                let (other, instead) = if version == 1 { (2, "collection") } else { (1, "collections") };
                self.reader.problem(
                    key.at,
                    format!(
                        "'{}' belongs to version {other}, and this file has version {version}; use '{instead}', or \
                         'version: {other}'",
                        key.name
                    ),
                );
            } else {
                self.unknown(key, WHAT, known);
            }
        }
        if let Some(node) = map.get("metrics") {
            self.metrics(node);
        }
        if let Some(node) = map.get("sources") {
            self.sources(node);
        }
        if let Some(node) = map.get("server") {
            self.server(node);
        }
        match version {
            1 => map.get("collection").into_iter().for_each(|node| self.version_1(node)),
            _ => {
                map.place_of("collections").into_iter().for_each(|at| self.version_2(at, map.get("collections")));
            }
        }
        self.put_kept();
    }

    /// The entries of a map with these keys. Those that dcgm-exporter has for Kubernetes are refused with the reason.
    fn map<'a>(&mut self, node: &'a Node, what: &str, known: &[&str]) -> Map<'a> {
        let entries = self.reader.entries(node, what);
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            self.unknown(key, what, known);
        }
        Map::new(entries)
    }

    fn unknown(&mut self, key: &yaml::Key, what: &str, known: &[&str]) {
        const OF_KUBERNETES: [&str; 4] = ["kube", "pod", "configmap", "namespace"];
        let name = key.name.to_ascii_lowercase();
        if OF_KUBERNETES.iter().any(|prefix| name.starts_with(prefix)) {
            let what = "is for Kubernetes; this exporter is for bare metal and has no pod mapping: leave it out";
            self.reader.problem(key.at, format!("'{}' {what}", key.name));
        } else {
            self.reader.unknown(key, what, known);
        }
    }

    fn set(&mut self, flag: &'static str, key: &'static str, at: Position, value: String) {
        self.file.settings.push(Setting { flag, value, at, key });
    }

    fn metrics(&mut self, node: &Node) {
        let map = self.map(node, "metrics", &["file", "fields", "enableExporterMetrics"]);
        let own = map.get("enableExporterMetrics");
        if let Some(node) = own
            && let Some(wanted) = self.boolean(node, "metrics.enableExporterMetrics")
        {
            self.set("enable-exporter-metrics", "metrics.enableExporterMetrics", node.at, wanted.to_string());
        }
        match (map.get("file"), map.get("fields")) {
            (Some(_), Some(fields)) => {
                self.reader.problem(fields.at, "metrics has both 'file' and 'fields'; expected one of them");
            }
            (None, None) if own.is_none() => {
                self.reader.problem(node.at, "metrics has neither 'file' nor 'fields'; expected one of them");
            }
            (None, None) => {}
            (Some(node), None) => {
                if let Some(file) = self.text(node, "metrics.file") {
                    self.set("collectors", "metrics.file", node.at, file);
                }
            }
            (None, Some(node)) => self.file.rows = Some(self.rows(node)),
        }
    }

    fn rows(&mut self, node: &Node) -> Vec<InlineRow> {
        let list = self.list(node, "metrics.fields");
        let (mut rows, mut lines) = (Vec::new(), HashMap::new());
        for node in list {
            let before = self.reader.problems.len();
            let map = self.map(node, "an item of metrics.fields", &["name", "prometheusType", "help"]);
            let (name, kind) = (self.required(node, map, "name"), self.required(node, map, "prometheusType"));
            let help = self.required(node, map, "help");
            let (Some(name), Some(kind), Some(help)) = (name, kind, help) else { continue };
            if self.reader.problems.len() > before {
                continue;
            }
            self.once(&mut lines, &name, node.at);
            rows.push(InlineRow { at: node.at, name, kind, help });
        }
        rows
    }

    fn sources(&mut self, node: &Node) {
        let map = self.map(node, "sources", &["dcgm"]);
        let Some(node) = map.get("dcgm") else { return };
        let known: &[&str] =
            if self.file.version == 1 { &["detectBindUnbind"] } else { &["watch", "detectBindUnbind"] };
        let map = self.map(node, "sources.dcgm", known);
        if let Some(node) = map.get("watch").filter(|_| self.file.version != 1) {
            self.kept = self.kept(node, "sources.dcgm.watch", ["maxKeepAge", "maxKeepSamples"]);
        }
        let Some(node) = map.get("detectBindUnbind") else { return };
        let map = self.map(node, "sources.dcgm.detectBindUnbind", &["enabled", "pollInterval"]);
        if let Some(node) = map.get("enabled") {
            const KEY: &str = "sources.dcgm.detectBindUnbind.enabled";
            if let Some(wanted) = self.boolean(node, KEY) {
                self.set("enable-gpu-bind-unbind-watch", KEY, node.at, wanted.to_string());
            }
        }
        if let Some(node) = map.get("pollInterval") {
            const KEY: &str = "sources.dcgm.detectBindUnbind.pollInterval";
            if let Some(interval) = self.interval(node, KEY) {
                self.set("gpu-bind-unbind-poll-interval", KEY, node.at, interval.as_millis().to_string());
            }
        }
    }

    fn server(&mut self, node: &Node) {
        const KEY: &str = "server.maxConcurrentScrapes";
        let map = self.map(node, "server", &["maxConcurrentScrapes"]);
        let Some(node) = map.get("maxConcurrentScrapes") else { return };
        match self.integer(node, KEY) {
            Some(limit @ 1..) => self.set("max-concurrent-scrapes", KEY, node.at, limit.to_string()),
            Some(limit) => self.reader.problem(node.at, format!("{KEY}: {limit} is too few; expected 1 or more")),
            None => {}
        }
    }

    fn version_1(&mut self, node: &Node) {
        let map = self.map(node, "collection", &["interval", "retention", "watchGroups"]);
        if let Some(node) = map.get("interval")
            && let Some(interval) = self.interval(node, "collection.interval")
        {
            self.set("collect-interval", "collection.interval", node.at, interval.as_millis().to_string());
        }
        if let Some(node) = map.get("retention") {
            self.kept = self.kept(node, "collection.retention", ["maxAge", "maxSamples"]);
        }
        let Some(node) = map.get("watchGroups") else { return };
        for node in self.list(node, "collection.watchGroups") {
            let what = "an item of collection.watchGroups";
            let map = self.map(node, what, &["name", "interval", "fields", "retention"]);
            let patterns = self.patterns(node, map, "fields");
            self.collection(node, map, "interval", patterns);
            if let Some(node) = map.get("retention") {
                let own = self.kept(node, "retention", ["maxAge", "maxSamples"]);
                self.keep_something(node, own);
            }
        }
    }

    fn version_2(&mut self, at: Position, node: Option<&Node>) {
        let Some(node) = node else {
            return self.reader.problem(at, "collections is empty; write one, or leave the key out");
        };
        let mut rest: Option<Position> = None;
        for node in self.list(node, "collections") {
            let map = self.map(node, "an item of collections", &["name", "every", "metrics", "sources"]);
            let mut patterns = None;
            match map.get("metrics") {
                None => self.reader.problem(node.at, "metrics is missing; write 'metrics: {include: [NAMES]}'"),
                Some(node) => {
                    let map = self.map(node, "metrics of a collection", &["include"]);
                    patterns = self.patterns(node, map, "include");
                }
            }
            let is_rest =
                patterns.as_ref().is_some_and(|patterns| matches!(&patterns[..], [one] if one.as_str() == "*"));
            let own = self.kept_of_collection(map);
            if !is_rest {
                if let Some((node, own)) = own {
                    self.keep_something(node, own);
                }
                self.collection(node, map, "every", patterns);
                continue;
            }
            // All fields that are in no other collection.
            self.kept = own.map_or(self.kept, |(_, own)| own.or(self.kept));
            self.name(node, map);
            if let Some(first) = rest.replace(node.at) {
                let what = format!("a second collection includes ['*']; the first is in line {}", first.line);
                self.reader.problem(node.at, what);
            }
            if let Some((at, interval)) = self.required_interval(node, map, "every") {
                self.set("collect-interval", "collections.every", at, interval.as_millis().to_string());
            }
        }
    }

    /// Adds a collection that is whole; what is wrong with it is reported.
    fn collection(&mut self, node: &Node, map: Map<'_>, interval: &'static str, patterns: Option<Vec<Pattern>>) {
        let name = self.name(node, map);
        let interval = self.required_interval(node, map, interval);
        if let (Some(name), Some((_, interval)), Some(patterns)) = (name, interval, patterns) {
            self.file.collections.push(Collection { at: node.at, name, interval, patterns });
        }
    }

    /// Of a collection.
    fn name(&mut self, node: &Node, map: Map<'_>) -> Option<String> {
        let name = self.required(node, map, "name")?;
        let mut names = std::mem::take(&mut self.names);
        self.once(&mut names, &name, node.at);
        if names.len() == MOST_COLLECTIONS + 1 {
            let what = format!("more than {MOST_COLLECTIONS} collections; DCGM has no room for their groups of fields");
            self.reader.problem(node.at, what);
        }
        self.names = names;
        Some(name)
    }

    fn required_interval(&mut self, node: &Node, map: Map<'_>, key: &'static str) -> Option<(Position, Duration)> {
        match map.get(key) {
            Some(node) => self.interval(node, key).map(|interval| (node.at, interval)),
            None => {
                self.reader.problem(node.at, format!("{key} is missing; expected a time such as 30s"));
                None
            }
        }
    }

    fn patterns(&mut self, node: &Node, map: Map<'_>, key: &'static str) -> Option<Vec<Pattern>> {
        let Some(list) = map.get(key) else {
            self.reader.problem(node.at, format!("{key} is missing; expected a list of names of fields or patterns"));
            return None;
        };
        let (mut patterns, before) = (Vec::new(), self.reader.problems.len());
        for node in self.list(list, key) {
            let Some(text) = self.text(node, key) else { continue };
            self.patterns += 1;
            if self.patterns > MOST_PATTERNS {
                self.reader.problem(node.at, format!("more than {MOST_PATTERNS} patterns; use * for many names"));
                break;
            }
            match Pattern::parse(&text) {
                Ok(pattern) => patterns.push(pattern),
                Err(right) => self.reader.problem(node.at, format!("'{text}' is not a pattern: {right}")),
            }
        }
        (self.reader.problems.len() == before).then_some(patterns)
    }

    fn kept_of_collection<'a>(&mut self, map: Map<'a>) -> Option<(&'a Node, Kept)> {
        let map = self.map(map.get("sources")?, "sources of a collection", &["dcgm"]);
        let map = self.map(map.get("dcgm")?, "sources.dcgm of a collection", &["watch"]);
        let node = map.get("watch")?;
        Some((node, self.kept(node, "watch", ["maxKeepAge", "maxKeepSamples"])))
    }

    fn kept(&mut self, node: &Node, what: &str, [age, samples]: [&str; 2]) -> Kept {
        let map = self.map(node, what, &[age, samples]);
        let mut kept = Kept::default();
        if let Some(node) = map.get(age) {
            kept.age = self.duration(node, &format!("{what}.{age}")).map(|age| (age, node.at));
            if kept.age.is_some_and(|(age, _)| age.as_secs() > MOST_KEPT) {
                self.reader.problem(node.at, format!("{what}.{age}: expected at most {MOST_KEPT}s"));
            }
        }
        if let Some(node) = map.get(samples) {
            let number = self.integer(node, &format!("{what}.{samples}"));
            match number.map(|number| (number, u64::try_from(number))) {
                Some((_, Ok(number))) if number <= MOST_KEPT => kept.samples = Some((number, node.at)),
                Some((number, _)) => {
                    let what = format!("{what}.{samples}: {number} is not valid: expected 0 to {MOST_KEPT}");
                    self.reader.problem(node.at, what);
                }
                None => {}
            }
        }
        kept
    }

    /// A collection's retention: checked, and without effect.
    fn keep_something(&mut self, node: &Node, own: Kept) {
        if own.or(self.kept).is_nothing() {
            self.reader.problem(node.at, "age and samples cannot both be 0; expected one of them above 0");
        } else if self.file.warnings.is_empty() {
            self.file.warnings.push(Problem {
                at: node.at,
                what:
                    "what DCGM keeps of a collection has no effect: every collection takes the newest sample, and DCGM \
                       keeps as many as the counts of XIDs and clock events need"
                        .to_owned(),
            });
        }
    }

    /// Makes values of flags of what DCGM is to keep by default.
    fn put_kept(&mut self) {
        let [age, samples] = match self.file.version {
            1 => ["collection.retention.maxAge", "collection.retention.maxSamples"],
            _ => ["watch.maxKeepAge", "watch.maxKeepSamples"],
        };
        if let Some((time, at)) = self.kept.age {
            let text = if time == KEPT_AGE.0 { KEPT_AGE.1.to_owned() } else { format!("{}ms", time.as_millis()) };
            self.set("watch-max-keep-age", age, at, text);
        }
        if let Some((number, at)) = self.kept.samples {
            self.set("watch-max-keep-samples", samples, at, number.to_string());
        }
    }

    /// Reports a name that is given again.
    fn once(&mut self, lines: &mut HashMap<String, usize>, name: &str, at: Position) {
        if let Some(first) = lines.get(name) {
            self.reader.problem(at, format!("'{name}' is given twice; the first is in line {first}"));
        } else {
            lines.insert(name.to_owned(), at.line);
        }
    }

    /// At least one item.
    fn list<'a>(&mut self, node: &'a Node, what: &str) -> &'a [Node] {
        let before = self.reader.problems.len();
        let list = self.reader.list(node, what);
        if list.is_empty() && self.reader.problems.len() == before {
            self.reader.problem(node.at, format!("{what} is empty; expected at least one item"));
        }
        list
    }

    /// A text without blanks around it.
    fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = self.reader.text(node, what)?.trim();
        if text.is_empty() {
            self.reader.problem(node.at, format!("{what} is empty"));
            return None;
        }
        Some(text.to_owned())
    }

    fn required(&mut self, node: &Node, map: Map<'_>, key: &str) -> Option<String> {
        match map.get(key) {
            Some(node) => self.text(node, key),
            None => {
                self.reader.problem(map.place_of(key).unwrap_or(node.at), format!("{key} is missing"));
                None
            }
        }
    }

    fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        if let Value::Quoted(text) = &node.value {
            self.reader.problem(node.at, format!("{what}: '{text}' is a text; expected true or false without quotes"));
            return None;
        }
        self.reader.boolean(node, what)
    }

    fn integer(&mut self, node: &Node, what: &str) -> Option<i64> {
        let text = self.reader.text(node, what)?;
        let number = match &node.value {
            Value::Scalar(text) => text.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.reader.problem(node.at, format!("{what}: '{text}' is not a whole number without quotes"));
        }
        number
    }

    /// A Go duration.
    fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let text = self.reader.text(node, what)?;
        let time = parse_go(text);
        if time.is_none() {
            let is_number = text.parse::<f64>().is_ok_and(|number| number >= 0.0);
            let hint = if is_number { format!(" ({text}ms for milliseconds)") } else { String::new() };
            self.reader.problem(
                node.at,
                format!("{what}: '{text}' is not a time; expected a number with its unit, such as 30s or 500ms{hint}"),
            );
        }
        time
    }

    /// Between two samples.
    fn interval(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let time = self.duration(node, what)?;
        let right = match time {
            _ if time.subsec_nanos() % 1_000_000 != 0 => "expected whole milliseconds",
            _ if (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&time) => return Some(time),
            _ => "expected 100ms to 24h",
        };
        let text = self.reader.text(node, what)?;
        self.reader.problem(node.at, format!("{what}: '{text}' is not valid: {right}"));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        match ConfigFile::parse(text.as_bytes()) {
            Ok(file) => panic!("{text:?} is taken: {file:?}"),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    fn settings(file: &ConfigFile) -> Vec<(&str, &str)> {
        file.settings.iter().map(|setting| (setting.flag, setting.value.as_str())).collect()
    }

    #[test]
    fn both_versions_say_the_same() {
        let version_2 = "version: 2\nmetrics:\n  file: /etc/c.csv\n  enableExporterMetrics: false\ncollections:\n  - name: scrape\n    \
                         every: 30s\n    metrics: {include: [\"*\"]}\n  - name: fast\n    every: 1.5s\n    metrics: {include: \
                         [DCGM_FI_DEV_GPU_TEMP, DCGM_FI_DEV_NVLINK_PPCNT_*]}\n    sources: {dcgm: {watch: {maxKeepAge: 0s, \
                         maxKeepSamples: 2}}}\nsources:\n  dcgm:\n    watch: {maxKeepAge: 5m, maxKeepSamples: 0}\n    \
                         detectBindUnbind: {enabled: true, pollInterval: 2s}\nserver: {maxConcurrentScrapes: 4}\n";
        let version_1 = "version: 1\nmetrics:\n  file: /etc/c.csv\n  enableExporterMetrics: false\ncollection:\n  interval: 30s\n  \
                         retention: {maxAge: 5m, maxSamples: 0}\n  watchGroups:\n    - name: fast\n      interval: 1.5s\n      \
                         fields: [DCGM_FI_DEV_GPU_TEMP, DCGM_FI_DEV_NVLINK_PPCNT_*]\n      retention: {maxAge: 0s, maxSamples: \
                         2}\nsources: {dcgm: {detectBindUnbind: {enabled: true, pollInterval: 2s}}}\nserver: {maxConcurrentScrapes: \
                         4}\n";
        for text in [version_1, version_2] {
            let file = ConfigFile::parse(text.as_bytes()).unwrap();
            let mut settings = settings(&file);
            settings.sort_unstable();
            let wanted = [
                ("collect-interval", "30000"),
                ("collectors", "/etc/c.csv"),
                ("enable-exporter-metrics", "false"),
                ("enable-gpu-bind-unbind-watch", "true"),
                ("gpu-bind-unbind-poll-interval", "2000"),
                ("max-concurrent-scrapes", "4"),
                ("watch-max-keep-age", "300000ms"),
                ("watch-max-keep-samples", "0"),
            ];
            assert_eq!(settings, wanted, "{text}");
            let [fast] = &file.collections[..] else { panic!("{file:?}") };
            assert_eq!((fast.name.as_str(), fast.interval), ("fast", Duration::from_millis(1500)));
            assert_eq!(fast.patterns.len(), 2);
            assert_eq!(file.warnings.len(), 1, "{:?}", file.warnings);
            // The same with the line ends and the mark of other systems.
            let other = format!("\u{feff}{}", text.replace('\n', "\r\n"));
            assert_eq!(ConfigFile::parse(other.as_bytes()), Ok(file));
        }
    }

    #[test]
    fn each_rule_has_its_error_and_place() {
        let group = |group: &str| format!("version: 1\ncollection:\n  watchGroups:\n    - {group}\n");
        let item = |item: &str| format!("version: 2\ncollections:\n  - {item}\n");
        let row = |row: &str| format!("version: 2\nmetrics:\n  fields:\n    - {row}\n");
        let good = "{name: a, every: 1s, metrics: {include: [X*]}}";
        let (row_a, rest) = ("{name: A, prometheusType: gauge, help: h}", "every: 1s, metrics: {include: ['*']}}");
        for (text, wanted) in [
            ("", "1:1: version is missing; write 'version: 2'"),
            ("version:\n", "1:1: version is missing"),
            ("metrics: {file: x}\n", "1:1: version is missing"),
            ("version: 3\n", "1:10: version 3 is not known; expected 1 or 2"),
            ("version: '2'\n", "1:10: version: '2' is not a whole number without quotes"),
            ("version: two\n", "1:10: version: 'two' is not a whole number"),
            ("version: [2]\n", "1:10: version: expected one value, found a list"),
            ("- version: 2\n", "1:1: a configuration file: expected keys with values, found a list"),
            ("version: 2\nversion: 2\n", "2:1: 'version' is given twice; the first is in line 1"),
            (
                "version: 2\nserver:\n  maxConcurrentScrapes: 1\n  maxConcurrentScrapes: 2\n",
                "4:3: 'maxConcurrentScrapes' is given",
            ),
            ("version: 2\n? [a]\n: 1\n", "2:3: a key is a text, not a list"),
            ("version: 2\n---\nversion: 2\n", "2:1: a second document is not read"),
            ("version: 2\nmetrcs: {}\n", "2:1: 'metrcs' is not a key of a configuration file; did you mean 'metrics'?"),
            ("version: 2\nkubernetes: true\n", "2:1: 'kubernetes' is for Kubernetes; this exporter is for bare metal"),
            ("version: 2\nsources: {podResources: {}}\n", "2:11: 'podResources' is for Kubernetes"),
            (
                "version: 2\ncollection: {interval: 1s}\n",
                "2:1: 'collection' belongs to version 1, and this file has version 2",
            ),
            ("version: 1\ncollections: []\n", "2:1: 'collections' belongs to version 2, and this file has version 1"),
            ("version: 1\nsources: {dcgm: {watch: {maxKeepAge: 1s}}}\n", "2:18: 'watch' is not a key of sources.dcgm"),
            (
                "version: 2\nserver: {<<: {maxConcurrentScrapes: 1}}\n",
                "2:10: '<<' is not a key of server; merge keys are not read",
            ),
            ("version: 2\nmetrics: {}\n", "2:10: metrics has neither 'file' nor 'fields'"),
            ("version: 2\nmetrics: {file: a, fields: [{}]}\n", "metrics has both 'file' and 'fields'"),
            ("version: 2\nmetrics: {file: ''}\n", "2:17: metrics.file is empty"),
            ("version: 2\nmetrics: {file: [a]}\n", "2:17: metrics.file: expected one value, found a list"),
            ("version: 2\nmetrics: {fields: []}\n", "2:19: metrics.fields is empty; expected at least one item"),
            ("version: 2\nmetrics: {fields: A}\n", "2:19: metrics.fields: expected a list, found a single value"),
            (
                "version: 2\nmetrics: {enableExporterMetrics: 'false'}\n",
                "2:34: metrics.enableExporterMetrics: 'false' is a text",
            ),
            (
                "version: 2\nmetrics: {enableExporterMetrics: 1}\n",
                "2:34: metrics.enableExporterMetrics: '1' is not true or false",
            ),
            (&row("{name: A, help: h}"), "4:7: prometheusType is missing"),
            (&row("{name: A, prometheusType: gauge, help: ' '}"), "help is empty"),
            (
                &row("{name: A, prometheusType: gauge, help: h, type: x}"),
                "4:49: 'type' is not a key of an item of metrics.fields",
            ),
            (&row(&format!("{row_a}\n    - {row_a}")), "5:7: 'A' is given twice; the first is in line 4"),
            ("version: 2\ncollections:\n", "2:1: collections is empty"),
            ("version: 2\ncollections: []\n", "2:14: collections is empty"),
            (&item("{every: 1s, metrics: {include: [X]}}"), "3:5: name is missing"),
            (&item("{name: a, metrics: {include: [X]}}"), "3:5: every is missing"),
            (&item("{name: a, every: 1s}"), "3:5: metrics is missing"),
            (&item("{name: a, every: 1s, metrics: {}}"), "3:35: include is missing"),
            (&item("{name: a, every: 1s, metrics: {include: []}}"), "include is empty"),
            (&item("{name: a, every: 1s, metrics: {include: [X, [Y]]}}"), "include: expected one value, found a list"),
            (&item("{name: a, every: 1s, metrics: {include: ['[']}}"), "'[' is not a pattern"),
            (&item(&format!("{good}\n  - {good}")), "4:5: 'a' is given twice; the first is in line 3"),
            (&item(&format!("{good}\n  - {{name: a, {rest}")), "4:5: 'a' is given twice"),
            (&item(&format!("{{name: a, {rest}\n  - {{name: b, {rest}")), "4:5: a second collection includes ['*']"),
            (
                &item("{name: a, every: 30000, metrics: {include: [X]}}"),
                "3:22: every: '30000' is not a time; expected a number with its unit, such as 30s or 500ms (30000ms for",
            ),
            (&item("{name: a, every: 0s, metrics: {include: [X]}}"), "every: '0s' is not valid: expected 100ms to 24h"),
            (&item("{name: a, every: 25h, metrics: {include: [X]}}"), "expected 100ms to 24h"),
            (&item("{name: a, every: -1s, metrics: {include: [X]}}"), "every: '-1s' is not a time"),
            (
                &item("{name: a, every: 1500us, metrics: {include: [X]}}"),
                "every: '1500us' is not valid: expected whole milliseconds",
            ),
            (
                &item("{name: a, every: 1s, metrics: {include: [X]}, sources: {dcgm: {watch: {maxKeepAge: 0s}}}}"),
                "age and samples cannot both be 0",
            ),
            (
                &item("{name: a, every: 1s, metrics: {include: [X]}, sources: {dcgm: {watch: {maxKeepSamples: -1}}}}"),
                "watch.maxKeepSamples: -1 is not valid: expected 0 to 2147483647",
            ),
            (
                &item(
                    "{name: a, every: 1s, metrics: {include: [X]}, sources: {dcgm: {watch: {maxKeepSamples: 2147483648}}}}",
                ),
                "2147483648 is not valid",
            ),
            (&group("{interval: 1s, fields: [X]}"), "4:7: name is missing"),
            (&group("{name: a, fields: [X]}"), "4:7: interval is missing"),
            (&group("{name: a, interval: 1s}"), "4:7: fields is missing"),
            (
                &group("{name: a, interval: 1s, fields: [X], include: [Y]}"),
                "'include' is not a key of an item of collection.watchGroups",
            ),
            ("version: 1\ncollection: {interval: 99ms}\n", "2:24: collection.interval: '99ms' is not valid"),
            ("version: 2\nserver: {maxConcurrentScrapes: 0}\n", "2:32: server.maxConcurrentScrapes: 0 is too few"),
            (
                "version: 2\nserver: {maxConcurrentScrapes: 1.5}\n",
                "2:32: server.maxConcurrentScrapes: '1.5' is not a whole number",
            ),
            (
                "version: 2\nsources: {dcgm: {detectBindUnbind: {enabled: maybe}}}\n",
                "2:46: sources.dcgm.detectBindUnbind.enabled",
            ),
            (
                "version: 2\nsources: {dcgm: {detectBindUnbind: {pollInterval: 1}}}\n",
                "2:51: sources.dcgm.detectBindUnbind.pollInterval",
            ),
            ("version: 2\nmetrics:\n\tfile: x\n", "3:"),
            ("version: 2\nx: \0\n", "2:4: a NUL byte"),
            ("version: 2\nserver: *nobody\n", "2:9: this is not YAML"),
        ] {
            let found = problems(text);
            assert!(found.len() == 1 && found[0].contains(wanted), "{text:?}: {found:?} for '{wanted}'");
        }
    }

    #[test]
    fn all_problems_are_reported_and_odd_bytes_have_a_place() {
        let found = problems("version: 2\nmetrics: {files: x}\nserver: {max: 1}\ncollections: {}\n");
        assert_eq!(found.len(), 4, "{found:?}");
        let found = ConfigFile::parse(b"version: 2\n# caf\xe9\n").unwrap_err();
        assert_eq!(found[0].to_string(), "2:6: byte 0xe9 is not UTF-8");
    }

    #[test]
    fn anchors_are_followed_and_a_flood_is_refused() {
        let text = "version: 2\ncollections:\n  - {name: a, every: 1s, metrics: &m {include: [X]}}\n  - {name: b, every: 2s, metrics: \
                    *m}\n";
        assert_eq!(ConfigFile::parse(text.as_bytes()).unwrap().collections.len(), 2);
        let many: String =
            (0..20).map(|n| format!("  - {{name: c{n}, every: 1s, metrics: {{include: [X{n}]}}}}\n")).collect();
        let found = problems(&format!("version: 2\ncollections:\n{many}"));
        assert!(found.len() == 1 && found[0].contains("more than 16 collections"), "{found:?}");
        let patterns = "X,".repeat(5000);
        let found = problems(&format!(
            "version: 2\ncollections:\n  - {{name: c, every: 1s, metrics: {{include: [{patterns}]}}}}\n"
        ));
        assert!(found.len() == 1 && found[0].contains("more than 4096 patterns"), "{found:?}");
        let keys: String = (0..1000).map(|n| format!("k{n}: 1\n")).collect();
        let found = problems(&format!("version: 2\n{keys}"));
        assert!(found.len() == 21 && found[20].starts_with("22:1: 980 more from here on"), "{:?}", found.last());
        for deep in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
            assert_eq!(problems(&format!("version: 2\nx: {deep}")).len(), 1);
        }
    }
}
