//! Whom agents' servers are trusted by: the usual authorities, and those that an agent's `ca_file` names.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use quinn::crypto::rustls::QuicClientConfig;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::dialect::native::quic::ALPN;
use crate::runtime::tls::{self, TlsError};

/// Sets of authorities that are kept ready at most; they change only with the configuration.
const KEPT: usize = 64;

/// TLS towards agents, made once for each set of authorities.
#[derive(Debug, Default)]
pub struct Trust {
    kept: Mutex<HashMap<Option<Arc<str>>, Clients>>,
}

/// TLS for one set of authorities.
#[derive(Clone)]
struct Clients {
    tcp: Arc<ClientConfig>,
    quic: Arc<QuicClientConfig>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

impl Trust {
    /// For TCP: HTTP/1.1 (a WebSocket upgrade needs it). `authorities` are certificates in PEM beside the usual ones.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn tcp(&self, authorities: Option<&Arc<str>>) -> Result<Arc<ClientConfig>, TlsError> {
        Ok(self.clients(authorities)?.tcp)
    }

    /// For QUIC: `antiphon/1`.
    ///
    /// # Errors
    /// If the authorities cannot be used.
    pub fn quic(&self, authorities: Option<&Arc<str>>) -> Result<Arc<QuicClientConfig>, TlsError> {
        Ok(self.clients(authorities)?.quic)
    }

    fn clients(&self, authorities: Option<&Arc<str>>) -> Result<Clients, TlsError> {
        // Touched when an agent is dialled, never per frame.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let key = authorities.cloned();
        if let Some(clients) = kept.get(&key) {
            return Ok(clients.clone());
        }
        let clients = make(authorities)?;
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, clients.clone());
        Ok(clients)
    }
}

fn make(authorities: Option<&Arc<str>>) -> Result<Clients, TlsError> {
    let pem = authorities.map(|pem| pem.as_bytes()).unwrap_or_default();
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| TlsError::Authorities(error.to_string()))?;
    let quic = QuicClientConfig::try_from(tls::client_config(&certificates, &[ALPN])?);
    let quic = quic.map_err(|error| TlsError::Authorities(error.to_string()))?;
    Ok(Clients { tcp: Arc::new(tls::client_config(&certificates, &[b"http/1.1"])?), quic: Arc::new(quic) })
}
