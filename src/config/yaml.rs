//! YAML with positions, read strictly: every problem has its line and column, and an unknown key is a problem.
//!
//! The syntax is `saphyr-parser`'s, whose events carry positions. The tree keeps scalars as they are written, so that
//! the reader of a value decides what it is: `X-XSS-Protection: 1` is a text there and a number elsewhere.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Deeper nesting than this is refused; no file of ours needs more than five levels.
const DEEPEST: usize = 32;
/// Keys and values that a file may have: enough for the most rows and patterns.
const MOST_VALUES: usize = 20_000;
/// About what a value takes in memory, in bytes, besides its text.
const PER_VALUE: usize = 200;
/// How large a file may become, values and text; aliases can make a small file large.
const LARGEST: usize = MOST_VALUES * PER_VALUE;

/// Unknown keys that are compared with the known ones.
const MOST_HINTS: usize = 50;
/// Further ones are only counted.
const MOST_PROBLEMS: usize = 20;

/// A place in a file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    fn of(span: Span) -> Position {
        Position { line: span.start.line(), column: span.start.col() + 1 }
    }
}

/// Something that is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub at: Position,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name or a value may be as long as the file.
        write!(f, "{}:{}: {}", self.at.line, self.at.column, cut_middle(&self.what))
    }
}

/// A message without its middle where it is long: the end says what was expected.
fn cut_middle(message: &str) -> Cow<'_, str> {
    const KEPT: usize = 300;
    match (message.char_indices().nth(KEPT), message.char_indices().nth_back(KEPT - 1)) {
        (Some((start, _)), Some((end, _))) if start < end => {
            Cow::Owned(format!("{}… ({} bytes) …{}", &message[..start], end - start, &message[end..]))
        }
        _ => Cow::Borrowed(message),
    }
}

/// What is printed of the problems of a file: the first ones, by place, and how many follow.
pub fn first(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort();
    if problems.len() > MOST_PROBLEMS {
        let what = format!("{} more from here on", problems.len() - MOST_PROBLEMS);
        problems[MOST_PROBLEMS].what = what;
        problems.truncate(MOST_PROBLEMS + 1);
    }
    problems
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub at: Position,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar as it is written.
    Scalar(String),
    /// A scalar in quotes or as a block, without them: a text, whatever it looks like.
    Quoted(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub at: Position,
    pub name: String,
}

impl Value {
    fn name(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Scalar(_) | Value::Quoted(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "keys with values",
        }
    }
}

/// Parses a text with one document; an empty one is [`Value::Null`].
///
/// Errors: bad syntax, a key that is given twice, a second document, too deep or too large a document.
pub fn parse(text: &str) -> Result<Node, Problem> {
    let mut builder = Builder::default();
    // A byte order mark is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| Problem {
            at: Position { line: error.marker().line().max(1), column: error.marker().col() + 1 },
            what: format!("this is not YAML: {}", error.info()),
        })?;
        builder.take(event, Position::of(span))?;
    }
    Ok(builder.root.unwrap_or(Node { at: Position { line: 1, column: 1 }, value: Value::Null }))
}

/// Builds the tree from events.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    /// Nodes with an anchor, by its number.
    anchors: HashMap<usize, Node>,
    /// Of what has been made so far.
    size: usize,
}

/// A list or map whose end has not come.
struct Open {
    node: Node,
    anchor: usize,
    /// In a map: the key whose value comes next.
    key: Option<Key>,
    /// In a map: the line of each key.
    lines: HashMap<String, usize>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: Position) -> Result<(), Problem> {
        let (value, anchor) = match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err(Problem {
                    at,
                    what: "a second document is not read; one file holds one document".to_owned(),
                });
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor);
                let known = known.ok_or_else(|| Problem { at, what: "this alias refers to itself".to_owned() })?;
                // Before the copy is made.
                grow(&mut self.size, size(known), at)?;
                (known.value.clone(), 0)
            }
            Event::Scalar(text, style, anchor, _) => {
                grow(&mut self.size, PER_VALUE + text.len(), at)?;
                let value = match (style, &*text) {
                    (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
                    (ScalarStyle::Plain, _) => Value::Scalar(text.into_owned()),
                    _ => Value::Quoted(text.into_owned()),
                };
                (value, anchor)
            }
            Event::SequenceStart(anchor, _) => return self.begin(Node { at, value: Value::List(Vec::new()) }, anchor),
            Event::MappingStart(anchor, _) => return self.begin(Node { at, value: Value::Map(Vec::new()) }, anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => return self.add(open.node, open.anchor),
                None => return Ok(()),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                return Ok(());
            }
        };
        self.add(Node { at, value }, anchor)
    }

    fn begin(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if self.open.len() >= DEEPEST {
            return Err(Problem { at: node.at, what: format!("nested deeper than {DEEPEST} levels") });
        }
        grow(&mut self.size, PER_VALUE, node.at)?;
        self.open.push(Open { node, anchor, key: None, lines: HashMap::new() });
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if anchor != 0 {
            grow(&mut self.size, size(&node), node.at)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut parent.node.value, parent.key.take()) {
            (Value::Map(entries), Some(key)) => entries.push((key, node)),
            (Value::Map(_), None) => {
                let name = match node.value {
                    Value::Scalar(name) | Value::Quoted(name) => name,
                    Value::Null => "null".to_owned(),
                    other => {
                        return Err(Problem { at: node.at, what: format!("a key is a text, not {}", other.name()) });
                    }
                };
                if let Some(first) = parent.lines.insert(name.clone(), node.at.line) {
                    let what = format!("'{name}' is given twice; the first is in line {first}");
                    return Err(Problem { at: node.at, what });
                }
                parent.key = Some(Key { at: node.at, name });
            }
            (Value::List(items), _) => items.push(node),
            (Value::Null | Value::Scalar(_) | Value::Quoted(_), _) => {}
        }
        Ok(())
    }
}

