//! Connection ids that name the process and the worker (RFC 9000 section 5.1), so that a packet finds its connection
//! whatever address it comes from.
//!
//! The name is hidden by a keyed hash of a nonce: an observer cannot link the ids of a connection to each other.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use quinn::{ConnectionId, ConnectionIdGenerator};

/// Bytes of random.
const NONCE_BYTES: usize = 8;
/// Bytes of the hidden name.
const NAME_BYTES: usize = 4;
/// Bytes of every connection id.
pub const ID_BYTES: usize = NONCE_BYTES + NAME_BYTES;

/// Makes and reads the connection ids of one process.
#[derive(Clone, Debug)]
pub struct ConnectionIds {
    key: RandomState,
    process: u16,
    workers: u16,
}

impl ConnectionIds {
    /// For so many workers; `process` tells ours from those of another process.
    pub fn new(process: u16, workers: usize) -> ConnectionIds {
        ConnectionIds { key: RandomState::new(), process, workers: u16::try_from(workers).unwrap_or(u16::MAX) }
    }

    fn mask(&self, nonce: [u8; NONCE_BYTES]) -> u32 {
        self.key.hash_one(nonce) as u32
    }

    fn make(&self, nonce: [u8; NONCE_BYTES], worker: u16) -> [u8; ID_BYTES] {
        let name = u32::from(self.process) << 16 | u32::from(worker);
        let mut id = [0; ID_BYTES];
        id[..NONCE_BYTES].copy_from_slice(&nonce);
        id[NONCE_BYTES..].copy_from_slice(&(name ^ self.mask(nonce)).to_be_bytes());
        id
    }

    /// The worker that made an id; `None` if it is not ours.
    pub fn worker_of(&self, id: &[u8]) -> Option<usize> {
        let (nonce, name) = id.split_first_chunk::<NONCE_BYTES>()?;
        let name = u32::from_be_bytes(name.try_into().ok()?) ^ self.mask(*nonce);
        let worker = name as u16;
        (name >> 16 == u32::from(self.process) && worker < self.workers).then_some(usize::from(worker))
    }

    /// The worker that a packet is for by its destination connection id (RFC 8999 section 5); `None` if that is not
    /// ours, as in the first packets of a connection, whose id the client made up.
    pub fn worker_of_packet(&self, packet: &[u8]) -> Option<usize> {
        let (&first, rest) = packet.split_first()?;
        let id = if first & 0x80 == 0 {
            rest.get(..ID_BYTES)?
        } else {
            // Version, then the length of the id.
            let (&len, id) = rest.get(4..)?.split_first()?;
            if usize::from(len) != ID_BYTES { None } else { id.get(..ID_BYTES) }?
        };
        self.worker_of(id)
    }

    /// What makes ids for one worker's endpoint.
    pub fn generator(&self, worker: usize) -> Box<dyn ConnectionIdGenerator> {
        Box::new(Generator { ids: self.clone(), worker: u16::try_from(worker).unwrap_or(u16::MAX) })
    }
}

struct Generator {
    ids: ConnectionIds,
    worker: u16,
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.ids.make(rand::random(), self.worker))
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_names_its_worker_whatever_its_header() {
        let ids = ConnectionIds::new(7, 4);
        for worker in 0..4 {
            let id = ids.generator(worker).generate_cid();
            let short = [&[0x40], &id[..], &[1, 2, 3]].concat();
            let long = [&[0xE0, 0, 0, 0, 1, ID_BYTES as u8], &id[..], &[0]].concat();
            assert_eq!(ids.worker_of_packet(&short), Some(worker));
            assert_eq!(ids.worker_of_packet(&long), Some(worker));
        }
    }

    #[test]
    fn ids_of_others_and_fragments_name_nobody() {
        let ids = ConnectionIds::new(7, 4);
        let other = ConnectionIds::new(8, 4).generator(0).generate_cid();
        assert_eq!(ids.worker_of(&other), None);
        assert_eq!(ids.worker_of(&ids.make([1; 8], 4)), None, "there is no fifth worker");
        for packet in
            [&[][..], &[0x40], &[0x40, 1, 2, 3], &[0xC0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8], &[0xC0, 0, 0]]
        {
            assert_eq!(ids.worker_of_packet(packet), None, "{packet:?}");
        }
    }

    #[test]
    fn two_ids_of_a_worker_have_nothing_in_common() {
        let ids = ConnectionIds::new(7, 4);
        let names: std::collections::HashSet<[u8; NAME_BYTES]> =
            (0..64u64).map(|nonce| *ids.make(nonce.to_be_bytes(), 2).last_chunk().unwrap()).collect();
        assert!(names.len() > 60, "{}", names.len());
    }
}
