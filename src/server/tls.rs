//! TLS, by rustls with ring: settings of the web configuration made into an acceptor of connections.
//!
//! What exporter-toolkit has and rustls with ring does not: TLS 1.0 and 1.1, suites with CBC, the curve P-521 and keys
//! on it, RSA keys below 2048 bits, certificates of X.509 version 1.

use std::sync::Arc;

use rustls::crypto::{SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, ServerConnection, SupportedCipherSuite};

use super::client_certificates::{ClientCertificates, Policy};

/// What `tls_server_config` says.
pub struct TlsSettings<'a> {
    /// PEM texts.
    pub certificate: &'a [u8],
    pub key: &'a [u8],
    pub client_ca: Option<&'a [u8]>,
    pub policy: Policy,
    pub allowed_sans: Vec<String>,
    pub versions: Versions,
    /// Suites of TLS 1.2 in the order of preference; those of 1.3 cannot be chosen, as in Go.
    pub suites: Option<Vec<SupportedCipherSuite>>,
    pub curves: Option<Vec<&'static dyn SupportedKxGroup>>,
    pub prefers_own_order: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    Tls12,
    Tls13,
    Both,
}

/// Which part of the settings an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Certificate,
    Key,
    ClientCa,
    Settings,
}

#[derive(Debug)]
pub struct Error {
    pub place: Place,
    pub what: String,
}

/// What is known of a name in a list of suites or curves.
pub enum Found<T> {
    Here(T),
    /// A suite of TLS 1.3, which is always offered.
    Fixed,
    /// The toolkit has it, and why this exporter does not.
    Elsewhere(&'static str),
    /// An unknown name; these are known.
    Unknown(&'static str),
}

/// A suite by Go's name.
pub fn suite(name: &str) -> Found<SupportedCipherSuite> {
    use ring::cipher_suite::*;
    Found::Here(match name {
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS_AES_128_GCM_SHA256" | "TLS_AES_256_GCM_SHA384" | "TLS_CHACHA20_POLY1305_SHA256" => return Found::Fixed,
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"
        | "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"
        | "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"
        | "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA" => return Found::Elsewhere("suites with CBC are not built in"),
        _ => {
            return Found::Unknown(
                "Go's name of a suite, such as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 or \
                 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            );
        }
    })
}

/// A curve by Go's name.
pub fn curve(name: &str) -> Found<&'static dyn SupportedKxGroup> {
    match name {
        "X25519" => Found::Here(ring::kx_group::X25519),
        "CurveP256" => Found::Here(ring::kx_group::SECP256R1),
        "CurveP384" => Found::Here(ring::kx_group::SECP384R1),
        "CurveP521" => Found::Elsewhere("this curve is not built in"),
        _ => Found::Unknown("CurveP256, CurveP384, CurveP521 or X25519"),
    }
}

/// Accepts TLS connections.
pub struct Acceptor {
    config: Arc<ServerConfig>,
    clients: Option<Arc<ClientCertificates>>,
}

impl Acceptor {
    /// Errors: a certificate, key or authority that cannot be used, and which of them.
    pub fn new(settings: TlsSettings<'_>) -> Result<Acceptor, Error> {
        let TlsSettings { suites, curves, mut versions, .. } = settings;
        let mut provider = ring::default_provider();
        if let Some(suites) = suites {
            if suites.is_empty() {
                versions = match versions {
                    Versions::Tls12 => return Err(wrong(Place::Settings, "no suite of TLS 1.2 is chosen")),
                    Versions::Tls13 | Versions::Both => Versions::Tls13,
                };
            }
            provider.cipher_suites.retain(|suite| suite.tls13().is_some());
            provider.cipher_suites.extend(suites);
        }
        if let Some(curves) = curves {
            provider.kx_groups = curves;
        }
        let provider = Arc::new(provider);
        let certificates = certificates(settings.certificate).map_err(|what| wrong(Place::Certificate, what))?;
        let key = PrivateKeyDer::from_pem_slice(settings.key).map_err(|_| {
            let what = "there is no private key in PEM form (PKCS#8, PKCS#1 or SEC1; an encrypted one cannot be read)";
            wrong(Place::Key, what)
        })?;
        let clients = match settings.policy {
            Policy::None => None,
            policy => {
                let authorities = match settings.client_ca {
                    Some(text) => certificates_of_authorities(text).map_err(|what| wrong(Place::ClientCa, what))?,
                    None => Vec::new(),
                };
                let clients = ClientCertificates::new(&provider, policy, authorities, settings.allowed_sans)
                    .map_err(|what| wrong(Place::ClientCa, what))?;
                Some(Arc::new(clients))
            }
        };
        let versions: &[&rustls::SupportedProtocolVersion] = match versions {
            Versions::Tls12 => &[&rustls::version::TLS12],
            Versions::Tls13 => &[&rustls::version::TLS13],
            Versions::Both => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| wrong(Place::Settings, error.to_string()))?;
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
        };
        let mut config = builder.with_single_cert(certificates, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong(Place::Key, "the private key does not belong to the certificate")
            }
            rustls::Error::General(_) => wrong(
                Place::Key,
                "the private key cannot be used: RSA from 2048 bits on, ECDSA with P-256 or P-384, and Ed25519 can be",
            ),
            error => wrong(Place::Certificate, error.to_string()),
        })?;
        config.ignore_client_order = settings.prefers_own_order;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A scraper that reconnects presents a ticket, so nothing has to be kept for it. The key of the tickets dies
        // with the configuration: after a reload no session resumes that the old configuration trusted.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new().map_err(|error| wrong(Place::Settings, error.to_string()))?;
        config.send_tls13_tickets = 1;
        Ok(Acceptor { config: Arc::new(config), clients })
    }

    /// A connection whose handshake has not begun.
    ///
    /// Errors: none that a client can cause.
    pub fn accept(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(self.config.clone())
    }

    /// Looks at a client whose handshake is done. With a ticket rustls takes the certificate from the first handshake
    /// as it is, which may have expired since.
    ///
    /// Errors: why the client is to be refused.
    pub fn check_resumed(&self, session: &ServerConnection) -> Result<(), rustls::Error> {
        match session.handshake_kind() {
            Some(rustls::HandshakeKind::Resumed) => self.check(session),
            _ => Ok(()),
        }
    }

    /// Looks at the certificate of a client that was let in, perhaps under other settings.
    ///
    /// Errors: why the client is to be refused.
    pub fn check(&self, session: &ServerConnection) -> Result<(), rustls::Error> {
        use rustls::server::danger::ClientCertVerifier;
        match (&self.clients, session.peer_certificates()) {
            (Some(clients), Some([first, others @ ..])) => {
                clients.verify_client_cert(first, others, rustls::pki_types::UnixTime::now()).map(drop)
            }
            (Some(clients), _) if clients.client_auth_mandatory() => Err(rustls::Error::NoCertificatesPresented),
            _ => Ok(()),
        }
    }
}

fn wrong(place: Place, what: impl Into<String>) -> Error {
    Error { place, what: what.into() }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err("there is no certificate in PEM form".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("a certificate in it is not PEM: {error}")),
    }
}

fn certificates_of_authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(pem).map_err(|what| format!("client_ca: {what}"))
}

/// Go's answer to HTTP on a port with TLS.
pub const HTTP_TO_HTTPS: &str = "Client sent an HTTP request to an HTTPS server.\n";

/// Whether the first bytes of a connection are HTTP's and not TLS's: a record of TLS begins with a byte below 64.
pub fn looks_like_http(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
}
