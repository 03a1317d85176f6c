//! The web configuration file, in the format of Prometheus' exporter-toolkit: TLS, users, headers, a rate limit.
//!
//! Read strictly, as the toolkit does; every problem has its line. What cannot work here (see [`super::tls`]) is
//! refused with the reason; a setting without effect is a warning. [`super::reload`] reads it again when it changes.
//!
//! One file, because its keys are read by one parser that collects all problems.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::duration;
use crate::config::yaml::{self, Node, Position, Reader};
use crate::system::files::{self, Monitor};

use super::client_certificates::Policy;
use super::tls::{self, TlsSettings};

/// A larger file is no web configuration, certificate or key.
const LARGEST_FILE: u64 = 1024 * 1024;

/// The highest cost of a bcrypt hash: 1 s for each login, one at a time. Each further one doubles that.
const HIGHEST_COST: u32 = 14;

/// What the file says, ready for use.
#[derive(Default)]
pub struct WebConfig {
    /// `None` serves plain HTTP.
    pub tls: Option<Arc<tls::Acceptor>>,
    /// Names and bcrypt hashes; no login is needed if it is empty.
    pub users: BTreeMap<String, String>,
    /// Added to every answer: name and value.
    pub headers: Vec<(&'static str, String)>,
    pub rate_limit: Option<RateLimit>,
    /// Settings without effect here.
    pub warnings: Vec<String>,
}

/// At most `burst` requests at once, and one more each `interval`, for all clients together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    pub interval: Duration,
    pub burst: u32,
}

const TOP: [&str; 4] = ["tls_server_config", "http_server_config", "rate_limit", "basic_auth_users"];
const TLS: [&str; 13] = [
    "cert_file",
    "cert",
    "key_file",
    "key",
    "client_ca_file",
    "client_ca",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "curve_preferences",
    "prefer_server_cipher_suites",
];
/// Headers that may be set, and their values where not every one will do.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-XSS-Protection", &[]),
    ("Strict-Transport-Security", &[]),
];

impl WebConfig {
    /// Reads the file and those that it names.
    ///
    /// Errors: all problems, each as `FILE:LINE:COLUMN: what`.
    pub fn read(file: &Path) -> Result<WebConfig, Vec<String>> {
        read(file, &mut Monitor::default())
    }
}

/// Reads the configuration, and has every file monitored that it depends on, also where it fails.
pub fn read(file: &Path, files: &mut Monitor) -> Result<WebConfig, Vec<String>> {
    files.add(file);
    let whole = |what: String| vec![format!("{}: {what}", file.display())];
    let bytes = files::read(file, LARGEST_FILE).map_err(|error| whole(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| whole("not UTF-8".to_owned()))?;
    let node = yaml::parse(&text).map_err(|problem| vec![format!("{}:{problem}", file.display())])?;
    let directory = file.parent().unwrap_or(Path::new("."));
    let mut parser = Parser { reader: Reader::default(), directory, files, warnings: Vec::new() };
    let mut config = parser.config(&node);
    let Parser { reader, warnings, .. } = parser;
    let shown =
        |problems| yaml::first(problems).iter().map(|problem| format!("{}:{problem}", file.display())).collect();
    if !reader.problems.is_empty() {
        return Err(shown(reader.problems));
    }
    config.warnings = shown(warnings);
    Ok(config)
}

struct Parser<'a> {
    reader: Reader,
    /// Paths in the TLS part are relative to it.
    directory: &'a Path,
    files: &'a mut Monitor,
    warnings: Vec<yaml::Problem>,
}

