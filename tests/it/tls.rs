//! The web configuration: TLS, client certificates, headers, a rate limit, and what happens when its files change. The
//! cases are those of exporter-toolkit's own tests, and what this exporter does differently.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use crate::common::*;

/// An authority, and what it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn sign(&self, key: KeyPair, params: CertificateParams) -> Identity {
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    fn server(&self) -> Identity {
        self.server_with(&KeyPair::generate().unwrap().serialize_pem())
    }

    pub fn server_with(&self, key: &str) -> Identity {
        self.sign(KeyPair::from_pem(key).unwrap(), CertificateParams::new(["localhost".to_owned()]).unwrap())
    }

    fn client(&self, sans: Vec<SanType>) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(KeyPair::generate().unwrap(), params)
    }
}

/// A directory with a server's certificate, and the authority that a client trusts.
pub struct Site {
    pub scratch: Scratch,
    pub authority: Authority,
}

/// Settings that every configuration with TLS has.
const PAIR: &str = "  cert_file: server.crt\n  key_file: server.key\n";

impl Site {
    pub fn new() -> Site {
        let site = Site { scratch: Scratch::new(), authority: Authority::new() };
        site.install(&site.authority.server());
        site.scratch.write("ca.crt", &site.authority.pem);
        site.scratch.write("counters.csv", GPU_TEMP);
        site.scratch.write("scenario.json", scenario(&[0]).to_string());
        site
    }

    pub fn install(&self, identity: &Identity) {
        self.scratch.write("server.crt", &identity.certificate);
        self.scratch.write("server.key", &identity.key);
    }

    /// A command that would serve with this configuration.
    fn command(&self, web: &str) -> std::process::Command {
        let mut command = exporter();
        command
            .env("DCGM_SIMULATOR_SCENARIO", self.scratch.path("scenario.json"))
            .arg("--web-config-file")
            .arg(self.scratch.write("web.yml", web))
            .arg("-f")
            .arg(self.scratch.path("counters.csv"));
        command
    }

    pub fn serve(&self, web: &str) -> Exporter {
        Exporter::start(&mut self.command(web))
    }

    /// Serves with TLS and these settings besides the certificate.
    pub fn serve_tls(&self, settings: &str) -> Exporter {
        self.serve(&format!("tls_server_config:\n{PAIR}{settings}"))
    }

    pub fn scraper(&self) -> Scraper<'_> {
        Scraper {
            authority: &self.authority,
            versions: rustls::ALL_VERSIONS,
            suites: None,
            curves: None,
            identity: None,
            alpn: &[],
        }
    }
}

/// A client's settings.
#[derive(Clone)]
pub struct Scraper<'a> {
    authority: &'a Authority,
    versions: &'static [&'static SupportedProtocolVersion],
    suites: Option<Vec<SupportedCipherSuite>>,
    curves: Option<Vec<&'static dyn SupportedKxGroup>>,
    identity: Option<Identity>,
    alpn: &'a [&'a str],
}

