//! Prints notes on standard error, and the progress of work that takes long.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::print_stderr;

/// The time after which a progress bar appears. An earlier bar would only flicker.
const PATIENCE: Duration = Duration::from_millis(700);

/// Standard error, which prints nothing but errors if the user asks for quiet.
#[derive(Debug)]
pub(super) struct Stderr {
    quiet: bool,
    terminal: bool,
}

impl Stderr {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, terminal: std::io::stderr().is_terminal() }
    }

    /// Prints a note, which the user should know though there is no error.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            print_stderr(&format!("note: {text}"));
        }
    }

    /// Prints an error, even if the user asks for quiet.
    pub(super) fn error(&self, text: &str) {
        print_stderr(&format!("error: {text}"));
    }

    /// Makes a progress bar of `steps`, which appears when the work takes long.
    pub(super) fn bar(&self, what: &str, steps: usize) -> Bar {
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:32} {pos}/{len}, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Bar { bar, started: Instant::now(), visible: !self.quiet && self.terminal }
    }

    /// Runs work without known steps, and shows a spinner meanwhile.
    pub(super) fn wait_for<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        if self.quiet || !self.terminal {
            return work();
        }
        let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(120));
        let result = work();
        spinner.finish_and_clear();
        result
    }
}

/// A progress bar, which disappears when it is dropped.
#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
    started: Instant,
    visible: bool,
}

impl Bar {
    pub(super) fn step(&self) {
        if self.visible && self.bar.is_hidden() && self.started.elapsed() > PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(1);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
