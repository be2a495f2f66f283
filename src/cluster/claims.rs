//! Seats that this node holds of limits on numbers at once, and those that it must ask for or give back.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Told;
use crate::limit::{Entry, Key, Seats};
use crate::time::Micros;

/// Seats of a node that says nothing more are free after so long.
pub(super) const TERM: Duration = Duration::from_secs(15);
/// So they are claimed again after so long.
const RENEW: Duration = Duration::from_secs(5);
/// A seat that was asked for is kept for so long for whoever asked.
const LINGER: Duration = Duration::from_millis(200);
/// Of limits below this, no seat is held in stock: another node may need it.
const STOCK_FROM: u32 = 40;

/// One cell.
#[derive(Debug)]
struct Claim {
    seats: Arc<Seats>,
    most: u32,
    /// Seats that somebody waits for.
    asked: u32,
    told: Vec<Arc<Told>>,
    /// Seats that were asked for and may not be taken yet, and until when.
    lingering: (u32, Micros),
    /// A change waits to be told.
    dirty: bool,
    in_flight: bool,
    renew_at: Micros,
}

impl Claim {
    /// Redis knows nothing of it, and nobody waits for it.
    fn is_untold(&self) -> bool {
        self.asked == 0 && !self.in_flight && self.renew_at == Micros::ZERO
    }
}

/// A claim that is to be made.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) key: Key,
    pub(super) used: u32,
    pub(super) want: u32,
    pub(super) most: u32,
    /// Those who wait for it.
    pub(super) told: Vec<Arc<Told>>,
}

/// All cells of which this node holds a seat, or wants one.
#[derive(Debug, Default)]
pub(super) struct Claims {
    cells: HashMap<Key, Claim>,
    /// Cells with a change.
    dirty: VecDeque<Key>,
    /// In the order in which they are due.
    renewals: VecDeque<(Micros, Key)>,
}

impl Claims {
    fn cell(&mut self, seats: &Arc<Seats>, most: u32) -> &mut Claim {
        let cell = self.cells.entry(seats.key()).or_insert_with(|| Claim {
            seats: seats.clone(),
            most,
            asked: 0,
            told: Vec::new(),
            lingering: (0, Micros::ZERO),
            dirty: false,
            in_flight: false,
            renew_at: Micros::ZERO,
        });
        cell.most = most;
        cell
    }

    fn mark(&mut self, key: Key) {
        let Some(cell) = self.cells.get_mut(&key) else { return };
        if !std::mem::replace(&mut cell.dirty, true) {
            self.dirty.push_back(key);
        }
    }

    /// Seats were taken or given back.
    pub(super) fn on_change(&mut self, seats: &Arc<Seats>, most: u32) {
        seats.begin_telling();
        let key = seats.key();
        // While Redis cannot be used nothing is claimed: what was taken and given back meanwhile must not pile up.
        if seats.used() == 0 && seats.held() == 0 && self.cells.get(&key).is_none_or(Claim::is_untold) {
            if self.cells.remove(&key).is_some_and(|cell| cell.dirty) {
                self.dirty.retain(|other| *other != key);
            }
            return;
        }
        self.cell(seats, most);
        self.mark(key);
    }

    /// Somebody waits for a seat.
    pub(super) fn on_ask(&mut self, seats: &Arc<Seats>, most: u32, told: Arc<Told>) {
        let cell = self.cell(seats, most);
        cell.asked += 1;
        cell.told.push(told);
        self.mark(seats.key());
    }

    /// Everything has to be claimed anew.
    pub(super) fn mark_all(&mut self) {
        let keys: Vec<Key> = self.cells.keys().copied().collect();
        keys.into_iter().for_each(|key| self.mark(key));
    }

    /// Nobody waits any more.
    pub(super) fn let_go(&mut self) {
        for cell in self.cells.values_mut() {
            cell.asked = 0;
            cell.told.clear();
        }
    }

    /// The next claim to make.
    pub(super) fn next(&mut self, now: Micros) -> Option<Wanted> {
        while let Some((at, key)) = self.renewals.front().copied().filter(|(at, _)| *at <= now) {
            self.renewals.pop_front();
            if self.cells.get(&key).is_some_and(|cell| cell.renew_at == at) {
                self.mark(key);
            }
        }
        // One that is under way is told again when it is done.
        for _ in 0..self.dirty.len() {
            let key = self.dirty.pop_front()?;
            let Some(cell) = self.cells.get_mut(&key) else { continue };
            if cell.in_flight {
                self.dirty.push_back(key);
                continue;
            }
            cell.dirty = false;
            let lingering = if cell.lingering.1 > now { cell.lingering.0 } else { 0 };
            if cell.asked > 0 {
                cell.lingering = (cell.asked + lingering, now + LINGER);
            }
            let used = cell.seats.used();
            let stock = if cell.most >= STOCK_FROM { (used / 8 + 1).min(cell.most / 20) } else { 0 };
            let waiting = std::mem::take(&mut cell.asked) + lingering;
            let idle = used == 0 && waiting == 0;
            let want = if idle { 0 } else { used.saturating_add(waiting).saturating_add(stock).min(cell.most) };
            if want == 0 && cell.seats.held() == 0 && cell.renew_at == Micros::ZERO {
                self.cells.remove(&key);
                continue;
            }
            cell.in_flight = true;
            return Some(Wanted { key, used, want, most: cell.most, told: std::mem::take(&mut cell.told) });
        }
        None
    }

