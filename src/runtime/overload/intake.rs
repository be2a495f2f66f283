//! How many sessions a worker may take until the next look. Pure.
//!
//! What a session costs shows late: it is set up, its caller and its agent speak, and that is measured. Of many who come at
//! once all would be let in before the first of them shows. So beyond half of the bound only a part of the room that there
//! seems to be is given out, and the next part when what the last one costs has been seen.

/// With fewer sessions nobody is held back: what keeps the worker busy may be something else.
const FEW: usize = 16;
/// So many looks are remembered, three seconds: who speaks now is silent then.
const LOOKS: usize = 15;
/// Up to this part of the bound all of the room is given out.
const FREE: f64 = 0.5;
/// Beyond it, this part of the room with each look: a fifth of it in a second.
const GIVEN_OUT: f64 = 0.04;
/// A session is not taken to cost less than this share of a worker's time, because it may be silent now.
const LEAST_PRICE: f64 = 0.0025;

/// What one worker was seen to do, and how much room was given out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intake {
    looks: [f64; LOOKS],
    next: usize,
    sessions: usize,
    /// Sessions that may come, as long as not all of the room is given out.
    credit: f64,
}

impl Intake {
    /// Sessions that may come until the next look; `None`: as many as like. `demand` is the share of its time that the
    /// worker's thread wanted since the last look, `bound` that at which new sessions are refused.
    pub fn on_look(&mut self, sessions: usize, demand: f64, bound: f64) -> Option<usize> {
        let seen = f64::midpoint(self.sessions as f64, sessions as f64);
        let came = sessions.saturating_sub(self.sessions) as f64;
        self.sessions = sessions;
        self.looks[self.next] = demand;
        self.next = (self.next + 1) % LOOKS;
        if sessions < FEW || bound <= 0.0 {
            self.credit = 0.0;
            return None;
        }
        let (busiest, peak) = self.busiest();
        let room = (bound - peak).max(0.0) / (peak / seen).max(LEAST_PRICE);
        if busiest < FREE * bound {
            self.credit = 0.0;
            return Some(room as usize);
        }
        self.credit = ((self.credit - came).max(0.0) + GIVEN_OUT * room).min(room);
        Some(self.credit as usize)
    }

    /// The demand of the busiest look but one: one alone may be an accident. 0 with so few sessions that nobody is held back.
    pub fn peak(&self) -> f64 {
        if self.sessions < FEW { 0.0 } else { self.busiest().1 }
    }

    /// The highest demand and the next lower one.
    fn busiest(&self) -> (f64, f64) {
        self.looks.iter().fold((0.0, 0.0), |(first, second), &look| match look {
            look if look > first => (look, first),
            look => (first, look.max(second)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: f64 = 0.85;

    /// Noise of a twentieth, the same in each run.
    fn noise(look: usize) -> f64 {
        1.0 + 0.05 * (f64::from((look * 7 % 11) as u32) - 5.0) / 5.0
    }

    /// So many come with each look and again when they are refused. Each costs a part of the worker to set up, `cost` when it
    /// speaks, and speaks after two looks. Sessions after each look, and the highest demand.
    fn crowd(arrivals: usize, cost: f64, looks: usize) -> (Vec<usize>, f64) {
        let (mut intake, mut sessions, mut highest) = (Intake::default(), vec![0; 3], 0.0_f64);
        let mut room = None;
        for look in 0..looks {
            let before = sessions[sessions.len() - 1];
            // A worker sets up no more than so many between two looks.
            let came = arrivals.min(room.unwrap_or(usize::MAX)).min(80);
            let speaking = sessions[sessions.len() - 2] as f64;
            let demand = 0.03 + cost * speaking * noise(look) + came as f64 * 0.0125;
            highest = highest.max(if look > 5 { demand } else { 0.0 });
            sessions.push(before + came);
            room = intake.on_look(before + came, demand.min(1.0), BOUND);
        }
        (sessions, highest)
    }

    #[test]
    fn a_crowd_is_taken_up_to_the_bound_and_not_beyond_however_fast_it_comes() {
        for arrivals in [1, 4, 8, 20] {
            let (sessions, highest) = crowd(arrivals, 0.009, 400);
            assert!(highest < 0.95, "{arrivals} with each look: demand went up to {highest}");
            let last = sessions.last().unwrap();
            assert!((75..=92).contains(last), "{arrivals} with each look: {last} of about 90");
        }
    }

    #[test]
    fn far_from_the_bound_nobody_waits() {
        // Calls that are passed through cost little.
        let (sessions, _) = crowd(12, 0.0005, 30);
        assert_eq!(sessions.last(), Some(&360));
        let mut intake = Intake::default();
        let few: Vec<_> = (0..20).map(|_| intake.on_look(15, 1.0, BOUND)).collect();
        assert_eq!(few, [None; 20], "too few sessions to be what keeps the worker busy");
        assert_eq!((intake.peak(), intake.on_look(100, 0.9, 0.0)), (0.0, None), "no bound");
    }

    #[test]
    fn one_busy_look_is_an_accident_and_two_stop_the_intake_for_three_seconds() {
        let mut intake = Intake::default();
        let mut at = |demand| {
            let room = intake.on_look(100, demand, BOUND).unwrap();
            (room, intake.peak())
        };
        assert_eq!((0..15).map(|_| at(0.3)).last(), Some((183, 0.3)));
        assert_eq!(at(1.0), (7, 0.3), "some may still come");
        assert_eq!(at(0.95), (0, 0.95));
        assert!((0..13).all(|_| at(0.3) == (0, 0.95)));
        assert_eq!(at(0.3), (7, 0.3), "the first of them is forgotten");
        assert_eq!(at(0.3), (183, 0.3));
    }

    #[test]
    fn near_the_bound_a_fifth_of_the_room_is_given_out_in_a_second() {
        let mut intake = Intake::default();
        let given: Vec<_> = (0..10).map(|_| intake.on_look(100, 0.6, BOUND).unwrap()).collect();
        // The first look alone counts as an accident. 41 could come.
        assert_eq!(given[9] - given[4], 8, "{given:?}");
        let mut sessions = 100;
        let came = (0..5).map(|_| {
            let come = intake.on_look(sessions, 0.6, BOUND).unwrap();
            sessions += come;
            come
        });
        assert!((20..40).contains(&came.sum::<usize>()), "what was given out is spent by those who come");
    }
}
