//! What `--check` asks of the files that the web configuration names: until when the certificates are valid, and whether
//! others can read the key.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::Host;
use super::answers::Answers;
use super::rights;
use super::unit::Unit;
use crate::config::Config;
use crate::config::yaml::{self, Map, Reader};
use crate::system::files;

const QUESTION: &str = "TLS files";
const LARGEST_FILE: u64 = 1024 * 1024;
const DAY: u64 = 24 * 60 * 60;
/// Before this an automatic renewal has run, or an administrator still has time.
const SOON: u64 = 14 * DAY;
const FIX: &str = "renew it; the exporter reads a file that has changed by itself";

/// Files of the web configuration, once it can be read: [`super::settings::web`] reports one that cannot.
pub fn tls_files(host: &Host, config: &Config, unit: Option<&Unit>, answers: &mut Answers) {
    let Some(file) = &config.web_config else { return };
    let Some(text) = files::read(file, LARGEST_FILE).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
        if host.is_image {
            answers.fail("web configuration", format!("{} cannot be read", file.display()), "put it into the image");
        }
        return;
    };
    let Ok(node) = yaml::parse(&text) else {
        if host.is_image {
            answers.fail("web configuration", format!("{} is no YAML", file.display()), "correct it");
        }
        return;
    };
    let mut reader = Reader::default();
    let top = Map::new(reader.entries(&node, ""));
    let Some(tls) = top.get("tls_server_config") else { return };
    let tls = Map::new(reader.entries(tls, ""));
    let mut text_of =
        |name: &str| tls.get(name).and_then(|node| reader.text(node, name)).filter(|text| !text.is_empty());
    let directory = file.parent().unwrap_or(Path::new("/"));
    let path_of = |text: &str| -> PathBuf {
        let path = directory.join(text);
        if host.is_image { host.at(path) } else { path }
    };
    for (of_file, inline) in [("cert_file", "cert"), ("client_ca_file", "client_ca")] {
        let (shown, pem) = match (text_of(of_file).map(path_of), text_of(inline)) {
            (Some(path), _) => match files::read(&path, LARGEST_FILE) {
                Ok(pem) => {
                    rights::readable(host, unit, QUESTION, &path, answers);
                    (path.display().to_string(), pem)
                }
                Err(error) => {
                    answers.fail(QUESTION, format!("{}: {error}", path.display()), "correct tls_server_config");
                    continue;
                }
            },
            (None, Some(text)) => (format!("{inline} of {}", file.display()), text.as_bytes().to_vec()),
            (None, None) => continue,
        };
        certificates(&shown, &pem, SystemTime::now(), answers);
    }
    if let Some(path) = text_of("key_file").map(path_of) {
        rights::readable(host, unit, QUESTION, &path, answers);
        match fs::metadata(&path).map(|file| file.permissions().mode() & 0o777) {
            Ok(mode) if mode & 0o007 != 0 => answers.warn(
                QUESTION,
                format!("{} has mode {mode:04o}: every user can read the private key", path.display()),
                format!("chmod 0600 {}", path.display()),
            ),
            Ok(mode) => answers.ok(QUESTION, format!("{} has mode {mode:04o}", path.display())),
            Err(error) => answers.fail(QUESTION, format!("{}: {error}", path.display()), "correct tls_server_config"),
        }
    }
}

/// Says of the certificate of a chain that ends first when that is.
fn certificates(shown: &str, pem: &[u8], now: SystemTime, answers: &mut Answers) {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ders = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    let validities = ders.filter_map(|der| {
        let certificate = Certificate::from_der(&der).ok()?;
        let validity = certificate.tbs_certificate().validity();
        Some((validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration()))
    });
    let validities: Vec<(Duration, Duration)> = validities.collect();
    let Some(end) = validities.iter().map(|(_, end)| *end).min() else {
        answers.fail(QUESTION, format!("{shown} has no certificate that can be read"), "put a PEM certificate there");
        return;
    };
    let start = validities.iter().map(|(start, _)| *start).max().unwrap_or_default();
    let date = |time: Duration| httpdate::fmt_http_date(UNIX_EPOCH + time);
    let days = end.saturating_sub(now).as_secs() / DAY;
    if end <= now {
        answers.fail(QUESTION, format!("{shown} is valid until {}: clients refuse it", date(end)), FIX);
    } else if start > now {
        answers.fail(
            QUESTION,
            format!("{shown} is valid only from {}: clients refuse it", date(start)),
            "see the node's clock (timedatectl), or renew it",
        );
    } else if end - now < Duration::from_secs(SOON) {
        answers.warn(QUESTION, format!("{shown} is valid for {days} days, until {}", date(end)), FIX);
    } else {
        answers.ok(QUESTION, format!("{shown} is valid for {days} days, until {}", date(end)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_valid_until_its_first_certificate_ends() {
        let pem = |from: i32, until: i32| {
            let mut params = rcgen::CertificateParams::default();
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        // 2030-01-01.
        let now = UNIX_EPOCH + Duration::from_secs(1_893_456_000);
        let ask = |pem: &str, now| {
            let mut answers = Answers::default();
            certificates("x.pem", pem.as_bytes(), now, &mut answers);
            let answer = answers.iter().next().unwrap();
            format!("{} {}", answer.status.name(), answer.found)
        };
        let long = pem(2025, 2040);
        assert!(ask(&long, now).starts_with("ok x.pem is valid for 3652 days"), "{}", ask(&long, now));
        let two = format!("{long}{}", pem(2025, 2031));
        assert!(ask(&two, now).contains("until Wed, 01 Jan 2031"), "{}", ask(&two, now));
        assert!(ask(&two, now + Duration::from_secs(355 * DAY)).starts_with("warn x.pem is valid for 10 days"));
        assert!(ask(&two, now + Duration::from_secs(365 * DAY)).starts_with("fail x.pem is valid until"));
        assert!(ask(&pem(2035, 2040), now).starts_with("fail x.pem is valid only from Mon, 01 Jan 2035"));
        assert!(ask("nothing", now).starts_with("fail x.pem has no certificate"));
    }
}
