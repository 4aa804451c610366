//! [`Tls`]: connections to PostgreSQL that nobody else reads, as `sslmode` and `sslrootcert` say.
//!
//! The words are libpq's. Certificates are those of this machine, unless a file has others.
use crate::catalog::CatalogError;
use futures::future::BoxFuture;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// What must be certain of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    /// Nothing: nobody listens, but whoever stands in between could.
    Nothing,
    /// That somebody vouches for it.
    Vouched,
    /// And that it has the name that was asked for.
    Named,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
}

/// What a URI says of TLS, and the URI without what only libpq understands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub uri: String,
    mode: Option<String>,
    roots: Option<String>,
}

impl Wish {
    /// Takes it out of a URI.
    pub fn of(uri: &str) -> Self {
        // A password may hold a question mark; it ends at the first @.
        let host = uri.find('@').unwrap_or(0);
        let mark = uri[host..].find('?').map(|at| host + at);
        let (place, parameters) = mark.map_or((uri, ""), |at| (&uri[..at], &uri[at + 1..]));
        let (mut mode, mut roots) = (None, None);
        let rest: Vec<&str> = parameters
            .split('&')
            .filter(|parameter| match parameter.split_once('=') {
                Some(("sslmode", value)) => {
                    mode = Some(decoded(value));
                    false
                }
                Some(("sslrootcert", value)) => {
                    roots = Some(decoded(value));
                    false
                }
                _ => !parameter.is_empty(),
            })
            .collect();
        let uri = if rest.is_empty() { place.to_owned() } else { format!("{place}?{}", rest.join("&")) };
        Self { uri, mode, roots }
    }

    /// How a connection begins, and by what.
    ///
    /// # Errors
    /// A mode that nobody knows, certificates that cannot be read.
    pub fn open(&self) -> Result<(SslMode, Tls), CatalogError> {
        // As libpq has it: whom all the world vouches for must at least have the right name.
        let is_of_all = self.roots.as_deref() == Some("system");
        if is_of_all && !matches!(self.mode.as_deref(), None | Some("verify-full")) {
            return Err(refused("sslrootcert=system wants sslmode=verify-full"));
        }
        let (mode, certainty) = match self.mode.as_deref() {
            None if is_of_all => (SslMode::Require, Certainty::Named),
            Some("disable") => (SslMode::Disable, Certainty::Nothing),
            None | Some("prefer") => (SslMode::Prefer, Certainty::Nothing),
            // As libpq has it: who names certificates wants one of them.
            Some("require") if self.roots.is_none() => (SslMode::Require, Certainty::Nothing),
            Some("require" | "verify-ca") => (SslMode::Require, Certainty::Vouched),
            Some("verify-full") => (SslMode::Require, Certainty::Named),
            Some(_) => {
                return Err(refused("sslmode is one of disable, prefer, require, verify-ca and verify-full"));
            }
        };
        let certificates = match (certainty, self.roots.as_deref()) {
            (Certainty::Nothing, _) => Vec::new(),
            (_, None | Some("system")) => {
                let found = rustls_native_certs::load_native_certs();
                if found.certs.is_empty() {
                    let why =
                        found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
                    return Err(refused(format!("the certificates of this machine cannot be read: {why}")));
                }
                found.certs
            }
            (_, Some(path)) => CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| refused(format!("sslrootcert cannot be read: {path}: {error}")))?,
        };
        Ok((mode, Tls::new(certainty, certificates)?))
    }
}

fn refused(why: impl Into<String>) -> CatalogError {
    CatalogError::Refused { why: format!("PostgreSQL: {}", why.into()) }
}

/// A parameter of a URI. What is no text by then names nothing.
fn decoded(value: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(value.len()), value.as_bytes());
    while let [first, after @ ..] = rest {
        let byte = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Tls {
    fn new(certainty: Certainty, certificates: Vec<CertificateDer<'static>>) -> Result<Self, CatalogError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        if certainty != Certainty::Nothing && usable == 0 {
            return Err(refused("sslrootcert has no certificate that can be used"));
        }
        let verifier = Arc::new(Verifier { certainty, certificates, roots, algorithms });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self { connector: Arc::new(config).into() })
    }
}

/// Who looks at what a server shows.
#[derive(Debug)]
struct Verifier {
    certainty: Certainty,
    certificates: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.certainty == Certainty::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(own)?;
        // One that a server has made for itself is in the file itself, and vouched for by nobody else.
        if !self.certificates.contains(own) {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                between,
                now,
                self.algorithms.all,
            )?;
        }
        if self.certainty == Certainty::Named {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, own, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, own, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A connection to a server of this name is about to be made. Sockets of this machine have none, and no TLS.
pub(super) struct Named {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = Named;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Named> {
        Ok(Named { connector: self.connector.clone(), name: ServerName::try_from(domain.to_owned()).ok() })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Named {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Stream<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let none = || io::Error::other("the server has no name that a certificate could have");
            let name = self.name.ok_or_else(none)?;
            Ok(Stream(self.connector.connect(name, stream).await?))
        })
    }
}

/// A connection under TLS.
pub(super) struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_says_what_must_be_certain() {
        let wish = Wish::of("postgres://u:p@h/d?sslmode=verify-full&sslrootcert=%2Fetc%2Fa%20b.pem&user=x");
        assert_eq!(wish.uri, "postgres://u:p@h/d?user=x");
        assert_eq!(
            (wish.mode.as_deref(), wish.roots.as_deref()),
            (Some("verify-full"), Some("/etc/a b.pem"))
        );
        let error = wish.open().err().unwrap().to_string();
        assert!(error.contains("/etc/a b.pem") && !error.contains("u:p"), "{error}");
        for (mode, begins) in [
            ("", SslMode::Prefer),
            ("?sslmode=disable", SslMode::Disable),
            ("?sslmode=prefer", SslMode::Prefer),
            ("?sslmode=require", SslMode::Require),
        ] {
            let wish = Wish::of(&format!("postgres://h/d{mode}"));
            assert_eq!(
                (wish.uri.as_str(), wish.open().ok().map(|(mode, _)| mode)),
                ("postgres://h/d", Some(begins))
            );
        }
        let marked = Wish::of("postgres://u:pa?ss@h/d?sslmode=require");
        assert_eq!(
            (marked.uri.as_str(), marked.mode.as_deref()),
            ("postgres://u:pa?ss@h/d", Some("require"))
        );
        // Of all the world's certificates only one of the right name will do.
        let all = |mode: &str| Wish::of(&format!("postgres://h/d?sslrootcert=system{mode}"));
        assert!(all("&sslmode=require").open().is_err() && all("&sslmode=prefer").open().is_err());
        let unknown = Wish::of("postgres://h/d?sslmode=maybe").open().err().unwrap().to_string();
        assert!(unknown.contains("verify-full"), "{unknown}");
        assert_eq!(decoded("%41%4%zz%"), "A%4%zz%");
    }
}
