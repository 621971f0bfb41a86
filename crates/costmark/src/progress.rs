//! What the user sees on stderr while waiting.
//!
//! On a terminal a bar that is redrawn; otherwise one plain line per stage, so that logs
//! stay readable; nothing when quiet.

use std::io::IsTerminal;

use costmark_report::{inert, inert_line};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a second a bar is redrawn. Redrawing competes with the measurement for cores.
const REDRAWS_PER_S: u8 = 4;
/// Columns of a terminal that does not tell.
const COLUMNS: usize = 80;
/// Columns that stay free for a bar and its count.
const BAR_COLUMNS: usize = 24;

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

    /// A line that stays. On a terminal it is folded between words.
    pub(crate) fn say(self, text: &str) {
        let text = inert(text);
        match self {
            Self::Quiet => {}
            Self::Plain => anstream::eprintln!("{text}"),
            Self::Bars => anstream::eprintln!("{}", folded(&text, columns())),
        }
    }

    /// Begins something that takes a while.
    pub(crate) fn stage(self, text: &str) -> Stage {
        let bar = match self {
            Self::Bars => {
                let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_S);
                let bar = ProgressBar::with_draw_target(Some(0), target);
                bar.set_style(plain_style());
                bar.set_message(cut(&inert_line(text), columns().saturating_sub(3)));
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

    /// What is under way, how many of how many are done where that is known, and below it figures
    /// so far, for which there are so many columns.
    pub(crate) fn view(
        &self,
        label: &str,
        done: Option<(u64, u64)>,
        figures: impl Fn(usize) -> String,
    ) {
        let Some(bar) = &self.bar else { return };
        let columns = columns();
        let (template, taken) = match done {
            Some(_) => (
                "{spinner} {prefix} {wide_bar} {pos}/{len}\n  {msg}",
                BAR_COLUMNS,
            ),
            None => ("{spinner} {prefix}\n  {msg}", 0),
        };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| plain_style()));
        if let Some((done, total)) = done {
            bar.set_length(total);
            bar.set_position(done);
        }
        bar.set_prefix(cut(&inert_line(label), columns.saturating_sub(3 + taken)));
        let room = columns.saturating_sub(3);
        bar.set_message(cut(&inert_line(&figures(room)), room));
    }

    fn update(&self, done: u64, total: u64, detail: &str, template: &str) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| plain_style()));
        }
        bar.set_position(done);
        bar.set_message(cut(
            &inert_line(detail),
            columns().saturating_sub(2 * BAR_COLUMNS),
        ));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How wide the terminal is at the moment: a line that wraps is not redrawn but repeated.
fn columns() -> usize {
    terminal_size::terminal_size_of(std::io::stderr()).map_or(COLUMNS, |(width, _)| width.0.into())
}

/// Lines of so many columns, broken between words only: what is pasted elsewhere stays whole.
fn folded(text: &str, columns: usize) -> String {
    let options = textwrap::Options::new(columns)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(text, options)
}

/// The begin of `text` that fits into so many columns, each character taking one.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_string();
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    format!("{kept}…")
}

fn plain_style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_folded_between_words() {
        let text = "Results: runs/2026-11-28-a-long-name/report.html, kept";
        let lines = "Results:\nruns/2026-11-28-a-long-name/report.html,\nkept";
        assert_eq!(folded(text, 20), lines);
        assert_eq!(folded(text, 80), text);
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("ä…ö", 2), "ä…");
        assert_eq!(cut("abc", 0), "…");
    }
}
