//! A closed loop of users who hold conversations.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use costmark_core::RequestId;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::Exp1;

use crate::arrivals::{Arrival, Arrivals, Ended};
use crate::length::LengthDistribution;
use crate::process::seconds;
use crate::streams::stream;

/// Marks the random streams of users.
const USERS: u64 = u64::from_le_bytes(*b"w-users:");

/// How users go on after an answer.
///
/// A conversation has a number of turns. The prompt of each but the first is the prompt before
/// it, then the output that came, then what the user adds: a backend that keeps KV blocks finds
/// all but the last part again. Before each request but a user's first, the user thinks.
#[derive(Debug, Clone, PartialEq)]
pub struct Turns {
    /// Turns of a conversation.
    pub turns: LengthDistribution,
    /// From the end of an answer to when the next request is due.
    pub think: ThinkTime,
    /// Seed of both.
    pub seed: u64,
}

/// How long a user thinks. Written as `2s`, `1s..5s` or `exp:2s` (exponential with this mean).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum ThinkTime {
    /// Not at all: the next request is due the instant the answer has ended.
    #[default]
    None,
    /// Always this many seconds.
    Fixed(f64),
    /// Any time between, in seconds.
    Uniform(f64, f64),
    /// Exponential with this mean, in seconds.
    Exponential(f64),
}

/// A think time that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "think time `{text}`: {reason}; use a time (`2s`), two ends (`1s..5s`) or an exponential's mean \
     (`exp:2s`)"
)]
pub struct ThinkTimeError {
    text: String,
    reason: String,
}

impl ThinkTime {
    fn draw_ns(self, rng: &mut ChaCha8Rng) -> u64 {
        let seconds = match self {
            Self::None => 0.0,
            Self::Fixed(s) => s,
            Self::Uniform(low, high) => low + (high - low) * rng.random::<f64>(),
            Self::Exponential(mean) => {
                let drawn: f64 = rng.sample(Exp1);
                mean * drawn
            }
        };
        // Saturating.
        (seconds * 1e9).round() as u64
    }
}

impl fmt::Display for ThinkTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "0s"),
            Self::Fixed(s) => write!(f, "{s}s"),
            Self::Uniform(low, high) => write!(f, "{low}s..{high}s"),
            Self::Exponential(mean) => write!(f, "exp:{mean}s"),
        }
    }
}

impl FromStr for ThinkTime {
    type Err = ThinkTimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason: String| ThinkTimeError {
            text: text.to_owned(),
            reason,
        };
        let time = |text: &str| {
            if !text.trim().ends_with(|c: char| c.is_ascii_alphabetic()) {
                return Err(error(format!("`{}` has no unit", text.trim())));
            }
            let seconds = seconds(text).map_err(error)?;
            match seconds.is_finite() && seconds >= 0.0 {
                true => Ok(seconds),
                false => Err(error("is below 0".into())),
            }
        };
        if text.trim() == "0" {
            return Ok(Self::None);
        }
        if let Some(mean) = text.trim().strip_prefix("exp:") {
            return time(mean).map(Self::Exponential);
        }
        let Some((low, high)) = text.split_once("..") else {
            return time(text).map(|s| if s > 0.0 { Self::Fixed(s) } else { Self::None });
        };
        let (low, high) = (time(low)?, time(high)?);
        match low <= high {
            true => Ok(Self::Uniform(low, high)),
            false => Err(error("ends before it begins".into())),
        }
    }
}

/// A request that a user is going to send.
#[derive(Debug, Clone)]
struct Turn {
    elapsed: f64,
    /// Which turn of the conversation, from 1.
    number: u32,
    /// Turns of the conversation, this one included.
    left: u32,
    /// What was said so far; empty at the begin of a conversation.
    history: Vec<u32>,
}

/// A fixed number of users, each with one request in flight or thinking.
///
/// The first conversation of each user ends after a random number of its turns, so that users
/// are not in step.
#[derive(Debug)]
pub(crate) struct Users<'a> {
    turns: &'a Turns,
    users: u32,
    unit: u64,
    /// By the instant it is due, then in the order they were entered.
    due: BTreeMap<(u64, u64), Turn>,
    /// Number of the turn in flight, and turns left after it.
    talking: HashMap<RequestId, (u32, u32)>,
    entered: u64,
}