    /// A claim was answered.
    pub(super) fn on_held(&mut self, key: Key, held: u32, now: Micros) {
        let Some(cell) = self.cells.get_mut(&key) else { return };
        cell.in_flight = false;
        cell.seats.hold(held);
        if held == 0 && cell.seats.used() == 0 && !cell.dirty {
            self.cells.remove(&key);
            return;
        }
        // What lingers is looked at again when it has lingered.
        let after = if cell.lingering.1 > now { cell.lingering.1 - now } else { RENEW };
        cell.renew_at = now + after;
        let at = cell.renew_at;
        if after == RENEW { self.renewals.push_back((at, key)) } else { self.renewals.push_front((at, key)) }
    }

    /// A claim was not answered.
    pub(super) fn on_failed(&mut self, key: Key) {
        if let Some(cell) = self.cells.get_mut(&key) {
            cell.in_flight = false;
        }
        self.mark(key);
    }

    /// Cells in it.
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_held_for_whoever_asked_and_given_back_later() {
        let (mut claims, seats) = (Claims::default(), Arc::new(Seats::new(Key(1))));
        claims.on_ask(&seats, 2, Arc::new(Told(None)));
        claims.on_ask(&seats, 2, Arc::new(Told(None)));
        let wanted = claims.next(Micros(0)).unwrap();
        assert_eq!((wanted.used, wanted.want, wanted.told.len()), (0, 2, 2));
        assert!(claims.next(Micros(0)).is_none(), "one at a time");
        claims.on_held(Key(1), 2, Micros(1000));
        assert_eq!(seats.held(), 2);
        // Nobody took them: a change while they linger leaves them, and then they are given back.
        claims.on_change(&seats, 2);
        assert_eq!(claims.next(Micros(2000)).unwrap().want, 2);
        claims.on_held(Key(1), 2, Micros(3000));
        let wanted = claims.next(Micros(300_000)).unwrap();
        assert_eq!((wanted.used, wanted.want), (0, 0));
        claims.on_held(Key(1), 0, Micros(300_000));
        assert_eq!(claims.len(), 0);
    }

    #[test]
    fn what_is_taken_and_given_back_untold_does_not_pile_up() {
        let mut claims = Claims::default();
        let limiter = crate::limit::Limiter::new(10_000);
        limiter.shared.regime.set(false, 1, Micros(0));
        for number in 0..1000 {
            let key = Key(number);
            let seat = limiter.take_seat(key, 5, true, Micros(0)).unwrap();
            let seats = limiter.seats.find(key, Micros(0));
            claims.on_change(&seats, 5);
            assert_eq!(claims.len(), 1);
            drop(seat);
            claims.on_change(&seats, 5);
            assert_eq!((claims.len(), claims.dirty.len()), (0, 0));
        }
    }

    #[test]
    fn a_failed_claim_is_made_again_and_nobody_waits_for_it() {
        let (mut claims, seats) = (Claims::default(), Arc::new(Seats::new(Key(1))));
        claims.on_ask(&seats, 5, Arc::new(Told(None)));
        drop(claims.next(Micros(0)).unwrap().told);
        claims.on_failed(Key(1));
        claims.let_go();
        assert_eq!(claims.next(Micros(0)).unwrap().want, 1, "it lingers");
        claims.on_failed(Key(1));
        let wanted = claims.next(Micros(1_000_000));
        assert!(wanted.is_none() && claims.len() == 0, "{wanted:?}");
    }

    #[test]
    fn large_limits_are_held_in_stock_and_renewed() {
        let (mut claims, seats) = (Claims::default(), Arc::new(Seats::new(Key(1))));
        claims.on_ask(&seats, 1000, Arc::new(Told(None)));
        assert_eq!(claims.next(Micros(0)).unwrap().want, 2);
        claims.on_held(Key(1), 2, Micros(1_000_000));
        claims.on_change(&seats, 1000);
        assert_eq!(claims.next(Micros(1_000_000)).unwrap().want, 0, "nobody took one");
        claims.on_held(Key(1), 1, Micros(1_000_000));
        assert!(claims.next(Micros(5_900_000)).is_none());
        assert!(claims.next(Micros(6_000_000)).is_some());
    }
}
