//! What a client takes: the header fields `Accept` (RFC 9110, 12.5.1) and `Accept-Encoding` (12.5.3), and which form of
//! the page it gets.
//!
//! There are three formats, and the first is for everybody who does not ask for another: an unknown or contradictory
//! wish is never an error. The text formats 0.0.4 and 1.0.0 are the same bytes here, because all names are in the old
//! character set; only the content type tells them apart.

use std::borrow::Cow;

use crate::config::OpenMetrics;

/// A form of the page, but for its compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// The Prometheus text format, version 0.0.4.
    Text,
    /// The same, version 1.0.0.
    Text1(Escaping),
    /// OpenMetrics, version 1.0.0.
    OpenMetrics(Escaping),
}

/// How names beyond the old character set would be escaped, as the client asked for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Escaping {
    #[default]
    Unnamed,
    AllowUtf8,
    /// Also for a client that asks for `dots`, which would double every underscore.
    Underscores,
    Values,
}

/// The content types of a format, by escaping.
macro_rules! content_types {
    ($escaping:expr, $format:literal) => {
        match $escaping {
            Escaping::Unnamed => concat!($format, "; charset=utf-8"),
            Escaping::AllowUtf8 => concat!($format, "; charset=utf-8; escaping=allow-utf-8"),
            Escaping::Underscores => concat!($format, "; charset=utf-8; escaping=underscores"),
            Escaping::Values => concat!($format, "; charset=utf-8; escaping=values"),
        }
    };
}

impl Form {
    pub const ALL: [Form; 9] = [
        Form::Text,
        Form::Text1(Escaping::Unnamed),
        Form::Text1(Escaping::AllowUtf8),
        Form::Text1(Escaping::Underscores),
        Form::Text1(Escaping::Values),
        Form::OpenMetrics(Escaping::Unnamed),
        Form::OpenMetrics(Escaping::AllowUtf8),
        Form::OpenMetrics(Escaping::Underscores),
        Form::OpenMetrics(Escaping::Values),
    ];

    pub fn content_type(self) -> &'static str {
        match self {
            Form::Text => "text/plain; version=0.0.4; charset=utf-8",
            Form::Text1(escaping) => content_types!(escaping, "text/plain; version=1.0.0"),
            Form::OpenMetrics(escaping) => content_types!(escaping, "application/openmetrics-text; version=1.0.0"),
        }
    }

    /// The form that has exactly this content type.
    pub fn of_content_type(content_type: &str) -> Option<Form> {
        Form::ALL.into_iter().find(|form| form.content_type() == content_type)
    }

    pub fn is_open_metrics(self) -> bool {
        matches!(self, Form::OpenMetrics(_))
    }
}

/// Media ranges that the page may be in.
const RANGES: [&str; 5] = [PLAIN, OPEN_METRICS, HTML, ANY, ANY_TEXT];
const HTML: &str = "text/html";
const PLAIN: &str = "text/plain";
const OPEN_METRICS: &str = "application/openmetrics-text";
const ANY: &str = "*/*";
const ANY_TEXT: &str = "text/*";

/// What `Accept` says, as weights in thousandths; `None` for what it does not name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accept {
    /// `*/*`.
    any: Option<u16>,
    /// `text/*`.
    any_text: Option<u16>,
    html: Option<u16>,
    /// `text/plain` without a version.
    plain: Option<u16>,
    text_0_0_4: Option<u16>,
    text_1_0_0: Option<u16>,
    text_escaping: Escaping,
    /// OpenMetrics 1.0.0, or without a version.
    open_metrics: Option<u16>,
    open_metrics_escaping: Escaping,
}

