//! JSON, read from front to back: what nobody asks for is skipped, so that an answer of any shape costs no memory.

/// Why a text is no JSON, or not of the form that was expected, and at which byte.
#[derive(Debug, PartialEq)]
pub struct Malformed(pub usize);

pub type Result<T> = std::result::Result<T, Malformed>;

/// Arrays and objects may stand in each other this deep.
const DEEPEST: u32 = 64;

pub struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a [u8]) -> Reader<'a> {
        Reader { text, at: 0, depth: 0 }
    }

    /// Reads an object: `each` is called at every value and has to read or skip it. `null` has none.
    pub fn object(&mut self, each: &mut dyn FnMut(&str, &mut Reader<'a>) -> Result<()>) -> Result<()> {
        self.sequence(b'{', b'}', &mut |reader| {
            let name = reader.string()?;
            reader.expect(b':')?;
            each(&name, reader)
        })
    }

    /// The same for an array.
    pub fn array(&mut self, each: &mut dyn FnMut(&mut Reader<'a>) -> Result<()>) -> Result<()> {
        self.sequence(b'[', b']', each)
    }

    fn sequence(&mut self, open: u8, close: u8, each: &mut dyn FnMut(&mut Reader<'a>) -> Result<()>) -> Result<()> {
        if self.next() == Some(b'n') {
            return self.word("null");
        }
        self.expect(open)?;
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.malformed();
        }
        let mut is_first = true;
        loop {
            match self.next() {
                Some(byte) if byte == close => break self.at += 1,
                Some(b',') if !is_first => self.at += 1,
                Some(_) if is_first => {}
                _ => return self.malformed(),
            }
            is_first = false;
            each(self)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// A string, without what is no text.
    pub fn string(&mut self) -> Result<String> {
        self.expect(b'"')?;
        let mut bytes = Vec::new();
        loop {
            let byte = *self.text.get(self.at).ok_or(Malformed(self.at))?;
            self.at += 1;
            match byte {
                b'"' => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                b'\\' => self.escape(&mut bytes)?,
                0..0x20 => return self.malformed(),
                other => bytes.push(other),
            }
        }
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let byte = *self.text.get(self.at).ok_or(Malformed(self.at))?;
        self.at += 1;
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut code = u32::from(self.unit()?);
                if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let low = u32::from(self.unit()?);
                    code = match low {
                        0xdc00..0xe000 => 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00),
                        _ => u32::from(char::REPLACEMENT_CHARACTER),
                    };
                }
                let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.malformed(),
        };
        bytes.push(plain);
        Ok(())
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Result<u16> {
        let digits = self.text.get(self.at..self.at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        let is_hex = |digits: &&str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let unit = digits.filter(is_hex).and_then(|digits| u16::from_str_radix(digits, 16).ok());
        self.at += 4;
        unit.ok_or(Malformed(self.at - 4))
    }

    /// Text, or an empty one where there is `null` or anything else.
    pub fn text(&mut self) -> Result<String> {
        if self.next() == Some(b'"') { self.string() } else { self.skip().map(|()| String::new()) }
    }

    /// A whole number; `None` where there is anything else.
    pub fn integer(&mut self) -> Result<Option<i64>> {
        self.next();
        let start = self.at;
        self.skip()?;
        Ok(std::str::from_utf8(&self.text[start..self.at]).ok().and_then(|digits| digits.parse().ok()))
    }

    /// A number; `None` where there is anything else.
    pub fn number(&mut self) -> Result<Option<f64>> {
        self.next();
        let start = self.at;
        self.skip()?;
        let text = std::str::from_utf8(&self.text[start..self.at]).ok();
        Ok(text.and_then(|digits| digits.parse().ok()).filter(|number: &f64| number.is_finite()))
    }

    /// Passes over a value.
    pub fn skip(&mut self) -> Result<()> {
        match self.next() {
            Some(b'{') => self.object(&mut |_, reader| reader.skip()),
            Some(b'[') => self.array(&mut |reader| reader.skip()),
            Some(b'"') => self.string().map(drop),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(b'-' | b'0'..=b'9') => {
                let is_number = |byte: &&u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                self.at += self.text[self.at..].iter().take_while(is_number).count();
                Ok(())
            }
            _ => self.malformed(),
        }
    }

    /// Nothing but blanks is left.
    pub fn end(&mut self) -> Result<()> {
        if self.next().is_none() { Ok(()) } else { self.malformed() }
    }

    /// The next byte that is no blank; it is not taken.
    fn next(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                other => return Some(*other),
            }
        }
        None
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.next() != Some(byte) {
            return self.malformed();
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<()> {
        if !self.text[self.at..].starts_with(word.as_bytes()) {
            return self.malformed();
        }
        self.at += word.len();
        Ok(())
    }

    fn malformed<T>(&self) -> Result<T> {
        Err(Malformed(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All strings of a text, names of members included, as a serializer would see them.
    fn strings(text: &[u8]) -> Result<Vec<String>> {
        fn walk(reader: &mut Reader<'_>, found: &mut Vec<String>) -> Result<()> {
            match reader.next() {
                Some(b'{') => reader.object(&mut |name, reader| {
                    found.push(name.to_owned());
                    walk(reader, found)
                }),
                Some(b'[') => reader.array(&mut |reader| walk(reader, found)),
                Some(b'"') => reader.string().map(|string| found.push(string)),
                _ => reader.skip(),
            }
        }
        let (mut reader, mut found) = (Reader::new(text), Vec::new());
        walk(&mut reader, &mut found)?;
        reader.end()?;
        Ok(found)
    }

    #[test]
    fn what_others_write_is_read() {
        let value = serde_json::json!({
            "a \"b\"\\\n\u{1}": ["\u{e4}\u{1f600}", -1.5e3, true, false, null, {}, [], [[["x"]]]],
        });
        let expected = ["a \"b\"\\\n\u{1}", "\u{e4}\u{1f600}", "x"];
        for text in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
            assert_eq!(strings(text.as_bytes()).unwrap(), expected);
        }
        let escapes = br#" [ "\ud83d\ude00\u00e4\/\b", "\ud83d", "\ud83dA" ] "#;
        assert_eq!(strings(escapes).unwrap(), ["\u{1f600}\u{e4}/\u{8}", "\u{fffd}", "\u{fffd}A"]);
        let mut reader = Reader::new(b"[-1, 2.5, \"3\", 99999999999999999999]");
        let mut numbers = Vec::new();
        reader.array(&mut |reader| reader.integer().map(|number| numbers.push(number))).unwrap();
        assert_eq!(numbers, [Some(-1), None, None, None]);
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            "[",
            "]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\n\"",
            "nul",
            "[] []",
            "\u{1}",
            "\"\\ud83d\\u\"",
        ] {
            assert!(strings(text.as_bytes()).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(strings(deep.as_bytes()), Err(Malformed(65)), "the stack is not the limit");
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_it_panic(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = strings(&text);
            let like: Vec<u8> = text.iter().map(|byte| b"{}[]\",:\\u0aen-1 "[usize::from(*byte) % 16]).collect();
            let _ = strings(&like);
        }
    }
}
