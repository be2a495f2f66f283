//! A progress bar on a terminal, drawn by a thread of its own so that the swarm is not kept up.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often it is drawn.
const EVERY: Duration = Duration::from_millis(200);
const STEPS: u32 = 1000;

/// What is being done, and how far it has come. Nothing is drawn where standard error is no terminal.
#[derive(Clone, Debug)]
pub struct Progress(Arc<State>);

#[derive(Debug)]
struct State {
    done: AtomicU32,
    what: Mutex<String>,
}

impl Progress {
    /// Draws from here on. Call it before priorities are raised.
    pub fn start() -> Progress {
        let progress = Progress(Arc::new(State { done: AtomicU32::new(0), what: Mutex::default() }));
        let state = Arc::downgrade(&progress.0);
        let bar = ProgressBar::new(STEPS.into());
        if let Ok(style) = ProgressStyle::with_template("{msg:28} {wide_bar} {percent:>3} %") {
            bar.set_style(style);
        }
        std::thread::spawn(move || {
            while let Some(state) = state.upgrade() {
                bar.set_message(state.what.lock().unwrap_or_else(PoisonError::into_inner).clone());
                bar.set_position(state.done.load(Relaxed).into());
                drop(state);
                std::thread::sleep(EVERY);
            }
            bar.finish_and_clear();
        });
        progress
    }

    /// Something else begins.
    pub fn begin(&self, what: &str) {
        what.clone_into(&mut self.0.what.lock().unwrap_or_else(PoisonError::into_inner));
        self.set(0.0);
    }

    /// How much of it is done, of 1.
    pub fn set(&self, share: f64) {
        self.0.done.store((share * f64::from(STEPS)) as u32, Relaxed);
    }
}
