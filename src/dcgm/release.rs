//! A release of DCGM, such as 4.6.0: what an engine does can depend on it.

use std::fmt;

/// Ordered as releases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Release {
    pub const fn new(major: u32, minor: u32, patch: u32) -> Release {
        Release { major, minor, patch }
    }

    /// Reads `4.6.0`, also with something behind it (`4.6.0-1`). A missing number is 0; `None` if there is no major one.
    pub fn parse(text: &str) -> Option<Release> {
        let mut numbers = text.trim().split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse::<u32>().ok()
        });
        let major = numbers.next().flatten()?;
        let mut next = || numbers.next().flatten().unwrap_or(0);
        Some(Release { major, minor: next(), patch: next() })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_their_order() {
        for (text, expected) in [
            ("4.6.0", Some((4, 6, 0))),
            (" 4.10.2-1 ", Some((4, 10, 2))),
            ("3.3", Some((3, 3, 0))),
            ("4", Some((4, 0, 0))),
            ("", None),
            ("unknown", None),
        ] {
            let expected = expected.map(|(major, minor, patch)| Release::new(major, minor, patch));
            assert_eq!(Release::parse(text), expected, "{text}");
        }
        assert!(Release::new(4, 10, 0) > Release::new(4, 9, 9));
        assert_eq!(Release::new(4, 6, 0).to_string(), "4.6.0");
    }
}