impl Parser<'_> {
    fn config(&mut self, node: &Node) -> WebConfig {
        let mut config = WebConfig::default();
        let top = self.reader.map(node, "a web configuration", &TOP);
        if let Some(node) = top.get("tls_server_config") {
            config.tls = self.tls(node);
        }
        if let Some(node) = top.get("http_server_config") {
            config.headers = self.http(node);
        }
        if let Some(node) = top.get("rate_limit") {
            config.rate_limit = self.rate_limit(node);
        }
        if let Some(node) = top.get("basic_auth_users") {
            config.users = self.users(node);
        }
        config
    }

    fn warn(&mut self, at: Position, what: impl Into<String>) {
        self.warnings.push(yaml::Problem { at, what: what.into() });
    }

    fn tls(&mut self, node: &Node) -> Option<Arc<tls::Acceptor>> {
        let map = self.reader.map(node, "tls_server_config", &TLS);
        let text = |parser: &mut Self, name: &str| match map.get(name) {
            Some(node) => parser.reader.text(node, name).filter(|text| !text.is_empty()).map(|text| (node.at, text)),
            None => None,
        };
        let names = ["cert_file", "cert", "key_file", "key", "client_ca_file", "client_ca", "client_auth_type"];
        let is_on = names.iter().any(|name| text(self, name).is_some());
        let before = self.reader.problems.len();
        // Each setting is understood even where TLS stays off, so that a slip in it is reported.
        let policy = match text(self, "client_auth_type") {
            None => Policy::None,
            Some((at, name)) => Policy::by_name(name).unwrap_or_else(|| {
                let known = Policy::NAMES.map(|(name, _)| name).join(", ");
                self.reader.problem(at, format!("client_auth_type: '{name}' is not known; expected one of {known}"));
                Policy::None
            }),
        };
        let allowed_sans = self.texts(map.get("client_allowed_sans"), "client_allowed_sans");
        let (lowest, highest) = (text(self, "min_version"), text(self, "max_version"));
        let versions = self.versions(lowest, highest);
        let suites = self.texts(map.get("cipher_suites"), "cipher_suites");
        let suites = suites.and_then(|names| self.choose(names, tls::suite, "cipher_suites"));
        let curves = self.texts(map.get("curve_preferences"), "curve_preferences");
        let curves = curves.and_then(|names| self.choose(names, tls::curve, "curve_preferences"));
        let prefers_own_order = map
            .get("prefer_server_cipher_suites")
            .and_then(|node| self.reader.boolean(node, "prefer_server_cipher_suites"));
        if !is_on {
            if self.reader.problems.len() == before && !matches!(node.value, yaml::Value::Null) {
                self.warn(
                    node.at,
                    "tls_server_config has neither a certificate nor a key, so HTTP is served without TLS",
                );
            }
            return None;
        }
        let certificate = self.pem(&map, "cert_file", "cert");
        let key = self.pem(&map, "key_file", "key");
        let client_ca = self.pem(&map, "client_ca_file", "client_ca");
        for (missing, what) in [(&certificate, "cert_file or cert"), (&key, "key_file or key")] {
            if let Pem::Absent = missing {
                self.reader.problem(node.at, format!("TLS needs {what}"));
            }
        }
        match (&client_ca, policy) {
            (Pem::Absent, Policy::VerifyIfGiven | Policy::RequireAndVerify) => {
                let what = "a client certificate can be verified only with client_ca_file or client_ca: this exporter does \
                            not trust the system's authorities";
                self.reader.problem(node.at, what);
            }
            (Pem::Text(..), Policy::None) => {
                self.reader.problem(node.at, "client_ca is given, but client_auth_type asks for no certificate");
            }
            _ => {}
        }
        let (Pem::Text(certificate_at, certificate), Pem::Text(key_at, key)) = (certificate, key) else { return None };
        if self.reader.problems.len() > before {
            return None;
        }
        let settings = TlsSettings {
            certificate: &certificate,
            key: &key,
            client_ca: match &client_ca {
                Pem::Text(_, text) => Some(text),
                Pem::Absent | Pem::Unreadable => None,
            },
            policy,
            allowed_sans: allowed_sans.unwrap_or_default().into_iter().map(|(_, san)| san.to_owned()).collect(),
            versions: versions?,
            suites,
            curves,
            prefers_own_order: prefers_own_order.unwrap_or(true),
        };
        match tls::Acceptor::new(settings) {
            Ok(acceptor) => Some(Arc::new(acceptor)),
            Err(error) => {
                let at = match error.place {
                    tls::Place::Certificate => certificate_at,
                    tls::Place::Key => key_at,
                    tls::Place::ClientCa => match client_ca {
                        Pem::Text(at, _) => at,
                        Pem::Absent | Pem::Unreadable => node.at,
                    },
                    tls::Place::Settings => node.at,
                };
                self.reader.problem(at, error.what);
                None
            }
        }
    }

    /// A list of texts with their places; `None` where it is not given or empty.
    fn texts<'n>(&mut self, node: Option<&'n Node>, what: &str) -> Option<Vec<(Position, &'n str)>> {
        let items = self.reader.list(node?, what);
        let texts: Vec<_> = items.iter().filter_map(|item| Some((item.at, self.reader.text(item, what)?))).collect();
        (!texts.is_empty()).then_some(texts)
    }

    /// Looks names up. One that exists but cannot be had here is a warning, unless no other is given. The list may be
    /// empty: names of TLS 1.3 are valid, but choose nothing.
    fn choose<T>(
        &mut self,
        names: Vec<(Position, &str)>,
        find: fn(&str) -> tls::Found<T>,
        what: &str,
    ) -> Option<Vec<T>> {
        let first = names[0].0;
        let (mut chosen, mut refused, mut is_known) = (Vec::new(), Vec::new(), true);
        for (at, name) in names {
            match find(name) {
                tls::Found::Here(value) => chosen.push(value),
                tls::Found::Fixed => {}
                tls::Found::Elsewhere(why) => refused.push((at, format!("{what}: {name} is left out: {why}"))),
                tls::Found::Unknown(known) => {
                    is_known = false;
                    self.reader.problem(at, format!("{what}: '{name}' is not known; expected {known}"));
                }
            }
        }
        match (chosen.is_empty(), refused.is_empty()) {
            (true, false) if is_known => {
                let why = refused.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; ");
                self.reader.problem(first, format!("{what}: none of them can be had here ({why})"));
            }
            _ => refused.into_iter().for_each(|(at, why)| self.warn(at, why)),
        }
        Some(chosen)
    }

    fn versions(&mut self, min: Option<(Position, &str)>, max: Option<(Position, &str)>) -> Option<tls::Versions> {
        let number = |parser: &mut Self, given: Option<(Position, &str)>, key: &str, default: u8| match given {
            None => Some(default),
            Some((at, name)) => match ["TLS10", "TLS11", "TLS12", "TLS13"].iter().position(|known| *known == name) {
                Some(index) => Some(index as u8),
                None => {
                    let what = format!("{key}: '{name}' is not known; expected TLS10, TLS11, TLS12 or TLS13");
                    parser.reader.problem(at, what);
                    None
                }
            },
        };
        let lowest = number(self, min, "min_version", 2);
        let highest = number(self, max, "max_version", 3);
        let (lowest, highest) = (lowest?, highest?);
        if let Some((at, name)) = max.filter(|_| highest < 2) {
            let what = format!("max_version: {name} cannot be had here, because only TLS 1.2 and 1.3 are built in");
            self.reader.problem(at, what);
            return None;
        }
        if let Some((at, _)) = max.filter(|_| lowest > highest) {
            self.reader.problem(at, "max_version is lower than min_version");
            return None;
        }
        if let Some((at, name)) = min.filter(|_| lowest < 2) {
            self.warn(at, format!("min_version: {name} is raised to TLS12, because older versions are not built in"));
        }
        Some(match (lowest, highest) {
            (3, _) => tls::Versions::Tls13,
            (_, 2) => tls::Versions::Tls12,
            _ => tls::Versions::Both,
        })
    }

    /// The text of a PEM file or of the inline key; the file wins.
    fn pem(&mut self, map: &yaml::Map<'_>, file: &str, inline: &str) -> Pem {
        let file = map.get(file).and_then(|node| Some((node.at, self.reader.text(node, file)?)));
        let inline = map.get(inline).and_then(|node| Some((node.at, self.reader.text(node, inline)?)));
        if let Some((at, path)) = file.filter(|(_, path)| !path.is_empty()) {
            let path = self.directory.join(path);
            self.files.add(&path);
            return match files::read(&path, LARGEST_FILE) {
                Ok(bytes) => Pem::Text(at, bytes),
                Err(error) => {
                    self.reader.problem(at, format!("{} cannot be read: {error}", path.display()));
                    Pem::Unreadable
                }
            };
        }
        match inline.filter(|(_, text)| !text.is_empty()) {
            Some((at, text)) => Pem::Text(at, text.as_bytes().to_vec()),
            None => Pem::Absent,
        }
    }

    fn http(&mut self, node: &Node) -> Vec<(&'static str, String)> {
        let map = self.reader.map(node, "http_server_config", &["http2", "headers"]);
        if let Some(node) = map.get("http2") {
            // There is no HTTP/2 here; clients fall back to 1.1 by themselves.
            self.reader.boolean(node, "http2");
        }
        let Some(node) = map.get("headers") else { return Vec::new() };
        let mut headers = Vec::new();
        for (key, value) in self.reader.entries(node, "headers") {
            let Some((name, values)) = HEADERS.into_iter().find(|(name, _)| *name == key.name) else {
                let known = HEADERS.map(|(name, _)| name).join(", ");
                let what = format!("the header '{}' cannot be set; expected one of {known}", key.name);
                self.reader.problem(key.at, what);
                continue;
            };
            let Some(text) = self.reader.text(value, name) else { continue };
            if !values.is_empty() && !values.contains(&text) {
                let what = format!("{name}: '{text}' is not valid; expected {}", values.join(" or "));
                self.reader.problem(value.at, what);
            } else if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                self.reader.problem(value.at, format!("{name}: a header's value is printable ASCII in one line"));
            } else if !text.is_empty() {
                headers.push((name, text.to_owned()));
            }
        }
        headers
    }

    fn rate_limit(&mut self, node: &Node) -> Option<RateLimit> {
        let map = self.reader.map(node, "rate_limit", &["interval", "burst"]);
        let interval = match map.get("interval") {
            None => Duration::ZERO,
            Some(node) => {
                let text = self.reader.text(node, "interval")?;
                let interval = if text.is_empty() { Some(Duration::ZERO) } else { duration::parse_go(text) };
                interval.or_else(|| {
                    self.reader.problem(node.at, format!("interval: '{text}' is not a time such as 1s or 500ms"));
                    None
                })?
            }
        };
        let burst = match map.get("burst") {
            None => 0,
            Some(node) => {
                let text = self.reader.text(node, "burst")?;
                let burst = if text.is_empty() { Some(0) } else { text.parse().ok() };
                burst.or_else(|| {
                    self.reader.problem(node.at, format!("burst: '{text}' is not a number of requests"));
                    None
                })?
            }
        };
        if interval.is_zero() {
            return None;
        }
        if burst == 0 {
            self.warn(node.at, "an interval without a burst lets no request through: every answer is 429");
        }
        Some(RateLimit { interval, burst })
    }

    fn users(&mut self, node: &Node) -> BTreeMap<String, String> {
        let mut users = BTreeMap::new();
        for (key, value) in self.reader.entries(node, "basic_auth_users") {
            let Some(hash) = self.reader.text(value, "basic_auth_users") else { continue };
            // The hash itself is a secret of sorts, and in no message.
            let cost = hash.parse::<bcrypt::HashParts>().map(|parts| parts.get_cost());
            let wrong = match cost {
                Ok(4..=HIGHEST_COST) => None,
                // The crate's parser takes costs that bcrypt does not have.
                Ok(cost @ ..=31) if cost > HIGHEST_COST => Some(format!(
                    "has cost {cost}, and each login would take seconds to days; the most is {HIGHEST_COST}"
                )),
                _ => Some("is not a bcrypt hash".to_owned()),
            };
            if let Some(wrong) = wrong {
                let what = format!("the password of '{}' {wrong}; make one with htpasswd -nBC 10 ''", key.name);
                self.reader.problem(value.at, what);
            } else if key.name.contains(':') {
                self.warn(key.at, format!("'{}' cannot log in: a user's name must not have a colon", key.name));
            } else {
                users.insert(key.name.clone(), hash.to_owned());
            }
        }
        users
    }
}

enum Pem {
    Text(Position, Vec<u8>),
    Absent,
    Unreadable,
}