impl<'a> Users<'a> {
    /// So many users at `now_ns`.
    pub(crate) fn new(turns: &'a Turns, users: u32, unit: u32, now_ns: u64) -> Self {
        let mut all = Self {
            turns,
            users,
            unit: unit.into(),
            due: BTreeMap::new(),
            talking: HashMap::new(),
            entered: 0,
        };
        for k in 0..users {
            let mut rng = all.next_stream();
            let whole = turns.turns.sample(&mut rng).max(1);
            let turn = Turn {
                number: 1,
                elapsed: (f64::from(k) + 0.5) / f64::from(users),
                left: rng.random_range(1..=whole),
                history: Vec::new(),
            };
            all.due.insert((now_ns, u64::from(k)), turn);
        }
        all
    }

    /// Of the next turn that is entered.
    fn next_stream(&mut self) -> ChaCha8Rng {
        self.entered += 1;
        stream(
            self.turns.seed ^ self.unit.rotate_left(32),
            USERS,
            self.entered,
        )
    }

    fn first(&self) -> Option<(u64, &Turn)> {
        self.due
            .first_key_value()
            .map(|((due_ns, _), turn)| (*due_ns, turn))
    }
}

impl Arrivals for Users<'_> {
    fn peek(&self) -> Option<Arrival> {
        self.first().map(|(scheduled_ns, turn)| Arrival {
            scheduled_ns,
            elapsed: turn.elapsed,
            turn: Some(turn.number),
        })
    }

    fn advance(&mut self) {
        self.due.pop_first();
    }

    fn on_sent(&mut self, id: RequestId) {
        if let Some((_, turn)) = self.due.pop_first() {
            self.talking.insert(id, (turn.number, turn.left - 1));
        }
    }

    fn on_end(&mut self, at_ns: u64) {
        self.on_end_of(Ended {
            id: RequestId::MAX,
            at_ns,
            said: None,
        });
    }

    fn on_end_of(&mut self, ended: Ended) {
        let (number, left) = self.talking.remove(&ended.id).unwrap_or((0, 0));
        let mut rng = self.next_stream();
        let due_ns = ended
            .at_ns
            .saturating_add(self.turns.think.draw_ns(&mut rng));
        // A conversation whose answer did not come is over.
        let turn = match ended.said.filter(|_| left > 0) {
            Some(history) => Turn {
                number: number + 1,
                elapsed: 0.0,
                left,
                history,
            },
            None => Turn {
                number: 1,
                elapsed: 0.0,
                left: self.turns.turns.sample(&mut rng).max(1),
                history: Vec::new(),
            },
        };
        self.due
            .insert((due_ns, self.entered + u64::from(self.users)), turn);
    }

    fn concurrency(&self) -> Option<u32> {
        // Who thinks is not in flight.
        (self.turns.think == ThinkTime::None).then_some(self.users)
    }

    fn follows_up(&self) -> bool {
        true
    }

    fn history(&self) -> &[u32] {
        self.first().map_or(&[], |(_, turn)| &turn.history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn think_times_round_trip() {
        for (text, think) in [
            ("2s", ThinkTime::Fixed(2.0)),
            ("0.5s..5s", ThinkTime::Uniform(0.5, 5.0)),
            ("exp:3s", ThinkTime::Exponential(3.0)),
            ("0s", ThinkTime::None),
        ] {
            assert_eq!(text.parse::<ThinkTime>().unwrap(), think);
            assert_eq!(think.to_string(), text);
        }
        assert_eq!(
            "250ms".parse::<ThinkTime>().unwrap(),
            ThinkTime::Fixed(0.25)
        );
        for (text, says) in [
            ("2", "has no unit"),
            ("2 days", "not a unit"),
            ("5s..1s", "ends before"),
            ("soon", "exp:2s"),
            ("-2s", "think time"),
        ] {
            let message = text.parse::<ThinkTime>().unwrap_err().to_string();
            assert!(message.contains(says), "{text}: {message}");
        }
    }

    #[test]
    fn drawn_times_have_their_means() {
        let mut rng = stream(1, 2, 3);
        for (think, mean_s) in [
            (ThinkTime::Fixed(2.0), 2.0),
            (ThinkTime::Uniform(1.0, 3.0), 2.0),
            (ThinkTime::Exponential(2.0), 2.0),
            (ThinkTime::None, 0.0),
        ] {
            let sum: u64 = (0..20_000).map(|_| think.draw_ns(&mut rng)).sum();
            let found = sum as f64 / 20_000.0 / 1e9;
            assert!((found - mean_s).abs() < 0.06, "{think}: {found}");
        }
    }
}