const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl Scraper<'_> {
    fn config(&self) -> Arc<ClientConfig> {
        let mut provider = ring::default_provider();
        if let Some(suites) = &self.suites {
            provider.cipher_suites = suites.clone();
        }
        if let Some(curves) = &self.curves {
            provider.kx_groups = curves.clone();
        }
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider) as Arc<CryptoProvider>)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain =
                    CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    pub fn connect(&self, port: u16) -> std::io::Result<Client<StreamOwned<ClientConnection, TcpStream>>> {
        connect(&self.config(), port)
    }

    /// One scrape of `/health`, which may fail in the handshake.
    fn get(&self, port: u16) -> std::io::Result<Response> {
        self.connect(port)?.ask("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    }

    pub fn is_let_in(&self, port: u16) -> bool {
        self.get(port).is_ok_and(|response| response.status == 200)
    }
}

fn connect(config: &Arc<ClientConfig>, port: u16) -> std::io::Result<Client<StreamOwned<ClientConnection, TcpStream>>> {
    let connection = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(Client::new(StreamOwned::new(connection, stream)))
}

fn page_over_tls(site: &Site, exporter: &mut Exporter) {
    exporter.until("there is a page", |exporter| site.scraper().is_let_in(exporter.port).then_some(()));
}

/// Over plain HTTP and over TLS, two hundred at once, and those in between who get no page.
#[test]
fn each_page_that_is_sent_is_counted_as_a_scrape_and_nothing_else() {
    let site = Site::new();
    for web in [String::new(), format!("tls_server_config:\n{PAIR}")] {
        let mut exporter = Exporter::start(site.command(&web).args(["-c", "200ms"]));
        let (config, port) = (site.scraper().config(), exporter.port);
        let ask = |what: &str| {
            let ask = format!("{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            if web.is_empty() {
                request(port, &ask).unwrap()
            } else {
                connect(&config, port).unwrap().ask(&ask).unwrap()
            }
        };
        exporter.until("all is well", |_| (ask("GET /health").status == 200).then_some(()));
        let all_at_once = std::sync::Barrier::new(250);
        std::thread::scope(|scope| {
            for number in 0..250 {
                let (ask, all_at_once) = (&ask, &all_at_once);
                let what =
                    ["GET /metrics", "GET /metrics", "GET /metrics", "GET /metrics", "HEAD /metrics"][number % 5];
                scope.spawn(move || {
                    all_at_once.wait();
                    assert_eq!(ask(what).status, 200);
                });
            }
        });
        for what in ["HEAD /metrics", "OPTIONS /metrics", "GET /", "GET /health", "GET /missing"] {
            ask(what);
        }
        // Of two more collections.
        std::thread::sleep(Duration::from_millis(700));
        let page = ask("GET /metrics").body;
        assert!(page.contains("\ndcgm_exporter_scrapes_total 200\n"), "{web}: {page}");
    }
}

#[test]
fn files_that_can_be_used_and_files_that_cannot() {
    let site = Site::new();
    let keys = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys");
    let key = |name: &str| keys.join(name).display().to_string();
    let inline = |indent: &str, text: &str| text.lines().map(|line| format!("{indent}{line}\n")).collect::<String>();
    let server = site.authority.server();
    let other = site.authority.server();
    site.scratch.write("other.key", &other.key);
    site.scratch.write("empty.pem", "");
    let tls = |rest: &str| format!("tls_server_config:\n{rest}");
    let pair = |rest: &str| tls(&format!("{PAIR}{rest}"));
    let inline_pair =
        format!("  cert: |\n{}  key: |\n{}", inline("    ", &server.certificate), inline("    ", &server.key));

    // What is accepted, and the warning that it brings.
    for (web, warning) in [
        (String::new(), None),
        ("# nothing\n".to_owned(), None),
        ("tls_server_config:\nhttp_server_config:\nbasic_auth_users:\n".to_owned(), None),
        (pair(""), None),
        (tls(&inline_pair), None),
        (tls(&format!("{inline_pair}{PAIR}")), None),
        (tls("  min_version: TLS13\n"), Some("2:3: tls_server_config has neither a certificate nor a key")),
        (pair("  min_version: TLS10\n"), Some("4:16: min_version: TLS10 is raised to TLS12")),
        (pair("  max_version: TLS12\n"), None),
        (pair("  curve_preferences: [CurveP521, X25519]\n"), Some("4:23: curve_preferences: CurveP521 is left out")),
        (
            pair("  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n"),
            Some("4:19: cipher_suites: TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA is left out"),
        ),
        (pair("  cipher_suites: [TLS_AES_128_GCM_SHA256]\n"), None),
        (pair("  prefer_server_cipher_suites: false\n"), None),
        (pair("  client_auth_type: RequestClientCert\n"), None),
        (pair("  client_auth_type: RequireClientCert\n  client_ca_file: ca.crt\n"), None),
        ("http_server_config: {http2: true, headers: {X-XSS-Protection: 1}}\n".to_owned(), None),
        ("rate_limit: {interval: 0, burst: 5}\n".to_owned(), None),
        ("rate_limit: {interval: 1s}\n".to_owned(), Some("1:13: an interval without a burst lets no request through")),
        (tls(&format!("  cert_file: {}\n  key_file: {}\n", key("self-signed-client.crt"), key("p256-sec1.pem"))), None),
    ] {
        let mut exporter = site.serve(&web);
        let log = exporter.log();
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("level=WARN")).collect();
        match warning {
            None => assert!(warnings.is_empty(), "{web}: {warnings:?}"),
            Some(warning) => assert!(warnings.len() == 1 && warnings[0].contains(warning), "{web}: {warnings:?}"),
        }
        exporter.stop();
    }

    // What is refused, and with which words.
    for (web, error) in [
        ("somebody: x\n".to_owned(), "1:1: 'somebody' is not a key of a web configuration"),
        ("junk\n".to_owned(), "1:1: a web configuration: expected keys with values"),
        ("a: b: c\n".to_owned(), "1:5: this is not YAML"),
        ("tls_server_config: {}\ntls_server_config: {}\n".to_owned(), "2:1: 'tls_server_config' is given twice"),
        (pair("  cert_fil: x\n"), "4:3: 'cert_fil' is not a key of tls_server_config; did you mean 'cert_file'?"),
        (tls("  key_file: server.key\n"), "2:3: TLS needs cert_file or cert"),
        (tls("  cert_file: server.crt\n"), "2:3: TLS needs key_file or key"),
        (
            tls("  cert_file: ''\n  key_file: ''\n  client_auth_type: RequireAnyClientCert\n"),
            "TLS needs cert_file or cert",
        ),
        (tls("  cert_file: nowhere.crt\n  key_file: server.key\n"), "2:14: "),
        (tls("  cert_file: server.crt\n  key_file: nowhere.key\n"), "3:13: "),
        (tls("  cert_file: empty.pem\n  key_file: server.key\n"), "2:14: there is no certificate in PEM form"),
        (tls("  cert_file: server.crt\n  key_file: empty.pem\n"), "3:13: there is no private key in PEM form"),
        (
            tls("  cert_file: server.crt\n  key_file: other.key\n"),
            "3:13: the private key does not belong to the certificate",
        ),
        (tls("  cert_file: server.key\n  key_file: server.key\n"), "2:14: there is no certificate in PEM form"),
        (tls("  cert_file: .\n  key_file: server.key\n"), "a directory, not a regular file"),
        (
            tls(&format!("  cert_file: server.crt\n  key_file: {}\n", key("encrypted.pem"))),
            "an encrypted one cannot be read",
        ),
        (
            tls(&format!("  cert_file: {}\n  key_file: {}\n", key("rsa-1024.crt"), key("rsa-1024.pem"))),
            "3:13: the private key cannot be used: RSA from 2048 bits on",
        ),
        (
            tls(&format!("  cert_file: {}\n  key_file: {}\n", key("p521.crt"), key("p521.pem"))),
            "3:13: the private key cannot be used: RSA from 2048 bits on",
        ),
        (pair("  client_ca_file: ca.crt\n"), "client_ca is given, but client_auth_type asks for no certificate"),
        (
            pair("  client_auth_type: VerifyClientCertIfGiven\n"),
            "can be verified only with client_ca_file or client_ca",
        ),
        (pair("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: nowhere.crt\n"), "5:19: "),
        (
            pair("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: empty.pem\n"),
            "5:19: client_ca: there is no certificate in PEM form",
        ),
        (
            pair("  client_auth_type: Sometimes\n"),
            "4:21: client_auth_type: 'Sometimes' is not known; expected one of NoClientCert",
        ),
        (pair("  cipher_suites: [TLS_WITH_ROT13]\n"), "4:19: cipher_suites: 'TLS_WITH_ROT13' is not known"),
        (
            pair("  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA]\n"),
            "4:19: cipher_suites: none of them can be had here",
        ),
        (pair("  curve_preferences: [CurveP257]\n"), "4:23: curve_preferences: 'CurveP257' is not known"),
        (pair("  curve_preferences: [CurveP521]\n"), "4:23: curve_preferences: none of them can be had here"),
        (pair("  min_version: TLS111\n"), "4:16: min_version: 'TLS111' is not known"),
        (pair("  max_version: TLS11\n"), "4:16: max_version: TLS11 cannot be had here"),
        (pair("  min_version: TLS13\n  max_version: TLS12\n"), "5:16: max_version is lower than min_version"),
        (pair("  cipher_suites: [TLS_AES_128_GCM_SHA256]\n  max_version: TLS12\n"), "no suite of TLS 1.2 is chosen"),
        ("basic_auth_users: alice\n".to_owned(), "1:19: basic_auth_users: expected keys with values"),
        ("basic_auth_users: {alice: alice123}\n".to_owned(), "1:27: the password of 'alice' is not a bcrypt hash"),
        (
            format!("basic_auth_users: {{alice: {}}}\n", bcrypt::hash("x", 4).unwrap().replace("$04$", "$99$")),
            "1:27: the password of 'alice' is not a bcrypt hash",
        ),
        (
            format!("basic_auth_users: {{alice: {}}}\n", bcrypt::hash("x", 4).unwrap().replace("$04$", "$15$")),
            "1:27: the password of 'alice' has cost 15, and each login would take seconds to days; the most is 14",
        ),
        ("http_server_config: {http2: maybe}\n".to_owned(), "1:29: http2: 'maybe' is not true or false"),
        ("http_server_config: {headers: {Server: x}}\n".to_owned(), "1:32: the header 'Server' cannot be set"),
        (
            "http_server_config: {headers: {x-frame-options: deny}}\n".to_owned(),
            "1:32: the header 'x-frame-options' cannot be set",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: allow}}\n".to_owned(),
            "'allow' is not valid; expected deny or sameorigin",
        ),
        ("http_server_config: {headers: {X-Frame-Options: ''}}\n".to_owned(), "'' is not valid"),
        (
            "http_server_config: {headers: {X-Content-Type-Options: sniff}}\n".to_owned(),
            "'sniff' is not valid; expected nosniff",
        ),
        (
            "http_server_config: {headers: {Content-Security-Policy: \"a\\r\\nX: y\"}}\n".to_owned(),
            "a header's value is printable ASCII in one line",
        ),
        ("rate_limit: {interval: 5}\n".to_owned(), "1:24: interval: '5' is not a time such as 1s"),
        ("rate_limit: {interval: -1s}\n".to_owned(), "'-1s' is not a time"),
        ("rate_limit: {burst: many}\n".to_owned(), "1:21: burst: 'many' is not a number of requests"),
    ] {
        let (status, log) = refused(&mut site.command(&web));
        let place = format!("{}:", site.scratch.path("web.yml").display());
        let line = log.lines().find(|line| line.contains("level=ERROR")).unwrap_or_else(|| panic!("{web}: {log}"));
        assert!(!status.success() && line.contains(error) && line.contains(&place), "{web}: {line}");
    }
    let (status, log) = refused(
        exporter()
            .arg("--web-config-file")
            .arg(site.scratch.path("nowhere.yml"))
            .arg("-f")
            .arg(site.scratch.path("counters.csv")),
    );
    assert!(!status.success() && log.contains("nowhere.yml: No such file or directory"), "{log}");
    // Everything that is wrong is said at once.
    let (_, log) =
        refused(&mut site.command("http_server_config: {headers: {A: b, C: d}}\nrate_limit: {interval: x}\n"));
    assert_eq!(log.lines().filter(|line| line.contains("level=ERROR")).count(), 3, "{log}");
}

