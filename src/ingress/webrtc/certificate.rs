//! The DTLS certificate, kept over restarts where a path is configured.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::runtime::peer::engine::Certificate;

/// Reads the certificate and its key from a PEM file, or makes them there; without a path makes new ones.
///
/// # Errors
/// If the file cannot be used; it is never overwritten.
pub fn load(path: Option<&Path>) -> io::Result<Certificate> {
    let Some(path) = path else { return generate() };
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("webrtc.certificate = \"{}\": {error}", path.display()))
    };
    match std::fs::read(path) {
        Ok(pem) => parse(&pem).map_err(named),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = generate()?;
            write(path, &made).map_err(named)?;
            Ok(made)
        }
        Err(error) => Err(named(error)),
    }
}

fn generate() -> io::Result<Certificate> {
    Certificate::generate().ok_or_else(|| io::Error::other("cannot make a DTLS certificate"))
}

fn parse(pem: &[u8]) -> io::Result<Certificate> {
    let invalid = |what: &str| {
        let why = format!("the file has no {what} in PEM; remove it, and a new one is made");
        io::Error::new(io::ErrorKind::InvalidData, why)
    };
    let certificate = CertificateDer::from_pem_slice(pem).map_err(|_| invalid("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| invalid("private key"))?;
    Ok(Certificate { certificate: certificate.to_vec(), key: key.secret_der().to_vec() })
}

fn write(path: &Path, made: &Certificate) -> io::Result<()> {
    let mut text = block("CERTIFICATE", &made.certificate);
    text += &block("PRIVATE KEY", &made.key);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn block(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_the_same_after_a_restart_and_nobody_else_reads_its_key() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("antiphon-dtls-{}.pem", std::process::id()));
        let first = load(Some(&path)).unwrap();
        let second = load(Some(&path)).unwrap();
        assert_eq!((first.certificate, first.key), (second.certificate, second.key));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "rubbish").unwrap();
        let error = load(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("webrtc.certificate") && error.contains("no certificate"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