impl Accept {
    /// Reads one header line; several are one list. Allocates only for parameters in quotes.
    pub fn read(&mut self, value: &str) {
        for member in split(value, ',') {
            let mut parts = split(member, ';');
            let range = parts.next().unwrap_or_default().trim();
            let Some(range) = RANGES.into_iter().find(|known| known.eq_ignore_ascii_case(range)) else { continue };
            let (mut weight, mut version, mut escaping) = (1000, None, Escaping::Unnamed);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                let (name, value) = (name.trim(), unquoted(value.trim()));
                if name.eq_ignore_ascii_case("q") {
                    weight = thousandths(&value);
                } else if name.eq_ignore_ascii_case("version") {
                    version = Some(value);
                } else if name.eq_ignore_ascii_case("escaping") {
                    escaping = escaping_of(&value);
                }
            }
            let slot = match (range, version.as_deref()) {
                (HTML, _) => &mut self.html,
                (ANY, _) => &mut self.any,
                (ANY_TEXT, _) => &mut self.any_text,
                (PLAIN, None) => &mut self.plain,
                (PLAIN, Some("0.0.4")) => &mut self.text_0_0_4,
                (PLAIN, Some("1.0.0")) => &mut self.text_1_0_0,
                (OPEN_METRICS, None | Some("1.0.0")) => &mut self.open_metrics,
                _ => continue,
            };
            // Of a range that is named twice the greater weight counts.
            if slot.is_some_and(|known| known >= weight) {
                continue;
            }
            *slot = Some(weight);
            match (range, version.as_deref()) {
                (PLAIN, Some("1.0.0")) => self.text_escaping = escaping,
                (OPEN_METRICS, _) => self.open_metrics_escaping = escaping,
                _ => {}
            }
        }
    }

    /// Whether it names `text/plain` and likes it better than `text/html`. A wildcard is no wish for it: browsers and curl
    /// send one.
    pub fn prefers_plain(&self) -> bool {
        let plain = self.plain.or(self.text_0_0_4).or(self.text_1_0_0).unwrap_or(0);
        plain > self.html.unwrap_or(0)
    }

    /// The form of the page for this client. A wildcard is no wish for OpenMetrics, and does not speak against it either:
    /// a Prometheus that is told to take OpenMetrics alone ends its list with `*/*`.
    pub fn form(&self, policy: OpenMetrics) -> Form {
        let plain = self.plain.or(self.any_text);
        let old = self.text_0_0_4.or(plain);
        let new = self.text_1_0_0.or(plain).or(self.any).unwrap_or(0);
        let best = old.or(self.any).unwrap_or(0).max(new);
        let open_metrics = self.open_metrics.unwrap_or(0);
        let is_allowed = match policy {
            OpenMetrics::Always => true,
            OpenMetrics::Auto => old.unwrap_or(0) == 0,
            OpenMetrics::Never => false,
        };
        if is_allowed && open_metrics > 0 && open_metrics >= best {
            Form::OpenMetrics(self.open_metrics_escaping)
        } else if self.text_1_0_0.is_some() && new > old.or(self.any).unwrap_or(0) {
            Form::Text1(self.text_escaping)
        } else {
            Form::Text
        }
    }
}

fn escaping_of(name: &str) -> Escaping {
    let known = [
        ("allow-utf-8", Escaping::AllowUtf8),
        ("underscores", Escaping::Underscores),
        ("dots", Escaping::Underscores),
        ("values", Escaping::Values),
    ];
    let known = known.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    known.map_or(Escaping::Unnamed, |(_, escaping)| escaping)
}

/// The parts between separators that are not in quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = end_of_part(text, separator);
        rest = text.get(end + 1..);
        text.get(..end)
    })
}

fn end_of_part(text: &str, separator: char) -> usize {
    let first = text.find(separator).unwrap_or(text.len());
    if !text[..first].contains('"') {
        return first;
    }
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = text.find(|character| {
        if is_escaped {
            is_escaped = false;
        } else if is_quoted && character == '\\' {
            is_escaped = true;
        } else if character == '"' {
            is_quoted = !is_quoted;
        }
        character == separator && !is_quoted
    });
    end.unwrap_or(text.len())
}

/// A parameter's value without its quotes and escapes.
fn unquoted(value: &str) -> Cow<'_, str> {
    let Some(inner) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
        return Cow::Borrowed(value);
    };
    let mut text = String::new();
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        text.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    Cow::Owned(text)
}

/// What `Accept-Encoding` says, as weights in thousandths.
#[derive(Default)]
pub struct Encodings {
    gzip: Option<u16>,
    identity: Option<u16>,
    any: Option<u16>,
}