fn grow(total: &mut usize, by: usize, at: Position) -> Result<(), Problem> {
    *total += by;
    if *total <= LARGEST {
        return Ok(());
    }
    let what = format!("more than {MOST_VALUES} values or {LARGEST} bytes of text, aliases counted");
    Err(Problem { at, what })
}

fn size(node: &Node) -> usize {
    PER_VALUE
        + match &node.value {
            Value::Null => 0,
            Value::Scalar(text) | Value::Quoted(text) => text.len(),
            Value::List(items) => items.iter().map(size).sum(),
            Value::Map(entries) => entries.iter().map(|(key, node)| PER_VALUE + key.name.len() + size(node)).sum(),
        }
}

/// Reads a tree as what a file should be, and collects everything that is wrong with it.
#[derive(Default)]
pub struct Reader {
    pub problems: Vec<Problem>,
}

impl Reader {
    pub fn problem(&mut self, at: Position, what: impl Into<String>) {
        self.problems.push(Problem { at, what: what.into() });
    }

    /// The entries of a map that has these keys and no others. Nothing counts as an empty map.
    pub fn map<'a>(&mut self, node: &'a Node, what: &str, known: &[&str]) -> Map<'a> {
        let entries = self.entries(node, what);
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            self.unknown(key, what, known);
        }
        Map { entries }
    }

    /// Reports a key that is not known.
    pub fn unknown(&mut self, key: &Key, what: &str, known: &[&str]) {
        // A file with so many is not meant to be one of ours, and to compare names takes time.
        let names = if self.problems.len() < MOST_HINTS { known } else { &[] };
        let nearest = names.iter().max_by(|a, b| alike(&key.name, a).total_cmp(&alike(&key.name, b)));
        let hint = match nearest.filter(|known| alike(&key.name, known) > 0.8) {
            _ if key.name == "<<" => "merge keys are not read; write the keys themselves".to_owned(),
            Some(known) => format!("did you mean '{known}'?"),
            None => format!("expected {}", known.join(", ")),
        };
        self.problem(key.at, format!("'{}' is not a key of {what}; {hint}", key.name));
    }

    /// All entries of a map with any keys.
    pub fn entries<'a>(&mut self, node: &'a Node, what: &str) -> &'a [(Key, Node)] {
        match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            other => {
                self.problem(node.at, format!("{what}: expected keys with values, found {}", other.name()));
                &[]
            }
        }
    }

    pub fn list<'a>(&mut self, node: &'a Node, what: &str) -> &'a [Node] {
        match &node.value {
            Value::List(items) => items,
            Value::Null => &[],
            other => {
                self.problem(node.at, format!("{what}: expected a list, found {}", other.name()));
                &[]
            }
        }
    }

    /// A scalar's text, whatever else it could be read as; nothing is the empty text.
    pub fn text<'a>(&mut self, node: &'a Node, what: &str) -> Option<&'a str> {
        match &node.value {
            Value::Scalar(text) | Value::Quoted(text) => Some(text),
            Value::Null => Some(""),
            other => {
                self.problem(node.at, format!("{what}: expected one value, found {}", other.name()));
                None
            }
        }
    }

    /// A boolean in any of YAML's spellings.
    pub fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        let text = self.text(node, what)?;
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Some(true),
            "false" | "no" | "off" | "n" => Some(false),
            _ => {
                self.problem(node.at, format!("{what}: '{text}' is not true or false"));
                None
            }
        }
    }
}

/// A map's entries, found by name.
#[derive(Clone, Copy)]
pub struct Map<'a> {
    entries: &'a [(Key, Node)],
}

impl<'a> Map<'a> {
    pub fn new(entries: &'a [(Key, Node)]) -> Map<'a> {
        Map { entries }
    }

    /// The place of a key, also of one with nothing behind it.
    pub fn place_of(&self, name: &str) -> Option<Position> {
        self.entries.iter().find(|(key, _)| key.name == name).map(|(key, _)| key.at)
    }

    /// The value of a key; a key with nothing behind it counts as not there.
    pub fn get(&self, name: &str) -> Option<&'a Node> {
        let found = self.entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node);
        found.filter(|node| node.value != Value::Null)
    }
}

