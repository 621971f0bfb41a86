//! Where a server's counts and what arrived disagree, over a whole run.

use std::sync::{Arc, Mutex, PoisonError};

use super::arrival::Punctuality;

/// Counters shared by the workers and the backend.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<Counts>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests that ended well.
    pub(crate) finished: u64,
    /// Of these, requests with more tokens than events told.
    pub(crate) with_more: u64,
    pub(crate) more_tokens: u64,
    /// Requests of which the server counted fewer tokens than arrived.
    pub(crate) with_fewer: u64,
    pub(crate) fewer_tokens: u64,
    /// Requests without counts from the server.
    pub(crate) uncounted: u64,
    pub(crate) output_tokens: u64,
    pub(crate) reasoning_tokens: u64,
    /// Requests whose first token was reasoning, and the sum of how long it took to come.
    pub(crate) reasoned: u64,
    pub(crate) first_reasoning_ns: u64,
    /// Of these, requests that came to content, and the sum of how long that took.
    pub(crate) reasoned_to_content: u64,
    pub(crate) first_content_ns: u64,
    /// Requests that ended before the exact length that was asked for.
    pub(crate) stopped_early: u64,
    /// Requests whose prompt the server counted otherwise than it was made.
    pub(crate) prompts_differ: u64,
    pub(crate) prompt_surplus: i64,
    /// Answers the tokenizer here counted again, those it counted otherwise than the server,
    /// and the tokens of all of them as either counts.
    pub(crate) recounted: u64,
    pub(crate) recounts_differ: u64,
    pub(crate) recounted_told: u64,
    pub(crate) recounted_here: u64,
    /// Requests sent again because an idle connection had been closed.
    pub(crate) resent: u64,
    /// Requests that opened a connection, and the sum of how long that took.
    pub(crate) connected: u64,
    pub(crate) connecting_ns: u64,
    /// Of token events of requests that ended well.
    pub(crate) punctuality: Punctuality,
}

impl Tally {
    pub(crate) fn add(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// What a reader of the result must know.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let n = self.finished;
        if self.with_more > 0 {
            notes.push(format!(
                "In {} of {n} requests the server counted more tokens than arrived as events \
                 ({} tokens): they are counted with the last event, and gaps are between chunks.",
                self.with_more, self.more_tokens
            ));
        }
        if self.with_fewer > 0 {
            notes.push(format!(
                "In {} of {n} requests the server counted fewer tokens than arrived ({} tokens); \
                 what arrived is counted.",
                self.with_fewer, self.fewer_tokens
            ));
        }
        if self.stopped_early > 0 {
            notes.push(format!(
                "In {} of {n} requests the server stopped before the exact length it was asked \
                 for: it heeds neither ignore_eos nor min_tokens. --stop-at-eos takes lengths as \
                 they come.",
                self.stopped_early
            ));
        }
        if self.uncounted > 0 {
            notes.push(format!(
                "In {} of {n} requests the server told no token counts.",
                self.uncounted
            ));
        }
        if self.recounts_differ > 0 {
            notes.push(format!(
                "WARNING: the server's token counts and those of --tokenizer disagree in {} of {} \
                 answers that were counted again: {} tokens there, {} here. The server's are used. \
                 Text need not be cut into the tokens it was made of, least of all text of random \
                 weights; otherwise the server miscounts, or the tokenizer is not the model's.",
                self.recounts_differ, self.recounted, self.recounted_told, self.recounted_here
            ));
        }
        if self.prompts_differ > 0 {
            notes.push(format!(
                "In {} of {n} requests the server counted other prompt lengths than were asked \
                 for ({:+.1} tokens on average); its counts are used.",
                self.prompts_differ,
                self.prompt_surplus as f64 / self.prompts_differ as f64
            ));
        }
        if self.reasoning_tokens > 0 {
            notes.push(format!(
                "{} of {} output tokens were reasoning; TTFT is to the first token of any kind.",
                self.reasoning_tokens, self.output_tokens
            ));
        }
        if self.reasoned > 0 {
            let mean_ms = |sum_ns: u64, n: u64| sum_ns as f64 / n as f64 / 1e6;
            let content = match self.reasoned_to_content {
                0 => "none came to content".to_owned(),
                n => format!(
                    "{n} came to content, after {:.1} ms",
                    mean_ms(self.first_content_ns, n)
                ),
            };
            notes.push(format!(
                "{} of {n} requests began with reasoning, its first token after {:.1} ms; \
                 {content} (means, from sending).",
                self.reasoned,
                mean_ms(self.first_reasoning_ns, self.reasoned)
            ));
        }
        notes.extend(self.punctuality.note());
        if self.connected > 0 {
            notes.push(format!(
                "Connections opened by requests: {}, in {:.2} ms on average, which is part of their \
                 TTFT (warm-up included).",
                self.connected,
                self.connecting_ns as f64 / self.connected as f64 / 1e6
            ));
        }
        if self.resent > 0 {
            notes.push(format!(
                "{} requests were sent again because the server had closed an idle connection.",
                self.resent
            ));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_needs_no_words() {
        let tally = Tally::default();
        tally.add(|counts| counts.finished = 9);
        assert!(tally.counts().notes().is_empty());
        tally.add(|counts| {
            counts.prompts_differ = 4;
            counts.prompt_surplus = 10;
        });
        let notes = tally.counts().notes();
        assert!(
            notes[0].contains("4 of 9") && notes[0].contains("+2.5"),
            "{notes:?}"
        );
        tally.add(|counts| (counts.recounted, counts.recounted_told) = (7, 70));
        assert_eq!(tally.counts().notes(), notes, "they agree");
        tally.add(|counts| counts.recounts_differ = 2);
        let notes = tally.counts().notes();
        let warned = |note: &String| note.starts_with("WARNING") && note.contains("2 of 7");
        assert!(notes.iter().any(warned), "{notes:?}");
    }
}
