//! Measures code against a baseline in the same run, so that what counts is a ratio and not the machine.
//!
//! All cases run in turns, a batch of frames each, for many rounds; a ratio is the median over the rounds of a case's
//! time divided by its baseline's time in the same round. Clock changes and neighbours hit both alike and cancel.

pub mod allocations;
pub mod speech;

use std::hint::black_box;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

/// How often all cases are measured anew when a bar is missed.
const REPEATS: usize = 3;

/// What is measured, one frame per call.
pub struct Case<'a> {
    /// Its name in the table.
    pub name: &'static str,
    /// The case that its time is divided by; itself for a baseline.
    pub against: &'static str,
    /// The largest ratio allowed.
    pub most: Option<f64>,
    /// Whether it may not allocate.
    pub no_allocation: bool,
    frame: Box<dyn FnMut() + 'a>,
}

impl<'a> Case<'a> {
    /// A case without bars: `frame` handles one frame.
    pub fn new(name: &'static str, against: &'static str, frame: impl FnMut() + 'a) -> Case<'a> {
        Case { name, against, most: None, no_allocation: false, frame: Box::new(frame) }
    }

    /// Sets bars: at most `most` times the baseline, and no allocation.
    pub fn at_most(mut self, most: f64) -> Case<'a> {
        self.most = Some(most);
        self.no_allocation()
    }

    /// Sets a bar for the time alone: at most `most` times the baseline.
    #[allow(dead_code, reason = "for messages, which are values of their own")]
    pub fn at_most_with_allocations(mut self, most: f64) -> Case<'a> {
        self.most = Some(most);
        self
    }

    /// Sets the bar that nothing is allocated.
    pub fn no_allocation(mut self) -> Case<'a> {
        self.no_allocation = true;
        self
    }
}

/// What came out for one case.
#[derive(Clone, Debug)]
pub struct Figure {
    name: &'static str,
    against: &'static str,
    ns: f64,
    ratio: f64,
    allocations: f64,
    most: Option<f64>,
    no_allocation: bool,
}

impl Figure {
    fn holds(&self) -> bool {
        self.most.is_none_or(|most| self.ratio <= most) && !(self.no_allocation && self.allocations > 0.0)
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds; the median is taken over them.
    pub rounds: usize,
    /// Frames of each case in a round. Few are best: a case and its baseline then run within a millisecond or two of
    /// each other. All cases go through their samples in step, so that in each round they do the same.
    pub frames: usize,
}

/// Measures `cases`, prints a table, writes it to `target/bench/<file>.json`, and says whether all bars hold; measures
/// anew up to three times when one does not.
pub fn report(file: &str, effort: Effort, cases: &mut [Case<'_>]) -> io::Result<bool> {
    let mut figures = measure(effort, cases);
    for _ in 0..REPEATS {
        if figures.iter().all(Figure::holds) {
            break;
        }
        print(&figures);
        println!("a bar is missed: measuring again");
        figures = measure(effort, cases);
    }
    print(&figures);
    write(file, effort, &figures)?;
    Ok(figures.iter().all(Figure::holds))
}

fn measure(effort: Effort, cases: &mut [Case<'_>]) -> Vec<Figure> {
    let mut times = vec![Vec::with_capacity(effort.rounds); cases.len()];
    let mut allocations = vec![0; cases.len()];
    // The first round warms caches and buffers up and does not count.
    for round in 0..=effort.rounds {
        for turn in 0..cases.len() {
            // Every other round runs backwards, so that no case always follows the same one.
            let n = if round % 2 == 0 { turn } else { cases.len() - 1 - turn };
            let before = allocations::count();
            let start = Instant::now();
            for _ in 0..effort.frames {
                black_box(&mut cases[n].frame)();
            }
            let ns = start.elapsed().as_nanos() as f64 / effort.frames as f64;
            let taken = allocations::count() - before;
            if round > 0 {
                times[n].push(ns);
                allocations[n] += taken;
            }
        }
    }
    let frames = (effort.rounds * effort.frames) as f64;
    let figure = |n: usize| {
        let case = &cases[n];
        let base = cases.iter().position(|other| other.name == case.against).expect("the baseline is a case");
        Figure {
            name: case.name,
            against: case.against,
            ns: median(times[n].clone()),
            ratio: median(times[n].iter().zip(&times[base]).map(|(time, base)| time / base).collect()),
            allocations: allocations[n] as f64 / frames,
            most: case.most,
            no_allocation: case.no_allocation,
        }
    };
    (0..cases.len()).map(figure).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(figures: &[Figure]) {
    println!("{:<34} {:>11} {:>9} {:>9} {:>8}  against", "case", "ns/frame", "allocs", "ratio", "at most");
    for figure in figures {
        let most = figure.most.map_or("-".to_owned(), |most| format!("{most:.2}"));
        println!(
            "{:<34} {:>11.0} {:>9.3} {:>9.4} {:>8}  {}{}",
            figure.name,
            figure.ns,
            figure.allocations,
            figure.ratio,
            most,
            if figure.against == figure.name { "itself" } else { figure.against },
            if figure.holds() { "" } else { "  MISSED" },
        );
    }
}

fn write(file: &str, effort: Effort, figures: &[Figure]) -> io::Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder)?;
    let rows: Vec<_> = figures
        .iter()
        .map(|figure| {
            json!({
                "name": figure.name,
                "against": figure.against,
                "ns_per_frame": figure.ns,
                "ratio": figure.ratio,
                "at_most": figure.most,
                "allocations_per_frame": figure.allocations,
                "holds": figure.holds(),
            })
        })
        .collect();
    let report = json!({ "rounds": effort.rounds, "frames_per_round": effort.frames, "cases": rows });
    let path = folder.join(file).with_extension("json");
    std::fs::write(&path, format!("{report:#}\n"))?;
    println!("written to {}", path.display());
    Ok(())
}
