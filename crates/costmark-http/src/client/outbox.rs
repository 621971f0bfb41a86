//! Events on their way from the sockets to the driver.
//!
//! Instants are taken at the sockets, so tokens may wait here for a moment: waking the
//! driver for each would cost more than all the rest. The first one after a silence wakes it, it
//! then sleeps again until some have gathered; where nothing comes it does not look. The end of
//! a request wakes it at once, since the next one may be due.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use costmark_core::Event;

/// How long a token may wait to be handed over.
const GATHER: Duration = Duration::from_millis(10);

#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    /// Something among them must not wait.
    urgent: bool,
    /// Whoever takes them sleeps until there is one.
    asleep: bool,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked while pushing left whole events behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event) {
        let urgent = matches!(event, Event::Finished { .. } | Event::Failed { .. });
        let mut state = self.lock();
        state.events.push(event);
        let is_first_urgent = urgent && !std::mem::replace(&mut state.urgent, true);
        if std::mem::take(&mut state.asleep) || is_first_urgent {
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Waits until there are events, at most until `until`, and moves them over.
    pub(crate) fn take(&self, until: Instant, events: &mut Vec<Event>) {
        let mut ripe = None;
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let mut sleep_until = until;
            if !state.events.is_empty() {
                let ripe = *ripe.get_or_insert(now + GATHER);
                sleep_until = until.min(ripe);
            }
            if state.urgent || now >= sleep_until {
                (state.urgent, state.asleep) = (false, false);
                events.append(&mut state.events);
                return;
            }
            state.asleep = state.events.is_empty();
            let waited = self.wake.wait_timeout(state, sleep_until - now);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use costmark_core::{FinishReason, TokenEvent, Usage};

    #[test]
    fn an_end_wakes_and_brings_what_came_before_it() {
        let outbox = std::sync::Arc::new(Outbox::default());
        let pusher = std::sync::Arc::clone(&outbox);
        let thread = std::thread::spawn(move || {
            pusher.push(Event::Tokens(TokenEvent {
                request: 1,
                at_ns: 5,
                tokens: 1,
                token_id: None,
            }));
            pusher.push(Event::Finished {
                request: 1,
                at_ns: 6,
                reason: FinishReason::Length,
                usage: Usage::default(),
            });
        });
        let mut events = Vec::new();
        let until = Instant::now() + Duration::from_secs(60);
        while events.len() < 2 {
            outbox.take(until, &mut events);
        }
        thread.join().unwrap();
        assert!(matches!(events[0], Event::Tokens(_)));
        assert!(matches!(events[1], Event::Finished { .. }));
        outbox.take(Instant::now(), &mut events);
        assert_eq!(events.len(), 2, "taken once");
    }

    #[test]
    fn a_token_that_comes_into_silence_is_not_left_until_the_end_of_it() {
        let outbox = std::sync::Arc::new(Outbox::default());
        let pusher = std::sync::Arc::clone(&outbox);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(3 * GATHER);
            pusher.push(Event::Sent {
                request: 1,
                at_ns: 5,
            });
        });
        let begin = Instant::now();
        let mut events = Vec::new();
        outbox.take(begin + Duration::from_secs(60), &mut events);
        thread.join().unwrap();
        assert_eq!(events.len(), 1);
        assert!(begin.elapsed() < Duration::from_secs(30));
        // Nothing came: until the end that was named, and not beyond.
        outbox.take(Instant::now() + 2 * GATHER, &mut events);
        assert_eq!(events.len(), 1);
    }
}
