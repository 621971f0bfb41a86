//! Several backends of one kind that serve the same model side by side, from one queue.
//!
//! A request goes to a replica that has a place free: to the one that served the prompt it goes
//! on from, where there is one, since that has its keys and values; else to the one with the
//! fewest requests in flight for the places it has, of equal ones the one with the fewest tokens
//! to work on. A replica is given as many requests as it runs in one step and no more, so that
//! none holds back what another could serve: further ones wait here, first come first served, and
//! the next place that becomes free is theirs. The price of that is a place that stays empty for
//! the rest of a step, where a single engine's own queue would have filled it at the step's begin.
//!
//! All replicas live on one clock. Those on threads of their own ring a [`Bell`]; whoever waits
//! sleeps until it rings or an instant is reached that a replica announced.

mod bell;
mod homes;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

pub use bell::{Bell, Waiting};

use crate::backend::{Backend, BackendError, BackendInfo, Event, Usage};
use crate::request::{FinishReason, Request, RequestId};
use homes::Homes;

/// A backend of which several can serve as one.
pub trait Replica: Backend {
    /// Rings this bell from now on whenever there is something to poll that
    /// [`due_ns`](Self::due_ns) did not announce, and when nothing more will come.
    fn ring(&mut self, bell: Bell);

    /// When there will next be something to poll, where that is known beforehand. May be early,
    /// and must not be late.
    fn due_ns(&self) -> Option<u64>;
}

/// One of them.
struct Place {
    replica: Box<dyn Replica>,
    /// Requests it may have in flight.
    limit: u32,
    in_flight: u32,
    /// Prompt and output tokens of those.
    tokens: u64,
}

impl Place {
    fn is_free(&self) -> bool {
        self.in_flight < self.limit
    }

    /// Whose turn it is: the lesser.
    fn by_load(&self, other: &Self) -> Ordering {
        let load = |place: &Self, of: &Self| u64::from(place.in_flight) * u64::from(of.limit);
        load(self, other)
            .cmp(&load(other, self))
            .then(self.tokens.cmp(&other.tokens))
    }
}

/// See the [module](self).
pub struct Replicas {
    places: Vec<Place>,
    info: BackendInfo,
    waiting: VecDeque<Request>,
    /// Of each request in flight the place and the tokens it counts for there.
    located: HashMap<RequestId, (usize, u64)>,
    /// Asked to stop while they waited.
    cancelled: HashSet<RequestId>,
    /// `None` where nobody looks at prompts.
    homes: Option<Homes>,
    rung: Waiting,
    /// Kept so that there is always somebody who could ring.
    _bell: Bell,
    /// Set once one of them is gone.
    dead: Option<BackendError>,
}

impl Replicas {
    /// Backends with nothing in flight, on one clock. `device` says where they are, for results:
    /// `8 × NVIDIA H200`.
    ///
    /// # Errors
    /// When there are none, or they are not alike.
    pub fn new(mut replicas: Vec<Box<dyn Replica>>, device: String) -> Result<Self, BackendError> {
        let info = info(&replicas, device)?;
        let (bell, rung) = Bell::new();
        for replica in &mut replicas {
            replica.ring(bell.clone());
        }
        let reads_prompts = replicas.iter().any(|replica| replica.reads_prompts());
        let places = replicas.into_iter().map(|replica| Place {
            limit: replica.info().max_sequences.max(1),
            replica,
            in_flight: 0,
            tokens: 0,
        });
        Ok(Self {
            places: places.collect(),
            info,
            waiting: VecDeque::new(),
            located: HashMap::new(),
            cancelled: HashSet::new(),
            homes: reads_prompts.then(Homes::default),
            rung,
            _bell: bell,
            dead: None,
        })
    }

    /// Hands out what waits, as far as there are places.
    fn hand_out(&mut self) -> Result<(), BackendError> {
        while let Some(request) = self.waiting.pop_front() {
            let Some(place) = self.place_for(&request) else {
                self.waiting.push_front(request);
                break;
            };
            let (id, tokens) = (request.id, tokens(&request));
            if let Some(homes) = &mut self.homes {
                homes.remember(&request.prompt, place);
            }
            let chosen = &mut self.places[place];
            if let Err(error) = chosen.replica.submit(request) {
                return Err(self.bury(place, &error));
            }
            chosen.in_flight += 1;
            chosen.tokens += tokens;
            self.located.insert(id, (place, tokens));
            if self.cancelled.remove(&id) {
                self.cancel(id);
            }
        }
        Ok(())
    }

