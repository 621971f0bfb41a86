//! Counting answers again with the local tokenizer, beside a server that counts them itself.
//!
//! On a thread of its own, since tokenising a long answer takes longer than bytes may wait at a
//! socket. One answer at a time: those that end meanwhile are not checked, which bounds memory
//! and CPU, and the notes say how many were.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::body::PromptText;
use super::tally::Tally;

/// An answer and what the server says of it.
pub(crate) struct Answered {
    pub(crate) text: String,
    pub(crate) told_tokens: u32,
}

/// Where answers are handed in. The thread ends when the last of these is dropped; nobody waits
/// for it, since what it counts then is not told any more.
#[derive(Clone)]
pub(crate) struct Recounter(SyncSender<Answered>);

impl Recounter {
    /// Starts the thread.
    pub(crate) fn start(text: Arc<dyn PromptText>, tally: Tally) -> std::io::Result<Self> {
        let (sender, inbox) = sync_channel(1);
        std::thread::Builder::new()
            .name("costmark-recount".into())
            .spawn(move || count(&inbox, text.as_ref(), &tally))?;
        Ok(Self(sender))
    }

    /// Takes an answer unless it is behind.
    pub(crate) fn offer(&self, answer: Answered) {
        // One that is not taken is one that is not counted as counted.
        _ = self.0.try_send(answer);
    }
}

fn count(inbox: &Receiver<Answered>, text: &dyn PromptText, tally: &Tally) {
    for answer in inbox {
        let (told, counted) = (answer.told_tokens, text.count(&answer.text));
        tally.add(|counts| {
            counts.recounted += 1;
            counts.recounted_told += u64::from(told);
            counts.recounted_here += u64::from(counted);
            counts.recounts_differ += u64::from(disagree(told, counted));
        });
    }
}

/// A token that ends an answer has no text, so one more or less says nothing; nor does one in
/// fifty, since a text need not be cut again into the tokens it was made of.
fn disagree(told: u32, counted: u32) -> bool {
    let off = u64::from(told.abs_diff(counted));
    off > 1 && off * 50 > u64::from(told.max(counted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_say_nothing() {
        for (told, counted, differ) in [
            (10, 10, false),
            (10, 11, false),
            (10, 8, true),
            (0, 2, true),
            (1000, 980, false),
            (1000, 979, true),
            (u32::MAX, 0, true),
        ] {
            assert_eq!(disagree(told, counted), differ, "{told} {counted}");
        }
    }
}