fn alike(a: &str, b: &str) -> f64 {
    strsim::jaro_winkler(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(node: &Node) -> &str {
        match &node.value {
            Value::Scalar(text) | Value::Quoted(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_tree_has_its_places() {
        let node = parse("# a comment\na:\n  b: 'x y'\n  c: |\n    one\n    two\nlist: [1, two]\nnone:\n").unwrap();
        let mut reader = Reader::default();
        let map = reader.map(&node, "the file", &["a", "list", "none"]);
        let a = reader.map(map.get("a").unwrap(), "a", &["b", "c"]);
        assert_eq!((scalar(a.get("b").unwrap()), a.get("b").unwrap().at), ("x y", Position { line: 3, column: 6 }));
        assert_eq!(scalar(a.get("c").unwrap()), "one\ntwo\n");
        assert_eq!(reader.list(map.get("list").unwrap(), "list").iter().map(scalar).collect::<Vec<_>>(), ["1", "two"]);
        assert!(map.get("none").is_none());
        assert!(reader.problems.is_empty());
        assert_eq!(parse("").unwrap().value, Value::Null);
        assert_eq!(
            parse("x: &a {k: v}\ny: *a\n"),
            parse("x: &a {k: v}\ny: {k: v}\n").map(|mut node| {
                if let Value::Map(entries) = &mut node.value {
                    entries[1].1.at = Position { line: 2, column: 4 };
                    entries[1].1.value = entries[0].1.value.clone();
                }
                node
            })
        );
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        for (text, problem) in [
            ("a: 1\nb: 2\na: 3\n", "3:1: 'a' is given twice; the first is in line 1"),
            ("a: 1\n---\nb: 2\n", "2:1: a second document is not read"),
            ("? [x]\n: 1\n", "1:3: a key is a text, not a list"),
            ("a: b: c\n", "1:5: this is not YAML"),
            ("a: [1\n", "this is not YAML"),
            ("a: \"x\n", "this is not YAML"),
            ("x: *nobody\n", "this is not YAML"),
        ] {
            let found = parse(text).unwrap_err().to_string();
            assert!(found.contains(problem), "{text:?}: {found}");
        }
        let node = parse("lisst: 1\ntls: yes\nlist: x\n").unwrap();
        let mut reader = Reader::default();
        let map = reader.map(&node, "the file", &["tls", "list"]);
        assert_eq!(reader.boolean(map.get("tls").unwrap(), "tls"), Some(true));
        reader.list(map.get("list").unwrap(), "list");
        let problems: Vec<String> = reader.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "1:1: 'lisst' is not a key of the file; did you mean 'list'?",
                "3:7: list: expected a list, found a single value"
            ]
        );
    }

    #[test]
    fn small_files_do_not_become_large() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let list = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(parse(&bomb).unwrap_err().what.contains("more than"));
        let heavy = format!("a: &a {}\nl: [{}]\n", "x".repeat(100_000), "*a, ".repeat(1000));
        assert!(parse(&heavy).unwrap_err().what.contains("more than"));
        let anchors: String = (0..21_000).map(|n| format!("- &a{n} x\n- *a{n}\n")).collect();
        assert!(parse(&anchors).unwrap_err().what.contains("more than"));
        let flow = format!("{{{}}}", (0..20_000).map(|n| format!("{n}: ,")).collect::<String>());
        assert!(parse(&flow).unwrap_err().what.contains("more than"));
        // The most rows of a file, in the deepest place that they have.
        let rows = "    - {name: A, prometheusType: gauge, help: x}\n".repeat(2000);
        parse(&format!("metrics:\n  fields:\n{rows}")).unwrap();
        assert!(parse(&"[".repeat(DEEPEST + 1)).unwrap_err().what.contains("nested deeper"));
    }

    #[test]
    fn what_is_wrong_with_a_large_file_is_short() {
        let keys: String = (0..1000).map(|n| format!("{n}{}: 1\n", "x".repeat(1000))).collect();
        let node = parse(&keys).unwrap();
        let mut reader = Reader::default();
        reader.map(&node, "the file", &["tls", "list"]);
        let problems: Vec<String> = first(reader.problems).iter().map(ToString::to_string).collect();
        assert_eq!((problems.len(), &problems[20][..]), (21, "21:1: 980 more from here on"));
        assert!(problems[0].len() < 700 && problems[0].ends_with("is not a key of the file; expected tls, list"));
    }

    #[test]
    fn long_messages_keep_both_ends() {
        assert!(matches!(cut_middle(&"ä".repeat(600)), Cow::Borrowed(_)));
        let (start, end) = ("ä".repeat(300), "ö".repeat(300));
        assert_eq!(cut_middle(&format!("{start}xyz{end}")), format!("{start}… (3 bytes) …{end}"));
    }
}
