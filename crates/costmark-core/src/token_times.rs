//! Instants of a request's token events, held in few bytes and without loss.

use std::fmt;

/// The instants at which a request's token events were observed, ascending, nanoseconds.
///
/// Held as the first instant and the gaps after it, equal gaps in a row as one: a stream of
/// equally spaced tokens takes no memory of its own however long it is, one of irregular gaps
/// about four bytes per token instead of eight. Nothing is rounded.
///
/// An instant before its predecessor, which no monotonic clock gives, is taken as equal to it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TokenTimes {
    first_ns: u64,
    last_ns: u64,
    events: u32,
    /// Gaps of the run that [`extend`](Self::extend) may still lengthen.
    run: u32,
    run_gap_ns: u64,
    /// Runs before it: LEB128 numbers `gap << 1 | several`, then the count if several.
    coded: Vec<u8>,
}

/// Equally spaced token events: at `first_ns + i · gap_ns` for *i* in `0..events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Instant of the first.
    pub first_ns: u64,
    /// From one to the next; 0 for a single event.
    pub gap_ns: u64,
    /// How many, at least one.
    pub events: u32,
}

impl Span {
    /// A single event.
    #[must_use]
    pub fn one(at_ns: u64) -> Self {
        Self {
            first_ns: at_ns,
            gap_ns: 0,
            events: 1,
        }
    }

    /// Instant of the last.
    #[must_use]
    pub fn last_ns(&self) -> u64 {
        self.first_ns + self.gap_ns * u64::from(self.events - 1)
    }

    /// How many of them are at `until_ns` or before.
    #[must_use]
    pub fn until(&self, until_ns: u64) -> u32 {
        match until_ns.checked_sub(self.first_ns) {
            None => 0,
            Some(_) if self.gap_ns == 0 => self.events,
            Some(after_ns) => u32::try_from(after_ns / self.gap_ns)
                .map_or(self.events, |n| n.saturating_add(1).min(self.events)),
        }
    }

    /// How many of them are after `after_ns` and not after `until_ns`.
    #[must_use]
    pub fn between(&self, after_ns: u64, until_ns: u64) -> u32 {
        self.until(until_ns).saturating_sub(self.until(after_ns))
    }
}

impl TokenTimes {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event.
    pub fn push(&mut self, at_ns: u64) {
        self.extend(Span::one(at_ns));
    }

    /// Adds equally spaced events.
    pub fn extend(&mut self, span: Span) {
        let Span {
            first_ns,
            gap_ns,
            events,
        } = span;
        if events == 0 {
            return;
        }
        if self.events == 0 {
            self.first_ns = first_ns;
        } else {
            self.add_gaps(first_ns.saturating_sub(self.last_ns), 1);
        }
        self.add_gaps(gap_ns, events - 1);
        self.last_ns = self.last_ns.max(first_ns) + gap_ns * u64::from(events - 1);
        self.events += events;
    }

    fn add_gaps(&mut self, gap_ns: u64, n: u32) {
        if n == 0 {
            return;
        }
        if self.run > 0 && self.run_gap_ns != gap_ns {
            self.close_run();
        }
        self.run_gap_ns = gap_ns;
        self.run += n;
    }

    fn close_run(&mut self) {
        // A gap of 2^63 ns would be 292 years.
        let several = u64::from(self.run > 1);
        encode(&mut self.coded, self.run_gap_ns << 1 | several);
        if self.run > 1 {
            encode(&mut self.coded, u64::from(self.run));
        }
        self.run = 0;
    }

    /// How many events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// The first instant.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        (self.events > 0).then_some(self.first_ns)
    }

    /// The last instant.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        (self.events > 0).then_some(self.last_ns)
    }

    /// All instants, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.spans().flat_map(|span| {
            (0..u64::from(span.events)).map(move |i| span.first_ns + i * span.gap_ns)
        })
    }

    /// The gaps between successive events in order: how long, and how often in a row.
    pub fn gaps(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let mut rest = self.coded.as_slice();
        let coded = std::iter::from_fn(move || {
            let head = decode(&mut rest)?;
            let n = if head & 1 == 1 {
                u32::try_from(decode(&mut rest)?).ok()?
            } else {
                1
            };
            Some((head >> 1, n))
        });
        coded.chain((self.run > 0).then_some((self.run_gap_ns, self.run)))
    }

    /// All events as spans of equal gaps, in order. Together they hold each event once.
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        let mut last_ns = self.first_ns;
        let first = self.first().map(Span::one);
        first
            .into_iter()
            .chain(self.gaps().map(move |(gap_ns, events)| {
                let first_ns = last_ns + gap_ns;
                last_ns += gap_ns * u64::from(events);
                Span {
                    first_ns,
                    gap_ns,
                    events,
                }
            }))
    }

    /// Gives back memory that was reserved for more.
    pub fn shrink(&mut self) {
        self.coded.shrink_to_fit();
    }
}