impl Encodings {
    /// Reads one header line; several are one list.
    pub fn read(&mut self, value: &str) {
        for member in value.split(',') {
            let mut parts = member.split(';').map(str::trim);
            let slot = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => &mut self.gzip,
                "identity" => &mut self.identity,
                "*" => &mut self.any,
                _ => continue,
            };
            let mut parameters = parts.filter_map(|part| part.split_once('='));
            let weight = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
            *slot = Some(weight.map_or(1000, |(_, weight)| thousandths(weight.trim())));
        }
    }

    /// Whether gzip is at least as welcome as plain text; `*` alone is no wish for it.
    pub fn prefer_gzip(&self) -> bool {
        let gzip = self.gzip.or(self.any).unwrap_or(0);
        let is_named = self.gzip.is_some();
        let identity = self.identity.unwrap_or(if is_named { 0 } else { gzip });
        gzip > 0 && (gzip > identity || (is_named && gzip == identity))
    }
}

/// A weight from 0 to 1 with up to three decimals; anything else counts as 0, because plain text is always right.
fn thousandths(weight: &str) -> u16 {
    let is_number = weight.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let weight = if is_number { weight.parse::<f32>().unwrap_or(0.0) } else { 0.0 };
    if weight <= 1.0 { (weight * 1000.0).round() as u16 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(lines: &[&str], policy: OpenMetrics) -> Form {
        let mut accept = Accept::default();
        lines.iter().for_each(|line| accept.read(line));
        accept.form(policy)
    }

    const OM: &str = "application/openmetrics-text";
    const ASKED: Form = Form::OpenMetrics(Escaping::Unnamed);
    const NEW: Form = Form::Text1(Escaping::Unnamed);

    /// By policy: auto, always.
    fn check(lines: &[&str], auto: Form, always: Form) {
        let lines: Vec<String> = lines.iter().map(|line| line.replace("OM", OM)).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(form(&lines, OpenMetrics::Auto), auto, "{lines:?}");
        assert_eq!(form(&lines, OpenMetrics::Always), always, "{lines:?}");
        assert!(!form(&lines, OpenMetrics::Never).is_open_metrics(), "{lines:?}");
    }

    #[test]
    fn clients_that_ask_for_open_metrics_alone() {
        for lines in [
            &["OM"][..],
            &["OM; version=1.0.0; charset=utf-8"],
            &["OM;version=1.0.0;q=0.6,*/*;q=0.2"],
            &["OM, */*"],
            &["OM;version=1.0.0,OM;version=0.0.1"],
            &["APPLICATION/OpenMetrics-Text;VERSION=1.0.0;Q=0.5"],
            &[" \t OM \t ; \t version = \"1.0.0\" ; q=0.001 "],
            &["OM;version=\"1\\.0.0\""],
            &["text/plain;version=0.0.4;q=0, OM;q=0.1"],
            &["text/plain;version=0.0.4;q=0.000", "OM"],
            &["OM;version=1.0.0;q=0.5, text/plain;version=1.0.0;q=0.4"],
            &["text/html, application/json;q=0.9", "OM;q=0.1"],
            &["image/x;a=\"b,text/plain\";q=1, OM"],
            &[",, ;q=1, =, ;;;, OM;;, \""],
        ] {
            check(lines, ASKED, ASKED);
        }
        assert_eq!(
            form(&["application/openmetrics-text;escaping=values"], OpenMetrics::Auto).content_type(),
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=values"
        );
    }

    #[test]
    fn clients_that_take_text_as_well() {
        for (lines, always) in [
            (&["OM;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"][..], ASKED),
            (&["OM, text/plain"], ASKED),
            (&["text/plain", "OM"], ASKED),
            (&["text/plain;version=0.0.4, OM;q=0.9"], Form::Text),
            (&["OM, text/*;q=0.1"], ASKED),
            (&["OM;q=0.5, text/plain;q=0.50"], ASKED),
            (&["OM;q=0.5, text/plain;q=0.501"], Form::Text),
        ] {
            check(lines, Form::Text, always);
        }
        check(&["OM;q=0.5, */*"], Form::Text, Form::Text);
        check(&["OM;q=0.5, text/plain;version=1.0.0;q=0.6"], NEW, NEW);
    }

    #[test]
    fn clients_that_get_text() {
        for lines in [
            &[][..],
            &[""],
            &[" "],
            &["*/*"],
            &["*/*;q=0"],
            &["text/plain"],
            &["text/*"],
            &["application/*"],
            &["text/html"],
            &["text/plain;version=9"],
            &["OM;version=1.0.0;q=0"],
            &["OM;q=0.0", "*/*"],
            &["OM;q=2"],
            &["OM;q=-1"],
            &["OM;q=nan"],
            &["OM;q="],
            &["OM;version=0.0.1"],
            &["OM;version=2.0.0"],
            &["OM;version=\"1.0.0"],
            &["x;a=\"OM, OM\""],
            &["x;a=\"\\\", OM"],
            &["xOM", "OMx", "OM/x", "O M"],
            &["text/plain;version=0.0.4, text/plain;version=1.0.0"],
            &["text/plain, text/plain;version=1.0.0"],
            &["text/plain;version=1.0.0;q=0.3, text/plain;version=0.0.4;q=0.4"],
            &["text/plain;version=1.0.0;q=0"],
        ] {
            check(lines, Form::Text, Form::Text);
        }
        // As much as a head may hold.
        for part in ["OM;q=0,", ",", "\"", "\\", ";", "a/b;c=\"d\\\"", "*/*;q=0.1,"] {
            check(&[&part.repeat(8192 / part.len())], Form::Text, Form::Text);
        }
    }

    #[test]
    fn text_1_0_0_and_its_escaping() {
        for (asked, escaping) in [
            ("", Escaping::Unnamed),
            (";escaping=allow-utf-8", Escaping::AllowUtf8),
            (";escaping=\"Underscores\"", Escaping::Underscores),
            (";escaping=dots", Escaping::Underscores),
            (";escaping=values", Escaping::Values),
            (";escaping=\r\nX", Escaping::Unnamed),
        ] {
            let line = format!("text/plain;version=1.0.0{asked};q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2");
            assert_eq!(form(&[&line], OpenMetrics::Auto), Form::Text1(escaping), "{line}");
        }
        let best = "text/plain;version=1.0.0;escaping=values;q=0.1,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.2";
        assert_eq!(form(&[best], OpenMetrics::Auto), Form::Text1(Escaping::AllowUtf8));
    }

    #[test]
    fn every_form_has_a_content_type_of_its_own() {
        for form in Form::ALL {
            assert_eq!(Form::of_content_type(form.content_type()), Some(form));
        }
        assert_eq!(Form::of_content_type("text/plain; charset=utf-8"), None);
    }

    #[test]
    fn encodings() {
        for (lines, gzip) in [
            (&["gzip"][..], true),
            (&["GZip, deflate, br"], true),
            (&["deflate", "gzip"], true),
            (&["x-gzip"], true),
            (&["gzip;q=0.001"], true),
            (&["gzip ; q=1.0 ; x=1"], true),
            (&["gzip;q=0.5, identity;q=0.5"], true),
            (&["identity;q=0, *"], true),
            (&["*;q=0, gzip"], true),
            (&[], false),
            (&[""], false),
            (&["*"], false),
            (&["identity"], false),
            (&["gzip;q=0"], false),
            (&["gzip;Q=0"], false),
            (&["gzip;q=0.000;x=1"], false),
            (&["gzip;x=1;q=0"], false),
            (&["gzip;q=0, *"], false),
            (&["gzip;q=0.5, identity"], false),
            (&["gzip;q=abc"], false),
            (&["gzip;q=nan"], false),
            (&["gzip;q=2"], false),
            (&["gzipped"], false),
        ] {
            let mut encodings = Encodings::default();
            lines.iter().for_each(|line| encodings.read(line));
            assert_eq!(encodings.prefer_gzip(), gzip, "{lines:?}");
        }
    }
}
