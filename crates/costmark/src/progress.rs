//! What the user sees on stderr while waiting.
//!
//! On a terminal a bar that is redrawn; otherwise one plain line per stage, so that logs
//! stay readable; nothing when quiet.

use std::io::IsTerminal;

use costmark_report::{inert, inert_line};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a second a bar is redrawn. Redrawing competes with the measurement for cores.
const REDRAWS_PER_S: u8 = 4;

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nowhere.
    Quiet,
    /// One line per stage.
    Plain,
    /// Redrawn bars.
    Bars,
}

impl Progress {
    /// By what stderr is.
    pub(crate) fn new(quiet: bool) -> Self {
        if quiet {
            Self::Quiet
        } else if std::io::stderr().is_terminal() {
            Self::Bars
        } else {
            Self::Plain
        }
    }

    /// A line that stays.
    pub(crate) fn say(self, text: &str) {
        if self != Self::Quiet {
            anstream::eprintln!("{}", inert(text));
        }
    }

    /// Begins something that takes a while.
    pub(crate) fn stage(self, text: &str) -> Stage {
        let bar = match self {
            Self::Bars => {
                let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_S);
                let bar = ProgressBar::with_draw_target(Some(0), target);
                bar.set_style(plain_style());
                bar.set_message(inert_line(text));
                bar.tick();
                Some(bar)
            }
            Self::Plain => {
                anstream::eprintln!("{} …", inert_line(text));
                None
            }
            Self::Quiet => None,
        };
        Stage { bar }
    }
}

/// Something under way. Its bar disappears when it is dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    bar: Option<ProgressBar>,
}

impl Stage {
    /// `done` of `total`, in bytes.
    pub(crate) fn bytes(&self, done: u64, total: u64, detail: &str) {
        self.update(
            done,
            total,
            detail,
            "{msg} {wide_bar} {bytes}/{total_bytes}",
        );
    }

    /// `done` of `total`.
    pub(crate) fn count(&self, done: u64, total: u64, detail: &str) {
        self.update(done, total, detail, "{msg} {wide_bar} {pos}/{len}");
    }

    /// How far it is, in words.
    pub(crate) fn detail(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(inert_line(text));
        }
    }

    fn update(&self, done: u64, total: u64, detail: &str, template: &str) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| plain_style()));
        }
        bar.set_position(done);
        bar.set_message(inert_line(detail));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn plain_style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}