fn encode(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn decode(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    Some(value)
}

impl fmt::Debug for TokenTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl FromIterator<u64> for TokenTimes {
    fn from_iter<I: IntoIterator<Item = u64>>(instants: I) -> Self {
        let mut times = Self::new();
        instants.into_iter().for_each(|at_ns| times.push(at_ns));
        times.shrink();
        times
    }
}

impl From<Vec<u64>> for TokenTimes {
    fn from(instants: Vec<u64>) -> Self {
        instants.into_iter().collect()
    }
}

impl<const N: usize> PartialEq<[u64; N]> for TokenTimes {
    fn eq(&self, other: &[u64; N]) -> bool {
        self.iter().eq(other.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ascending instants with repeated gaps, zero gaps and gaps of any size among them.
    fn instants() -> impl Strategy<Value = Vec<u64>> {
        let gap = prop_oneof![
            Just(0u64),
            Just(10_000_000),
            0..300u64,
            0..20_000_000u64,
            0..1u64 << 40
        ];
        let runs = prop::collection::vec((gap, 1..6usize), 0..60);
        (0..1u64 << 50, runs).prop_map(|(first, runs)| {
            let mut all = vec![first];
            for gap in runs.into_iter().flat_map(|(gap, n)| vec![gap; n]) {
                all.push(all[all.len() - 1] + gap);
            }
            all
        })
    }

    proptest! {
        #[test]
        fn instants_come_back_as_they_went_in(instants in instants()) {
            let times = TokenTimes::from(instants.clone());
            prop_assert_eq!(times.iter().collect::<Vec<_>>(), instants.clone());
            prop_assert_eq!(times.len(), instants.len());
            prop_assert_eq!(times.first(), instants.first().copied());
            prop_assert_eq!(times.last(), instants.last().copied());
            let gaps: Vec<u64> = times
                .gaps()
                .flat_map(|(gap, n)| vec![gap; n as usize])
                .collect();
            let expected: Vec<u64> = instants.windows(2).map(|w| w[1] - w[0]).collect();
            prop_assert_eq!(gaps, expected);
        }

        /// One by one or in runs cut anywhere: the same value.
        #[test]
        fn runs_are_their_events(
            runs in prop::collection::vec((0..50u64, 0..20u64, 1..9u32), 1..20),
        ) {
            let (mut by_run, mut by_event) = (TokenTimes::new(), TokenTimes::new());
            let mut now = 5;
            for (after, gap_ns, events) in runs {
                let span = Span { first_ns: now + after, gap_ns, events };
                by_run.extend(span);
                for i in 0..u64::from(events) {
                    by_event.push(span.first_ns + i * gap_ns);
                }
                now = span.last_ns();
            }
            prop_assert_eq!(by_run, by_event);
        }

        #[test]
        fn spans_count_what_lies_between(
            instants in instants(),
            (a, b) in (0..1u64 << 50, 0..1u64 << 45),
        ) {
            let times = TokenTimes::from(instants.clone());
            let (after, until) = (a, a + b);
            let counted: u32 = times.spans().map(|s| s.between(after, until)).sum();
            let expected = instants.iter().filter(|&&t| after < t && t <= until).count();
            prop_assert_eq!(counted as usize, expected);
            // Edges that fall on events.
            let (first, middle) = (instants[0], instants[instants.len() / 2]);
            let counted: u32 = times.spans().map(|s| s.between(first, middle)).sum();
            let expected = instants.iter().filter(|&&t| first < t && t <= middle).count();
            prop_assert_eq!(counted as usize, expected);
        }
    }

    #[test]
    fn equal_gaps_take_no_memory() {
        let times: TokenTimes = (0..10_000u64).map(|i| 7 + i * 10_000_000).collect();
        assert_eq!(times.coded.capacity(), 0);
        assert_eq!(size_of::<TokenTimes>(), 56);
        // Gaps around 10 ms: four bytes each.
        let irregular: TokenTimes = (0..1_000u64).map(|i| i * 10_000_000 + i * i).collect();
        assert!(irregular.coded.len() <= 4_000);
    }

    #[test]
    fn instants_never_descend() {
        let times = TokenTimes::from(vec![10, 20, 15, 30]);
        assert_eq!(times, [10, 20, 20, 30]);
    }
}