    /// Where a request goes now; `None` if all places are taken.
    fn place_for(&mut self, request: &Request) -> Option<usize> {
        let by_load = |(_, a): &(usize, &Place), (_, b): &(usize, &Place)| a.by_load(b);
        let free = self.places.iter().enumerate().filter(|(_, p)| p.is_free());
        let (least, _) = free.min_by(by_load)?;
        let home = self.homes.as_mut().and_then(|h| h.take(&request.prompt));
        Some(home.filter(|&h| self.places[h].is_free()).unwrap_or(least))
    }

    /// Ends what was cancelled before it was handed out.
    fn end_cancelled(&mut self, events: &mut Vec<Event>) {
        if self.cancelled.is_empty() {
            return;
        }
        let at_ns = self.now_ns();
        let cancelled = std::mem::take(&mut self.cancelled);
        self.waiting.retain(|request| {
            let goes = cancelled.contains(&request.id);
            if goes {
                events.push(Event::Finished {
                    request: request.id,
                    at_ns,
                    reason: FinishReason::Cancelled,
                    usage: Usage {
                        input_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
                        ..Usage::default()
                    },
                });
            }
            !goes
        });
    }

    /// Appends all that the replicas have to tell until `until_ns`, in order of time.
    fn gather(&mut self, until_ns: u64, events: &mut Vec<Event>) -> Result<(), BackendError> {
        let mut told = Vec::new();
        let mut error = None;
        for index in 0..self.places.len() {
            let mut fresh = Vec::new();
            let polled = self.places[index].replica.poll(Some(until_ns), &mut fresh);
            for event in &mut fresh {
                self.on_event(index, event);
            }
            told.push(fresh);
            if let Err(reason) = polled {
                // What the others have to tell is valid all the same.
                error = error.or(Some((index, reason)));
            }
        }
        merge(told, events);
        match error {
            Some((index, reason)) => Err(self.bury(index, &reason)),
            None => Ok(()),
        }
    }

    fn on_event(&mut self, index: usize, event: &mut Event) {
        match event {
            Event::Step(step) => step.replica = u32::try_from(index).unwrap_or(u32::MAX),
            Event::Finished { request, .. } | Event::Failed { request, .. } => {
                if let Some((place, tokens)) = self.located.remove(request) {
                    let place = &mut self.places[place];
                    place.in_flight -= 1;
                    place.tokens -= tokens;
                }
            }
            Event::Sent { .. } | Event::Logprobs(_) | Event::Tokens(_) | Event::TokenRun(_) => {}
        }
    }

    /// One of them is gone, and with it the run.
    fn bury(&mut self, index: usize, reason: &BackendError) -> BackendError {
        let device = &self.places[index].replica.info().device;
        let error = BackendError::new(format!("replica {index} on {device}: {reason}"));
        self.dead.get_or_insert(error).clone()
    }

    /// Lets time pass until there may be something to gather, and says what time it is then.
    fn pass_time(&self, until_ns: Option<u64>) -> Option<u64> {
        let due = self.places.iter().filter_map(|p| p.replica.due_ns()).min();
        let until_ns = match (until_ns, due) {
            (Some(until), Some(due)) => Some(until.min(due)),
            (until, due) => until.or(due),
        };
        if self.simulates_time() {
            // Polling until then moves all clocks together.
            return until_ns;
        }
        let left = until_ns.map(|until| Duration::from_nanos(until.saturating_sub(self.now_ns())));
        self.rung.wait(left);
        Some(self.now_ns())
    }
}

impl Backend for Replicas {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn now_ns(&self) -> u64 {
        let mut clocks = self.places.iter().map(|place| place.replica.now_ns());
        if self.simulates_time() {
            clocks.max().unwrap_or(0)
        } else {
            clocks.next().unwrap_or(0)
        }
    }