#[test]
fn http_and_https_do_not_mix() {
    let site = Site::new();
    let exporter = site.serve_tls("");
    let answer = request(exporter.port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.header("connection")),
        (400, "Client sent an HTTP request to an HTTPS server.\n", Some("close"))
    );
    let head = request(exporter.port, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(head.status, 400);
    let plain = site.serve("");
    assert!(site.scraper().get(plain.port).is_err());
    assert_eq!(plain.get("/-/healthy").header("content-type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn scrapes_of_every_kind_over_both_versions() {
    let site = Site::new();
    let mut exporter = site.serve_tls("");
    page_over_tls(&site, &mut exporter);
    for (versions, version) in [(TLS12, rustls::ProtocolVersion::TLSv1_2), (TLS13, rustls::ProtocolVersion::TLSv1_3)] {
        let mut client =
            Scraper { versions, alpn: &["h2", "http/1.1"], ..site.scraper() }.connect(exporter.port).unwrap();
        for _ in 0..50 {
            let page = client.ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            assert!(page.status == 200 && page.body.contains("DCGM_FI_DEV_GPU_TEMP{"), "{page:?}");
        }
        assert_eq!(client.stream.conn.protocol_version(), Some(version));
        assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        // Several at once, of which the server decrypts more than it can answer at a time.
        let paths = ["/metrics", "/health", "/nowhere"].into_iter().cycle().take(60);
        let text: String = paths.clone().map(|path| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
        client.stream.write_all(text.as_bytes()).unwrap();
        for path in paths {
            assert_eq!(client.response(false).unwrap().status, if path == "/nowhere" { 404 } else { 200 }, "{path}");
        }
        // As many as a record holds.
        let request = "HEAD /metrics HTTP/1.1\r\n\r\n";
        let count = 16_000 / request.len();
        client.stream.write_all(request.repeat(count).as_bytes()).unwrap();
        (0..count).for_each(|_| assert_eq!(client.response(true).unwrap().status, 200));
        let refused = client.ask("GET / HTTP/2.0\r\n\r\n").unwrap();
        assert_eq!(refused.status, 505);
        assert!(client.is_closed());
    }
}

#[test]
fn old_versions_are_told_so() {
    let site = Site::new();
    let exporter = site.serve_tls("");
    // A ClientHello of TLS 1.1: version, random, no session, one suite, no compression; extensions: signatures, curves.
    let mut hello = vec![3, 2];
    hello.extend([7u8; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    hello.extend([0, 16, 0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23]);
    let length = hello.len() as u8;
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let mut stream = TcpStream::connect(("127.0.0.1", exporter.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&record).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    const PROTOCOL_VERSION: u8 = 70;
    assert_eq!((answer[0], &answer[5..]), (ALERT, &[FATAL, PROTOCOL_VERSION][..]), "{answer:?}");

    let only_13 = site.serve_tls("  min_version: TLS13\n");
    assert!(Scraper { versions: TLS12, ..site.scraper() }.get(only_13.port).is_err());
    assert!(Scraper { versions: TLS13, ..site.scraper() }.get(only_13.port).is_ok());
    let only_12 = site.serve_tls("  max_version: TLS12\n");
    assert!(Scraper { versions: TLS13, ..site.scraper() }.get(only_12.port).is_err());
    assert!(Scraper { versions: TLS12, ..site.scraper() }.get(only_12.port).is_ok());
}

#[test]
fn suites_and_curves_in_common() {
    use ring::cipher_suite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 as AES128, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 as AES256,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 as CHACHA,
    };
    use ring::kx_group::{SECP256R1 as P256, SECP384R1 as P384, X25519};
    let site = Site::new();
    let chosen = |exporter: &Exporter, suites: &[SupportedCipherSuite]| {
        let scraper = Scraper { versions: TLS12, suites: Some(suites.to_vec()), ..site.scraper() };
        let mut client = scraper.connect(exporter.port).unwrap();
        client.ask("GET /health HTTP/1.1\r\n\r\n").ok()?;
        client.stream.conn.negotiated_cipher_suite().map(|suite| suite.suite())
    };
    let suites =
        "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n";
    let own_order = site.serve_tls(suites);
    assert_eq!(chosen(&own_order, &[AES128, AES256]), Some(AES256.suite()), "the server's order");
    assert_eq!(chosen(&own_order, &[CHACHA, AES128]), Some(AES128.suite()), "the one in common");
    assert_eq!(chosen(&own_order, &[CHACHA]), None, "none in common");
    let clients_order = site.serve_tls(&format!("{suites}  prefer_server_cipher_suites: false\n"));
    assert_eq!(chosen(&clients_order, &[AES128, AES256]), Some(AES128.suite()), "the client's order");

    let exporter = site.serve_tls("  curve_preferences: [CurveP521, CurveP384]\n");
    let is_let_in = |curves: &[&'static dyn SupportedKxGroup]| {
        [TLS12, TLS13].map(|versions| {
            Scraper { versions, curves: Some(curves.to_vec()), ..site.scraper() }.get(exporter.port).is_ok()
        })
    };
    assert_eq!(is_let_in(&[P384]), [true; 2]);
    assert_eq!(is_let_in(&[X25519, P256, P384]), [true; 2]);
    assert_eq!(is_let_in(&[X25519, P256]), [false; 2]);
}

#[test]
fn every_form_of_key() {
    let site = Site::new();
    for name in ["rsa-2048.pem", "p256.pem"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys").join(name);
        let identity = site.authority.server_with(&std::fs::read_to_string(&path).unwrap());
        site.scratch.write("server.crt", &identity.certificate);
        for form in [name, &name.replace(".pem", "-pkcs1.pem"), &name.replace(".pem", "-sec1.pem")] {
            let Ok(text) = std::fs::read(path.with_file_name(form)) else { continue };
            site.scratch.write("server.key", text);
            let exporter = site.serve_tls("");
            for versions in [TLS12, TLS13] {
                assert!(Scraper { versions, ..site.scraper() }.get(exporter.port).is_ok(), "{form}");
            }
        }
    }
}

#[test]
fn client_certificates_by_policy() {
    let site = Site::new();
    let right = site.authority.client(Vec::new());
    let wrong = Authority::new().client(Vec::new());
    let expired = {
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        site.authority.sign(KeyPair::generate().unwrap(), params)
    };
    let server_only = {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        site.authority.sign(KeyPair::generate().unwrap(), params)
    };
    // In the order of the columns below.
    let identities = [None, Some(&right), Some(&wrong), Some(&expired), Some(&server_only)];
    for (policy, needs_ca, let_in) in [
        ("NoClientCert", false, [true, true, true, true, true]),
        ("RequestClientCert", false, [true, true, true, true, true]),
        ("RequireAnyClientCert", false, [false, true, true, true, true]),
        ("VerifyClientCertIfGiven", true, [true, true, false, false, false]),
        ("RequireAndVerifyClientCert", true, [false, true, false, false, false]),
    ] {
        let ca = if needs_ca { "  client_ca_file: ca.crt\n" } else { "" };
        let mut exporter = site.serve_tls(&format!("  client_auth_type: {policy}\n{ca}"));
        exporter.until("there is a page", |exporter| {
            let scraper = Scraper { identity: Some(right.clone()), ..site.scraper() };
            scraper.is_let_in(exporter.port).then_some(())
        });
        for versions in [TLS12, TLS13] {
            let found = identities.map(|identity| {
                Scraper { versions, identity: identity.cloned(), ..site.scraper() }.is_let_in(exporter.port)
            });
            assert_eq!(found, let_in, "{policy}, {:?}", versions[0].version);
        }
    }
}

/// What `openssl req -x509` makes is its own authority, which WebPKI refuses as a client's certificate and Go accepts.
#[test]
fn a_trusted_certificate_that_is_its_own_authority() {
    let site = Site::new();
    let keys = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys");
    let read = |name: &str| std::fs::read_to_string(keys.join(name)).unwrap();
    let by_openssl = Identity { certificate: read("self-signed-client.crt"), key: read("p256.pem") };
    let made = |change: fn(&mut CertificateParams)| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["scraper.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        Identity { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    };
    let expired = made(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = made(|params| params.not_before = rcgen::date_time_ymd(3000, 1, 1));
    let server_only = made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let stranger = made(|_| {});
    // Somebody who has the certificate, which is no secret, but not its key.
    let thief =
        Identity { certificate: by_openssl.certificate.clone(), key: KeyPair::generate().unwrap().serialize_pem() };
    let trusted = [&by_openssl, &expired, &early, &server_only].map(|identity| identity.certificate.as_str()).concat();
    site.scratch.write("clients.crt", trusted);
    let mut exporter =
        site.serve_tls("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: clients.crt\n");
    exporter.until("there is a page", |exporter| {
        Scraper { identity: Some(by_openssl.clone()), ..site.scraper() }.is_let_in(exporter.port).then_some(())
    });
    for versions in [TLS12, TLS13] {
        let is_let_in = |identity: &Identity| {
            Scraper { versions, identity: Some(identity.clone()), ..site.scraper() }.is_let_in(exporter.port)
        };
        assert!(is_let_in(&by_openssl));
        for (identity, who) in
            [(&expired, "expired"), (&early, "not valid yet"), (&server_only, "for servers"), (&stranger, "unknown")]
        {
            assert!(!is_let_in(identity), "{who}");
        }
        assert!(!is_let_in_with_any_key(&site, &thief, versions, exporter.port));
    }
}

/// rustls will not use a key that does not belong to its certificate, so the pair is put together behind its back.
fn is_let_in_with_any_key(
    site: &Site,
    identity: &Identity,
    versions: &'static [&'static SupportedProtocolVersion],
    port: u16,
) -> bool {
    #[derive(Debug)]
    struct Always(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Always {
        fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    let key = ring::sign::any_supported_type(&PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap()).unwrap();
    let mut config = Arc::unwrap_or_clone(Scraper { versions, ..site.scraper() }.config());
    config.client_auth_cert_resolver = Arc::new(Always(Arc::new(rustls::sign::CertifiedKey::new(chain, key))));
    let mut client = connect(&Arc::new(config), port).unwrap();
    client.ask("GET /health HTTP/1.1\r\n\r\n").is_ok_and(|response| response.status == 200)
}

/// A chain that is valid, and one that takes no key to make: many authorities of the same name on each level, of which a
/// verifier would try every order.
#[test]
fn long_chains() {
    let site = Site::new();
    let mut exporter = site.serve_tls("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n");
    let authority = |name: String| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params, KeyPair::generate().unwrap())
    };
    let (params, key) = authority("one".to_owned());
    let one = params.signed_by(&key, &site.authority.issuer).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let (params, key) = authority("two".to_owned());
    let two = params.signed_by(&key, &issuer).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default().signed_by(&key, &issuer).unwrap().pem();
    let chained = Identity { certificate: format!("{leaf}{two}{one}"), key: key.serialize_pem() };
    exporter.until("a client behind two authorities is let in", |exporter| {
        Scraper { identity: Some(chained.clone()), ..site.scraper() }.is_let_in(exporter.port).then_some(())
    });

    let mut chain = String::new();
    let mut issuers: Vec<Issuer<'static, KeyPair>> = Vec::new();
    for level in 0..6 {
        let (issuer_params, issuer_key) = authority(format!("level {}", level + 1));
        let above = Issuer::new(issuer_params, issuer_key);
        for _ in 0..8 {
            let (params, key) = authority(format!("level {level}"));
            chain.push_str(&params.signed_by(&key, &above).unwrap().pem());
            if level == 0 {
                issuers.push(Issuer::new(params, key));
            }
        }
    }
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default().signed_by(&key, &issuers[0]).unwrap().pem();
    let evil = Identity { certificate: format!("{leaf}{chain}"), key: key.serialize_pem() };
    let start = Instant::now();
    assert!(!Scraper { identity: Some(evil), ..site.scraper() }.is_let_in(exporter.port));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn names_in_a_clients_certificate() {
    let site = Site::new();
    let mut exporter = site.serve_tls(
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n  client_allowed_sans:\n    - scraper.example\n    \
         - scraper@example.org\n    - 10.1.2.3\n    - 2001:db8::1\n    - spiffe://example/scraper\n",
    );
    let client = |sans: Vec<SanType>| Scraper { identity: Some(site.authority.client(sans)), ..site.scraper() };
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    exporter.until("there is a page", |exporter| {
        client(vec![dns("scraper.example")]).is_let_in(exporter.port).then_some(())
    });
    for (sans, let_in) in [
        (vec![dns("scraper.example")], true),
        (vec![dns("other.example"), dns("scraper.example")], true),
        (vec![SanType::Rfc822Name("scraper@example.org".try_into().unwrap())], true),
        (vec![SanType::IpAddress("10.1.2.3".parse().unwrap())], true),
        (vec![SanType::IpAddress("2001:db8::1".parse().unwrap())], true),
        (vec![SanType::URI("spiffe://example/scraper".try_into().unwrap())], true),
        (vec![], false),
        (vec![dns("other.example")], false),
        (vec![dns("sub.scraper.example")], false),
        (vec![SanType::IpAddress("10.1.2.4".parse().unwrap())], false),
        (vec![SanType::URI("spiffe://example/other".try_into().unwrap())], false),
    ] {
        assert_eq!(client(sans.clone()).is_let_in(exporter.port), let_in, "{sans:?}");
    }
}

#[test]
fn a_scraper_that_comes_again_resumes() {
    let site = Site::new();
    let identity = site.authority.client(Vec::new());
    let mut exporter = site.serve_tls("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n");
    let scraper = Scraper { identity: Some(identity), ..site.scraper() };
    exporter.until("there is a page", |exporter| scraper.is_let_in(exporter.port).then_some(()));
    for versions in [TLS12, TLS13] {
        let config = Scraper { versions, ..scraper.clone() }.config();
        let kinds: Vec<Option<HandshakeKind>> = (0..4)
            .map(|_| {
                let mut client = connect(&config, exporter.port).unwrap();
                assert_eq!(client.ask("GET /health HTTP/1.1\r\n\r\n").unwrap().status, 200);
                client.stream.conn.handshake_kind()
            })
            .collect();
        assert_eq!(kinds[0], Some(HandshakeKind::Full));
        assert_eq!(kinds[1..], [Some(HandshakeKind::Resumed); 3], "{:?}", versions[0].version);
        // A ticket is worth nothing once the trust in who holds it may have changed.
        site.scratch.write("ca.crt", Authority::new().pem);
        exporter.until("the other authority is trusted", |exporter| {
            let is_let_in = connect(&config, exporter.port).unwrap().ask("GET /health HTTP/1.1\r\n\r\n").is_ok();
            (!is_let_in).then_some(())
        });
        site.scratch.write("ca.crt", &site.authority.pem);
        exporter.until("the first is trusted again", |exporter| scraper.is_let_in(exporter.port).then_some(()));
    }
}

#[test]
fn a_kept_connection_loses_what_its_certificate_was_trusted_for() {
    let site = Site::new();
    let mut exporter = site.serve_tls("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n");
    let with = |identity: Identity| Scraper { identity: Some(identity), ..site.scraper() };
    let (scraper, other_authority) = (with(site.authority.client(Vec::new())), Authority::new());
    let newcomer = with(other_authority.client(Vec::new()));
    let mut kept = scraper.connect(exporter.port).unwrap();
    let ask = "GET /health HTTP/1.1\r\n\r\n";
    assert!(kept.ask(ask).is_ok());
    site.scratch.write("ca.crt", format!("{}{}", site.authority.pem, other_authority.pem));
    exporter.until("both are trusted", |exporter| newcomer.is_let_in(exporter.port).then_some(()));
    assert!(kept.ask(ask).is_ok(), "it is still trusted");
    site.scratch.write("ca.crt", &other_authority.pem);
    exporter.until("one is not trusted", |exporter| (!scraper.is_let_in(exporter.port)).then_some(()));
    assert!(kept.ask(ask).is_err(), "nor on its old connection");
    assert!(newcomer.is_let_in(exporter.port));
}

#[test]
fn headers_and_a_rate_limit() {
    let site = Site::new();
    let exporter = site.serve(
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: 1\n    \
         Strict-Transport-Security: max-age=31536000; includeSubDomains\n    Content-Security-Policy: default-src 'self'\n    \
         X-Content-Type-Options: nosniff\n",
    );
    for path in ["/metrics", "/health", "/", "/nowhere"] {
        let answer = exporter.get(path);
        for (name, value) in [
            ("X-Frame-Options", "deny"),
            ("X-XSS-Protection", "1"),
            ("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),
            ("Content-Security-Policy", "default-src 'self'"),
            ("X-Content-Type-Options", "nosniff"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        assert_eq!(answer.head.matches("X-Content-Type-Options").count(), 1);
    }
    let statuses = |exporter: &Exporter| (0..4).map(|_| exporter.get("/-/healthy").status).collect::<Vec<_>>();
    let none = site.serve("rate_limit: {interval: 1s}\n");
    assert_eq!(statuses(&none), [429; 4]);
    let mut some = site.serve("rate_limit: {interval: 300ms, burst: 2}\n");
    assert_eq!(statuses(&some)[2..], [429; 2]);
    some.until("a token is there again", |exporter| (exporter.get("/health").status == 200).then_some(()));
}

#[test]
fn files_that_change() {
    let site = Site::new();
    let mut exporter = site.serve_tls("");
    page_over_tls(&site, &mut exporter);
    let certificate = |exporter: &Exporter| {
        let mut client = site.scraper().connect(exporter.port).unwrap();
        client.ask("GET /health HTTP/1.1\r\n\r\n").unwrap();
        client.stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let first = certificate(&exporter);
    let logged = |text: &'static str| move |exporter: &mut Exporter| exporter.log().contains(text).then_some(());

    // Somebody removes the key: the old pair serves on, and the log says why.
    std::fs::remove_file(site.scratch.path("server.key")).unwrap();
    exporter.until("it is said", logged("server.key cannot be read"));
    exporter.until("it is said", logged("the web configuration cannot be used; the old one stays in force"));
    assert_eq!(certificate(&exporter), first);
    // A pair that does not match, as in the middle of a renewal.
    let second = site.authority.server();
    site.scratch.write("server.key", &second.key);
    exporter.until("it is said", logged("the private key does not belong to the certificate"));
    assert_eq!(certificate(&exporter), first);
    site.install(&second);
    exporter.until("the new one is served", |exporter| (certificate(exporter) != first).then_some(()));

    site.scratch.write("web.yml", "tls_server_confg: x\n");
    exporter.until("it is said", logged("did you mean 'tls_server_config'?"));
    site.scratch.write("web.yml", "");
    exporter.until("it is said", logged("a change from HTTPS to HTTP needs a restart"));
    assert!(site.scraper().is_let_in(exporter.port), "an empty file takes no protection away");
    site.scratch.write("web.yml", format!("tls_server_config:\n{PAIR}  min_version: TLS13\n"));
    exporter.until("it takes effect", |exporter| {
        Scraper { versions: TLS12, ..site.scraper() }.get(exporter.port).is_err().then_some(())
    });
    assert!(site.scraper().is_let_in(exporter.port));
}

#[test]
fn half_handshakes_are_closed_in_time() {
    let site = Site::new();
    let mut command = site.command(&format!("tls_server_config:\n{PAIR}"));
    let mut exporter = Exporter::start(command.args(["--web-read-timeout", "500ms"]));
    page_over_tls(&site, &mut exporter);
    let files = || std::fs::read_dir(format!("/proc/{}/fd", exporter.pid())).unwrap().count();
    let before = files();
    let hello = include_bytes!("../fuzz/corpus/tls/hello-1.3");
    for part in [&hello[..0], &hello[..5], &hello[..100], &hello[..]] {
        let mut stream = TcpStream::connect(("127.0.0.1", exporter.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(part).unwrap();
        let start = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(start.elapsed() < Duration::from_secs(5), "{} bytes: {:?}", part.len(), start.elapsed());
        assert!(site.scraper().is_let_in(exporter.port));
    }
    let end = Instant::now() + PATIENCE;
    while files() > before {
        assert!(Instant::now() < end, "{} descriptors, {before} before", files());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_check_says_of_it() {
    let site = Site::new();
    let good =
        format!("tls_server_config:\n{PAIR}basic_auth_users:\n  alice: {}\n", bcrypt::hash("alice123", 4).unwrap());
    let mut command = site.command(&good);
    let output = command.args(["--check", "-a", "127.0.0.1:0"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("web.yml: HTTPS, users: 1") && !text.contains("$2"), "{text}");
    let output =
        site.command("basic_auth_users: {alice: secret}\n").args(["--check", "-a", "127.0.0.1:0"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("fail  web configuration") && text.contains("is not a bcrypt hash") && !text.contains("secret"),
        "{text}"
    );
}
