//! What the encoder towards the client does about the loss that the client reports.
//!
//! Redundancy follows the loss: up at once, down slowly. The bitrate is another matter: loss may come from a link that is
//! too narrow, or from one that loses what it likes. So a lower bitrate is tried; if less is lost then, it stays, else
//! it is given back, because the redundancy needs the bits.

use std::time::Duration;

use crate::time::Micros;

/// Redundancy begins at this loss, in percent: one packet of a second of audio.
const FEC_FROM: u8 = 2;
/// Loss at which the link may be too narrow, in percent; the bound of loss-based congestion control
/// (draft-ietf-rmcat-gcc-02 section 6).
const HIGH: f32 = 10.0;
/// Loss below which more may be sent again, in percent.
const LOW: f32 = 2.0;
/// So many reports in a row tell more than chance.
const REPORTS: u32 = 3;
/// What a lower bitrate must leave of the loss, to have been of use.
const HELPED: f32 = 0.7;
/// A bitrate that was of no use is not tried again for so long.
const REST: Duration = Duration::from_secs(30);
/// The lowest bitrate that wideband speech bears.
const FLOOR: u32 = 16_000;

/// What an encoder is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Expected loss in percent: decides the share of FEC; none at 0.
    pub loss: u8,
    /// Bits per second.
    pub bitrate: u32,
}

/// Whether a lower bitrate is being tried.
#[derive(Clone, Copy, Debug)]
enum Trial {
    None,
    /// Until there are enough reports again; loss before, in percent, and the bitrate to go back to.
    Running {
        before: f32,
        from: u32,
    },
    /// It was of no use.
    Futile(Micros),
}

/// Follows the reports of one link.
#[derive(Debug)]
pub struct LossResponse {
    configured: u32,
    setting: Setting,
    trial: Trial,
    /// Sum of the loss, in percent, over the reports since the last change, and how many.
    sum: f32,
    reports: u32,
}

impl LossResponse {
    /// Nothing is reported yet; `bitrate` is the one to have where nothing is lost.
    pub fn new(bitrate: u32) -> LossResponse {
        let setting = Setting { loss: 0, bitrate };
        LossResponse { configured: bitrate, setting, trial: Trial::None, sum: 0.0, reports: 0 }
    }

    /// What the encoder is to be set to.
    pub fn setting(&self) -> Setting {
        self.setting
    }

    /// The client lost this share, 0 to 1, since its last report.
    pub fn on_report(&mut self, share: f32, now: Micros) {
        let percent = share.clamp(0.0, 1.0) * 100.0;
        self.follow_with_redundancy(percent.round() as u8);
        self.sum += percent;
        self.reports += 1;
        if self.reports < REPORTS {
            return;
        }
        let loss = self.sum / self.reports as f32;
        (self.sum, self.reports) = (0.0, 0);
        match self.trial {
            Trial::Running { before, from } if loss > before * HELPED => {
                self.setting.bitrate = from;
                self.trial = Trial::Futile(now);
            }
            Trial::Futile(at) if now - at < REST => {}
            _ if loss > HIGH => self.try_less(loss),
            _ => self.trial = Trial::None,
        }
        if loss < LOW {
            self.setting.bitrate = (self.setting.bitrate + self.setting.bitrate / 8).min(self.configured);
        }
    }

    fn follow_with_redundancy(&mut self, percent: u8) {
        let decayed = self.setting.loss - self.setting.loss.div_ceil(8);
        self.setting.loss = match percent.max(decayed) {
            // What has begun ends only when nothing was lost for some reports.
            rest if rest < FEC_FROM && self.setting.loss == 0 => 0,
            rest => rest,
        };
    }

    fn try_less(&mut self, loss: f32) {
        let (from, floor) = (self.setting.bitrate, FLOOR.min(self.configured));
        self.setting.bitrate = (from - from / 3).max(floor);
        self.trial = if self.setting.bitrate < from { Trial::Running { before: loss, from } } else { Trial::None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports once a second, and what `loss_at` loses in percent at a bitrate.
    fn after(response: &mut LossResponse, seconds: std::ops::Range<u64>, loss_at: impl Fn(u32) -> f32) -> Setting {
        for second in seconds {
            let share = loss_at(response.setting().bitrate) / 100.0;
            response.on_report(share, Micros::from_millis(second * 1000));
        }
        response.setting()
    }

    #[test]
    fn redundancy_comes_at_once_and_goes_slowly() {
        let mut response = LossResponse::new(48_000);
        assert_eq!(after(&mut response, 0..10, |_| 1.0).loss, 0, "a lost packet now and then is none of its business");
        assert_eq!(after(&mut response, 10..11, |_| 6.0).loss, 6);
        assert_eq!(after(&mut response, 11..13, |_| 0.0).loss, 4);
        assert_eq!(after(&mut response, 13..20, |_| 0.0).loss, 0);
    }

    #[test]
    fn a_narrow_link_gets_what_it_can_carry() {
        let narrow = |bitrate: u32| (100.0 - 100.0 * 26_000.0 / bitrate as f32).max(0.0);
        let mut response = LossResponse::new(48_000);
        let settled = after(&mut response, 0..30, narrow);
        assert!((20_000..=29_500).contains(&settled.bitrate), "{settled:?}");
        let end = after(&mut response, 30..120, narrow);
        assert!((20_000..=33_000).contains(&end.bitrate), "it keeps to that: {end:?}");
        assert_eq!(after(&mut response, 120..200, |_| 0.0), Setting { loss: 0, bitrate: 48_000 }, "and comes back");
    }

    #[test]
    fn a_link_that_loses_whatever_it_is_sent_keeps_its_bitrate_most_of_the_time() {
        let mut response = LossResponse::new(48_000);
        let lowered = (0..120).filter(|&second| after(&mut response, second..second + 1, |_| 15.0).bitrate < 48_000);
        assert!(lowered.count() <= 12, "a trial of three reports each half minute at most");
        assert!(response.setting().loss >= 14);
    }

    #[test]
    fn moderate_loss_leaves_the_bitrate_alone() {
        let mut response = LossResponse::new(48_000);
        assert_eq!(after(&mut response, 0..60, |_| 8.0), Setting { loss: 8, bitrate: 48_000 });
    }

    #[test]
    fn a_bitrate_below_the_floor_is_left_alone() {
        let mut response = LossResponse::new(12_000);
        assert_eq!(after(&mut response, 0..60, |_| 40.0).bitrate, 12_000);
    }
}