    fn submit(&mut self, request: Request) -> Result<(), BackendError> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        self.waiting.push_back(request);
        self.hand_out()
    }

    fn cancel(&mut self, id: RequestId) {
        match self.located.get(&id) {
            Some(&(place, _)) => self.places[place].replica.cancel(id),
            None => _ = self.cancelled.insert(id),
        }
    }

    fn poll(&mut self, until_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), BackendError> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        let before = events.len();
        let mut now_ns = self.now_ns();
        loop {
            self.end_cancelled(events);
            self.gather(now_ns, events)?;
            self.hand_out()?;
            let is_over = until_ns.is_some_and(|until| now_ns >= until);
            let is_idle = until_ns.is_none() && self.located.is_empty();
            if events.len() > before || is_over || is_idle {
                return Ok(());
            }
            match self.pass_time(until_ns) {
                Some(then_ns) => now_ns = then_ns,
                None => return Ok(()),
            }
        }
    }

    fn reads_prompts(&self) -> bool {
        self.homes.is_some()
    }

    fn simulates_time(&self) -> bool {
        self.places
            .first()
            .is_some_and(|place| place.replica.simulates_time())
    }
}

/// What a request takes of a replica.
fn tokens(request: &Request) -> u64 {
    request.prompt.len() as u64 + u64::from(request.max_tokens)
}

/// What they are together.
fn info(replicas: &[Box<dyn Replica>], device: String) -> Result<BackendInfo, BackendError> {
    let infos: Vec<&BackendInfo> = replicas.iter().map(|replica| replica.info()).collect();
    let Some((&first, rest)) = infos.split_first() else {
        return Err(BackendError::new("there is no replica to serve"));
    };
    let simulated = |i: usize| replicas[i].simulates_time();
    for (i, other) in (1..).zip(rest) {
        let alike = other.kind == first.kind
            && other.model == first.model
            && other.weight_dtype == first.weight_dtype
            && other.kv_dtype == first.kv_dtype
            && simulated(i) == simulated(0);
        if !alike {
            return Err(BackendError::new(format!(
                "replica {i} serves {} ({}), and the first one {} ({}): they must be alike",
                other.model, other.weight_dtype, first.model, first.weight_dtype
            )));
        }
    }
    let replicas = u32::try_from(infos.len()).unwrap_or(u32::MAX);
    let sum =
        |of: fn(&BackendInfo) -> u64| infos.iter().map(|i| of(i)).fold(0, u64::saturating_add);
    let mut notes = first.notes.clone();
    notes.push(format!(
        "{replicas} replicas of the whole model serve from one queue; steps, batch occupancy and \
         MBU and MFU by phase are of one replica, throughput and MBU and MFU of a window are of all"
    ));
    Ok(BackendInfo {
        device,
        replicas,
        max_context: infos.iter().map(|i| i.max_context).min().unwrap_or(0),
        max_sequences: u32::try_from(sum(|i| u64::from(i.max_sequences))).unwrap_or(u32::MAX),
        kv_capacity_tokens: sum(|i| i.kv_capacity_tokens),
        weight_bytes: sum(|i| i.weight_bytes),
        notes,
        ..first.clone()
    })
}

/// Puts what each replica told, in its order, into one order of time.
fn merge(told: Vec<Vec<Event>>, events: &mut Vec<Event>) {
    if told.iter().filter(|fresh| !fresh.is_empty()).count() < 2 {
        events.extend(told.into_iter().flatten());
        return;
    }
    let mut all: Vec<(u64, Event)> = Vec::new();
    for fresh in told {
        let begin = all.len();
        all.extend(fresh.into_iter().map(|event| (at_ns(&event), event)));
        // What bears no instant, or a later one than what follows it, goes with that.
        let mut next_ns = u64::MAX;
        for (at_ns, _) in all[begin..].iter_mut().rev() {
            *at_ns = next_ns.min(*at_ns);
            next_ns = *at_ns;
        }
    }
    all.sort_by_key(|(at_ns, _)| *at_ns);
    events.extend(all.into_iter().map(|(_, event)| event));
}

/// When it was told.
fn at_ns(event: &Event) -> u64 {
    match event {
        Event::Sent { at_ns, .. } | Event::Finished { at_ns, .. } | Event::Failed { at_ns, .. } => {
            *at_ns
        }
        Event::Tokens(tokens) => tokens.at_ns,
        Event::TokenRun(run) => run.span.last_ns(),
        Event::Step(step) => step.end_ns,
        Event::Logprobs(_) => u64::MAX,
    }
}
