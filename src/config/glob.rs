//! Patterns for names of fields, as Go's `path.Match` has them: `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before a character
//! that is meant as itself. A pattern is for the whole name.

/// A pattern that has been understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Any number of characters.
    Any,
    One,
    This(char),
    Class {
        is_negated: bool,
        /// First and last, both included.
        ranges: Vec<(char, char)>,
    },
}

impl Part {
    fn takes(&self, character: char) -> bool {
        match self {
            // As in a path, a slash is only matched by itself.
            Part::Any | Part::One => character != '/',
            Part::This(this) => character == *this,
            Part::Class { is_negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&character)) != *is_negated
            }
        }
    }
}

impl Pattern {
    /// Errors: what is wrong with it.
    pub fn parse(text: &str) -> Result<Pattern, &'static str> {
        const ESCAPE: &str = "a \\ needs the character that it escapes after it";
        let (mut parts, mut rest) = (Vec::new(), text.chars());
        while let Some(character) = rest.next() {
            match character {
                // Two stars match what one does.
                '*' if parts.last() == Some(&Part::Any) => {}
                '*' => parts.push(Part::Any),
                '?' => parts.push(Part::One),
                '\\' => parts.push(Part::This(rest.next().ok_or(ESCAPE)?)),
                '[' => parts.push(class(&mut rest)?),
                _ => parts.push(Part::This(character)),
            }
        }
        Ok(Pattern { text: text.to_owned(), parts })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// In time of length times length: after a mismatch only the last star takes one more character.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut part, mut at, mut star) = (0, 0, None);
        while at < name.len() {
            match self.parts.get(part) {
                Some(Part::Any) => {
                    star = Some((part, at));
                    part += 1;
                }
                Some(known) if known.takes(name[at]) => (part, at) = (part + 1, at + 1),
                _ => match star {
                    Some((of, from)) if Part::Any.takes(name[from]) => {
                        star = Some((of, from + 1));
                        (part, at) = (of + 1, from + 1);
                    }
                    _ => return false,
                },
            }
        }
        self.parts[part..].iter().all(|part| *part == Part::Any)
    }
}

/// The rest of a class, whose bracket was taken.
fn class(rest: &mut std::str::Chars<'_>) -> Result<Part, &'static str> {
    const OPEN: &str = "a [ needs a ] after it and characters between them, such as [0-9]";
    let is_negated = rest.as_str().starts_with('^');
    if is_negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        if rest.as_str().starts_with(']') && !ranges.is_empty() {
            rest.next();
            return Ok(Part::Class { is_negated, ranges });
        }
        let first = of_class(rest).ok_or(OPEN)?;
        let mut last = first;
        if rest.as_str().starts_with('-') {
            rest.next();
            last = of_class(rest).ok_or(OPEN)?;
        }
        ranges.push((first, last));
    }
}

fn of_class(rest: &mut std::str::Chars<'_>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        character => Some(character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_matches_them() {
        for (pattern, name, matches) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "abc", true),
            ("*", "", true),
            ("*c", "abc", true),
            ("a*", "abc", true),
            ("a*b*c", "axxbxxc", true),
            ("a*b*c", "axxbxxd", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a\u{263a}b", true),
            ("a[^a][^a][^a]b", "a\u{263a}b", false),
            ("[a-\u{3b6}]*", "\u{3b1}", true),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "-", true),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
            ("DCGM_FI_PROF_*", "DCGM_FI_PROF_GR_ENGINE_ACTIVE", true),
            ("DCGM_FI_PROF_*", "dcgm_fi_prof_x", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(name), matches, "{pattern} {name}");
        }
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "\\", "a\\", "[a-b-c]"] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern::parse(&"a*".repeat(5000)).unwrap();
        assert!(!pattern.matches(&"a".repeat(4999)));
    }
}
