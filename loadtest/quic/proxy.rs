//! Two bare QUIC legs: every datagram and stream of one is handed to the other as it is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use antiphon::dialect::native::quic::{Flow, read_flow};
use antiphon::runtime::certificate::CertificateHash;
use bytes::Bytes;
use tokio::io::copy;

use super::wire::{client, identity};
use crate::child::{listening, pinned_by, serve_counter};

/// Calls on each connection to the agents, as the daemon has them.
const CALLS: usize = 50;

/// Which connection of callers a flow came by.
type Callers = Arc<Mutex<HashMap<Flow, quinn::Connection>>>;

/// Runs until its standard input ends.
///
/// # Errors
/// If it cannot listen.
pub fn run(agents: SocketAddr, pin: CertificateHash) -> Result<(), String> {
    serve_counter(|| 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let own = identity()?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = quinn::Endpoint::server(own.config, any).map_err(|error| error.to_string())?;
        let dialer = quinn::Endpoint::client(any).map_err(|error| error.to_string())?;
        pinned_by(own.hash);
        listening(endpoint.local_addr().map_err(|error| error.to_string())?);
        let callers = Callers::default();
        let (mut agent, mut calls) = (None, 0);
        while let Some(incoming) = endpoint.accept().await {
            let caller = incoming.await.map_err(|error| error.to_string())?;
            if agent.is_none() || calls % CALLS == 0 {
                let connecting = dialer.connect_with(client(pin)?, agents, "127.0.0.1");
                let connecting = connecting.map_err(|error| error.to_string())?;
                let made = connecting.await.map_err(|error| error.to_string())?;
                tokio::spawn(to_callers(made.clone(), callers.clone()));
                agent = Some(made);
            }
            calls += super::CALLS_PER_CONNECTION;
            let Some(agent) = agent.clone() else { continue };
            tokio::spawn(streams(caller.clone(), agent.clone()));
            tokio::spawn(to_agents(caller, agent, callers.clone()));
        }
        Ok(())
    })
}

async fn to_agents(caller: quinn::Connection, agent: quinn::Connection, callers: Callers) {
    let mut known = std::collections::HashSet::new();
    while let Ok(datagram) = caller.read_datagram().await {
        if let Some(flow) = flow(&datagram)
            && known.insert(flow)
        {
            callers.lock().unwrap_or_else(PoisonError::into_inner).insert(flow, caller.clone());
        }
        let _ = agent.send_datagram(datagram);
    }
}

async fn to_callers(agent: quinn::Connection, callers: Callers) {
    while let Ok(datagram) = agent.read_datagram().await {
        let Some(flow) = flow(&datagram) else { continue };
        let callers = callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = callers.get(&flow) {
            let _ = caller.send_datagram(datagram);
        }
    }
}

fn flow(datagram: &Bytes) -> Option<Flow> {
    read_flow(datagram.clone()).ok().map(|(flow, _)| flow)
}

async fn streams(caller: quinn::Connection, agent: quinn::Connection) {
    while let Ok((mut to_caller, mut from_caller)) = caller.accept_bi().await {
        let agent = agent.clone();
        tokio::spawn(async move {
            let Ok((mut to_agent, mut from_agent)) = agent.open_bi().await else { return };
            let up = async { copy(&mut from_caller, &mut to_agent).await };
            let down = async { copy(&mut from_agent, &mut to_caller).await };
            let _ = tokio::join!(up, down);
        });
    }
}
