//! The certificate that all encrypted listeners show, HTTPS and QUIC alike. It can be replaced while they run: calls that
//! were set up with the old one go on, new ones see the new one.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use aws_lc_rs::digest;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::sync::CancellationToken;

use crate::runtime::clock::Clock;
use crate::runtime::tls::{TlsError, certificates, provider};

/// How long a certificate for development is valid. Browsers take `serverCertificateHashes` (W3C WebTransport, section
/// "Connection properties") for at most 14 days, the day before the first use included.
const LIFETIME: Duration = Duration::from_secs(12 * 86_400);
/// It is valid from so long before it was made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(86_400);
/// The rest of its life at which the next one is made: a page that was just given its hash can use it for days.
const RENEWED_BEFORE: Duration = Duration::from_secs(6 * 86_400);
/// How often its age is looked at.
const CHECKED_EVERY: Duration = Duration::from_secs(600);

/// The SHA-256 of a certificate in DER, written as 64 hexadecimal digits: what a client pins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CertificateHash(pub [u8; 32]);

impl CertificateHash {
    /// The hash of a certificate.
    pub fn of(der: &[u8]) -> CertificateHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        CertificateHash(hash)
    }
}

impl fmt::Display for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CertificateHash {
    type Err = String;

    fn from_str(text: &str) -> Result<CertificateHash, String> {
        let wrong = || format!("`{text}` is not a SHA-256: write 64 hexadecimal digits");
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| wrong())?;
        }
        Ok(CertificateHash(hash))
    }
}

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Identity {
    key: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads PEM files.
    ///
    /// # Errors
    /// If one cannot be read, or the key is not that of the certificate.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
        let chain = certificates(certificate)?;
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| TlsError::File { path: key.into(), reason: error.to_string() })?;
        let unusable = |source| TlsError::Identity { path: certificate.into(), source };
        let key = CertifiedKey::from_der(chain, private, &provider()).map_err(unusable)?;
        Ok(Identity { key: Arc::new(key) })
    }
}

/// A self-signed certificate (ECDSA on P-256, RFC 5480) that clients know by its hash.
#[derive(Debug)]
struct Development {
    key: Arc<CertifiedKey>,
    hash: CertificateHash,
    /// Unix time, in seconds.
    expires: u64,
}

impl Development {
    /// Makes one at Unix time `now`, in seconds.
    fn make(now: u64) -> Result<Development, TlsError> {
        let failed = |error: rcgen::Error| TlsError::Development(error.to_string());
        let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        let expires = now + LIFETIME.as_secs();
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "antiphon, for development");
        params.not_before = at(now.saturating_sub(BACKDATED.as_secs()));
        params.not_after = at(expires);
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.self_signed(&pair).map_err(failed)?.der().clone();
        let hash = CertificateHash::of(&certificate);
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let key = CertifiedKey::from_der(vec![certificate], private, &provider())
            .map_err(|error| TlsError::Development(error.to_string()))?;
        Ok(Development { key: Arc::new(key), hash, expires })
    }
}

/// The certificate in force: the configured one, or else one made for development.
#[derive(Debug)]
pub struct Certificates {
    configured: ArcSwapOption<Identity>,
    development: ArcSwap<Development>,
}

impl Certificates {
    /// Begins with what is configured, at Unix time `now` in seconds.
    ///
    /// # Errors
    /// If no certificate can be made for development.
    pub fn new(configured: Option<Arc<Identity>>, now: u64) -> Result<Certificates, TlsError> {
        let development = ArcSwap::from_pointee(Development::make(now)?);
        Ok(Certificates { configured: ArcSwapOption::new(configured), development })
    }

    /// Shows another one from now on.
    pub fn configure(&self, configured: Option<Arc<Identity>>) {
        self.configured.store(configured);
    }

    /// What clients have to pin, as nobody vouches for the certificate; `None` where one is configured.
    pub fn pin(&self) -> Option<CertificateHash> {
        self.configured.load().is_none().then(|| self.development.load().hash)
    }

    /// Makes a new certificate for development if half the life of the old one is over at Unix time `now`, in seconds;
    /// whether it did.
    ///
    /// # Errors
    /// If none can be made; the old one stays.
    pub fn renew(&self, now: u64) -> Result<bool, TlsError> {
        let due = now + RENEWED_BEFORE.as_secs() >= self.development.load().expires;
        if due {
            self.development.store(Arc::new(Development::make(now)?));
        }
        Ok(due)
    }

    /// Logs what clients have to pin, if anything.
    pub fn announce(&self) {
        if let Some(hash) = self.pin() {
            tracing::info!(cert_sha256 = %hash, "no certificate is configured: QUIC shows a self-signed one, to be pinned");
        }
    }

    /// Renews until `stopping`; browsers refuse to pin a certificate that is valid for more than 14 days.
    pub async fn keep_valid(&self, clock: Clock, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(CHECKED_EVERY) => {}
            }
            match self.renew(clock.unix_seconds(Duration::ZERO)) {
                Ok(true) => self.announce(),
                Ok(false) => {}
                Err(error) => tracing::error!("{error}"),
            }
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let configured = self.configured.load();
        Some(configured.as_ref().map_or_else(|| self.development.load().key.clone(), |identity| identity.key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const NOW: u64 = 20_000 * DAY;

    #[test]
    fn a_development_certificate_is_one_that_browsers_accept_by_hash() {
        let made = Development::make(NOW).unwrap();
        let der = made.key.cert[0].to_vec();
        assert_eq!(made.hash, CertificateHash::of(&der));
        assert!(BACKDATED + LIFETIME <= Duration::from_secs(13 * DAY));
        // The object identifiers of P-256 and of ECDSA with SHA-256, and the years as UTCTime.
        let has = |bytes: &[u8]| der.windows(bytes.len()).any(|window| window == bytes);
        assert!(has(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]), "not P-256");
        assert!(has(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]), "not ECDSA with SHA-256");
        assert!(has(b"241003000000Z") && has(b"241016000000Z"), "not valid from the day before to 12 days after");
    }

    #[test]
    fn a_development_certificate_is_renewed_long_before_it_expires() {
        let certificates = Certificates::new(None, NOW).unwrap();
        let first = certificates.pin().unwrap();
        for day in 0..6 {
            assert!(!certificates.renew(NOW + day * DAY).unwrap(), "day {day}");
            assert_eq!(certificates.pin().unwrap(), first);
        }
        assert!(certificates.renew(NOW + 6 * DAY).unwrap());
        assert_ne!(certificates.pin().unwrap(), first);
        assert!(!certificates.renew(NOW + 6 * DAY + 600).unwrap());
    }

    #[test]
    fn a_hash_reads_back_and_rubbish_does_not() {
        let hash = CertificateHash::of(b"x");
        assert_eq!(hash.to_string().len(), 64);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for bad in ["", "ab", &"g".repeat(64), &"é".repeat(32)] {
            assert!(bad.parse::<CertificateHash>().is_err(), "{bad}");
        }
    }
}
