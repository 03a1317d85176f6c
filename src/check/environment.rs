//! Environment files, as systemd reads them: not as a shell does.
//!
//! What stands behind a value belongs to it, also `# a comment`; `export NAME=` names no variable, and systemd leaves such a
//! line out with one line in its log.

/// What a file assigns, and what is said of lines that do not mean what they seem to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub variables: Vec<(String, String)>,
    /// Names that systemd refuses, with their values.
    pub refused: Vec<(String, String)>,
}

#[derive(Clone, Copy)]
enum State {
    /// Before a name.
    Start,
    Name,
    /// Behind the equals sign, or behind a closing quote.
    Begin,
    Value,
    Quoted(char),
    Comment,
}

/// Reads a file, as `load_env_file` of systemd does.
pub fn read(text: &str) -> Environment {
    let mut found = Environment::default();
    let (mut name, mut value, mut state) = (String::new(), String::new(), State::Start);
    // Blanks at the end of a value are cut, unless they were quoted.
    let mut kept = 0;
    // The end of the file is the end of a line.
    let mut characters = text.chars().chain(['\n']).peekable();
    while let Some(character) = characters.next() {
        let is_blank = matches!(character, ' ' | '\t' | '\r');
        match (state, character) {
            (State::Start, '#' | ';') => state = State::Comment,
            (State::Start, '\n') => {}
            (State::Start, _) if is_blank => {}
            (State::Start, _) => {
                name = character.to_string();
                state = State::Name;
            }
            (State::Name | State::Comment, '\n') => state = State::Start,
            (State::Name, '=') => {
                (value, kept, state) = (String::new(), 0, State::Begin);
            }
            (State::Name, _) => name.push(character),
            (State::Comment, _) => {}
            (State::Begin | State::Value, '\n') => {
                value.truncate(kept.max(value.trim_end().len()));
                found.assign(name.trim_end().to_owned(), std::mem::take(&mut value));
                state = State::Start;
            }
            (State::Begin, '\'' | '"') => state = State::Quoted(character),
            (State::Begin, _) if is_blank => {}
            (State::Begin | State::Value, '\\') => {
                value.extend(characters.next().filter(|next| *next != '\n'));
                (kept, state) = (value.len(), State::Value);
            }
            (State::Begin | State::Value, _) => {
                value.push(character);
                state = State::Value;
            }
            (State::Quoted(quote), _) if character == quote => (kept, state) = (value.len(), State::Begin),
            (State::Quoted('"'), '\\') => match characters.next() {
                Some('\n') | None => {}
                Some(next) if matches!(next, '"' | '\\' | '`' | '$') => value.push(next),
                Some(next) => value.extend(['\\', next]),
            },
            (State::Quoted(_), _) => value.push(character),
        }
    }
    found
}

impl Environment {
    fn assign(&mut self, name: String, value: String) {
        let is_name = name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
        match is_name && !name.starts_with(|c: char| c.is_ascii_digit()) {
            true => self.variables.push((name, value)),
            false => self.refused.push((name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_systemd_reads_it() {
        for (text, expected) in [
            ("A=1\nB = 2 \n", &[("A", "1"), ("B", "2")][..]),
            ("# A=1\n ; A=2\nA=3", &[("A", "3")]),
            ("A=10s   # every ten seconds\n", &[("A", "10s   # every ten seconds")]),
            ("A='x y'\nB=\"x y \"  \n", &[("A", "x y"), ("B", "x y ")]),
            ("A='x' # y\n", &[("A", "x# y")]),
            ("A=\"a\\\"b\\$c\\d\"\n", &[("A", "a\"b$c\\d")]),
            ("A=a\\\nb\nB=a\\ \n", &[("A", "ab"), ("B", "a ")]),
            ("A='1\n2'\nB=x\"y\"\n", &[("A", "1\n2"), ("B", "x\"y\"")]),
            ("no assignment\nA=\r\nB=1\r\n", &[("A", ""), ("B", "1")]),
        ] {
            let found = read(text).variables;
            let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (&**name, &**value)).collect();
            assert_eq!(found, expected, "{text:?}");
        }
        let found = read("export A=1\n2B=3\nC=4\n");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(found.refused, [pair("export A", "1"), pair("2B", "3")]);
        assert_eq!(found.variables, [pair("C", "4")]);
    }
}
