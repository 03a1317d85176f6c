//! Client certificates, as Go's five policies have them.
//!
//! rustls verifies as WebPKI does, which refuses a certificate that is its own authority: what `openssl req -x509`
//! makes, and what sites use that trust one scraper's certificate and nothing else. And it has no policy that only asks
//! for a certificate. So the chain is judged here where rustls will not, and by rustls otherwise; that the client holds
//! the key is verified by rustls in any case.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};

/// Certificates between a client's and the authority. A chain of hundreds, which takes no key to make, would hold the
/// verifier for seconds: it tries every order of those with the same names.
const MOST_INTERMEDIATES: usize = 5;

/// When a client's certificate is asked for, and what of it is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    None,
    Request,
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

impl Policy {
    pub const NAMES: [(&str, Policy); 6] = [
        ("NoClientCert", Policy::None),
        ("RequestClientCert", Policy::Request),
        ("RequireAnyClientCert", Policy::RequireAny),
        ("RequireClientCert", Policy::RequireAny),
        ("VerifyClientCertIfGiven", Policy::VerifyIfGiven),
        ("RequireAndVerifyClientCert", Policy::RequireAndVerify),
    ];

    pub fn by_name(name: &str) -> Option<Policy> {
        Policy::NAMES.iter().find(|(known, _)| *known == name).map(|(_, policy)| *policy)
    }

    fn verifies(self) -> bool {
        matches!(self, Policy::VerifyIfGiven | Policy::RequireAndVerify)
    }
}

#[derive(Debug)]
pub struct ClientCertificates {
    policy: Policy,
    trusted: Vec<CertificateDer<'static>>,
    webpki: Option<Arc<dyn ClientCertVerifier>>,
    /// One of the certificate's names has to be among these; any will do if there are none.
    allowed_sans: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertificates {
    /// Errors: an authority that cannot be read.
    pub fn new(
        provider: &Arc<CryptoProvider>,
        policy: Policy,
        authorities: Vec<CertificateDer<'static>>,
        allowed_sans: Vec<String>,
    ) -> Result<ClientCertificates, String> {
        let mut webpki = None;
        if policy.verifies() {
            let mut roots = RootCertStore::empty();
            for authority in &authorities {
                roots.add(authority.clone()).map_err(|error| format!("client_ca: {error}"))?;
            }
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            webpki = Some(builder.build().map_err(|error| format!("client_ca: {error}"))?);
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(ClientCertificates { policy, trusted: authorities, webpki, allowed_sans, algorithms })
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some(webpki) = self.webpki.as_ref().filter(|_| self.policy.verifies()) else { return Ok(()) };
        if intermediates.len() > MOST_INTERMEDIATES {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        }
        if self.trusted.iter().any(|trusted| trusted.as_ref() == leaf.as_ref()) {
            return verify_trusted_leaf(leaf, now);
        }
        webpki.verify_client_cert(leaf, intermediates, now).map(drop)
    }

    fn verify_names(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if self.allowed_sans.is_empty() {
            return Ok(());
        }
        let names = names(&parsed(leaf)?)?;
        match names.iter().any(|name| self.allowed_sans.contains(name)) {
            true => Ok(()),
            false => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }
}

/// A certificate that is trusted by itself: its time has to be right, and its purpose.
fn verify_trusted_leaf(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
    const ANY_PURPOSE: &str = "2.5.29.37.0";
    let certificate = parsed(leaf)?;
    let validity = certificate.tbs_certificate().validity();
    let now = Duration::from_secs(now.as_secs());
    if now < validity.not_before.to_unix_duration() {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now > validity.not_after.to_unix_duration() {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    match certificate.tbs_certificate().get_extension::<ExtendedKeyUsage>() {
        Ok(None) => Ok(()),
        Ok(Some((_, usage)))
            if usage.0.iter().any(|id| [CLIENT_AUTH, ANY_PURPOSE].contains(&id.to_string().as_str())) =>
        {
            Ok(())
        }
        Ok(Some(_)) => Err(Error::InvalidCertificate(CertificateError::InvalidPurpose)),
        Err(_) => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
    }
}

fn parsed(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// The subject's alternative names as the toolkit compares them: DNS names, e-mail addresses, IP addresses in their
/// text form, URIs.
fn names(certificate: &Certificate) -> Result<Vec<String>, Error> {
    let extension = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    let extension = extension.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let Some((_, SubjectAltName(names))) = extension else { return Ok(Vec::new()) };
    let text = |name: &GeneralName| match name {
        GeneralName::DnsName(name) | GeneralName::Rfc822Name(name) | GeneralName::UniformResourceIdentifier(name) => {
            Some(name.as_str().to_owned())
        }
        GeneralName::IpAddress(bytes) => match *bytes.as_bytes() {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            ref bytes => <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(bytes).to_canonical().to_string()),
        },
        _ => None,
    };
    Ok(names.iter().filter_map(text).collect())
}

impl ClientCertVerifier for ClientCertificates {
    fn client_auth_mandatory(&self) -> bool {
        matches!(self.policy, Policy::RequireAny | Policy::RequireAndVerify)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.as_ref().map_or(&[], |webpki| webpki.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_chain(end_entity, intermediates, now)?;
        self.verify_names(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
