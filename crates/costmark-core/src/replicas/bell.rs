//! How backends that work on threads of their own wake the one who waits for all of them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Wakes whoever waits for several backends at once. Copies ring the same one.
///
/// It also rings when it is dropped, so that a thread that ends for whatever reason is looked
/// after at once: keep it where it is dropped after what its owner has to tell.
#[derive(Debug, Clone)]
pub struct Bell(SyncSender<()>);

/// Who waits for a [`Bell`].
#[derive(Debug)]
pub struct Waiting(Receiver<()>);

impl Bell {
    /// A bell, and who waits for it.
    #[must_use]
    pub fn new() -> (Self, Waiting) {
        // One ring is enough, however many wanted to: whoever is woken looks at everything.
        let (rings, rung) = sync_channel(1);
        (Self(rings), Waiting(rung))
    }

    /// Rings. What there is to tell must be there to be found by now. Never waits.
    pub fn ring(&self) {
        // Full: it rang and was not heard yet. Closed: nobody waits any more.
        let _ = self.0.try_send(());
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

impl Waiting {
    /// Until it has rung since the last time, for as long as this, or until nobody is left who
    /// could ring.
    pub fn wait(&self, at_most: Option<Duration>) {
        // Whichever it was: the waiter looks for himself.
        match at_most {
            None => drop(self.0.recv()),
            Some(at_most) => drop(self.0.recv_timeout(at_most)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_heard_once_and_never_blocks() {
        let (first, waiting) = Bell::new();
        let second = first.clone();
        for _ in 0..3 {
            first.ring();
            second.ring();
        }
        waiting.wait(None);
        // Silent again: only time passes.
        let begun = std::time::Instant::now();
        waiting.wait(Some(Duration::from_millis(5)));
        assert!(begun.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn a_thread_that_dies_is_heard() {
        let (bell, waiting) = Bell::new();
        let kept = bell.clone();
        let thread = std::thread::spawn(move || {
            let _bell = bell;
            std::panic::resume_unwind(Box::new("it died"));
        });
        waiting.wait(None);
        assert!(thread.join().is_err());
        drop(kept);
        // The last ring, and then nobody who could.
        waiting.wait(None);
        waiting.wait(None);
    }
}
