//! The scheduler against a simulated cache that remembers, slot by slot, which history
//! was written: a wrongly shared, lost or overwritten block is a wrong history.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use costmark_core::{Request, Sampling};
use proptest::prelude::*;

use super::*;

fn request(id: RequestId, prompt: Vec<u32>, max_tokens: u32) -> Request {
    Request {
        id,
        prompt,
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    }
}

fn history(tokens: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    tokens.hash(&mut hasher);
    hasher.finish()
}

/// What comes after `tokens` in the imagined model.
fn next_token(tokens: &[u32]) -> u32 {
    (history(tokens) % 3) as u32
}

struct Simulation {
    limits: Limits,
    scheduler: Scheduler,
    cache: HashMap<(u32, usize), u64>,
    left: HashMap<RequestId, u32>,
    finished: HashMap<RequestId, Vec<u32>>,
    arrivals: Vec<RequestId>,
    first_seen: Vec<RequestId>,
}

impl Simulation {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            scheduler: Scheduler::new(&limits),
            cache: HashMap::new(),
            left: HashMap::new(),
            finished: HashMap::new(),
            arrivals: Vec::new(),
            first_seen: Vec::new(),
        }
    }

    fn add(&mut self, prompt: Vec<u32>, max_tokens: u32) {
        let id = self.arrivals.len() as u64;
        self.arrivals.push(id);
        self.left.insert(id, max_tokens);
        self.scheduler
            .add(Sequence::new(&request(id, prompt, max_tokens)));
    }

    fn cancel(&mut self, id: RequestId) {
        if self.scheduler.remove(id).is_some() {
            self.left.remove(&id);
        }
        self.check_references();
    }

    fn step(&mut self) {
        let schedule = self.scheduler.schedule();
        self.check_schedule(&schedule);
        for chunk in &schedule.chunks {
            self.run_chunk(chunk);
        }
        self.scheduler.commit(&schedule);
        self.check_references();
        for chunk in schedule.chunks.iter().filter(|c| c.wants_logits) {
            let sequence = self.scheduler.sequence(chunk.id).unwrap();
            let token = next_token(sequence.tokens());
            self.scheduler.push_token(chunk.id, token);
            let left = self.left.get_mut(&chunk.id).unwrap();
            *left -= 1;
            if *left == 0 {
                self.left.remove(&chunk.id);
                let sequence = self.scheduler.remove(chunk.id).unwrap();
                self.finished.insert(
                    chunk.id,
                    sequence.tokens()[sequence.prompt_tokens()..].into(),
                );
            }
        }
        self.check_references();
    }

    fn check_schedule(&mut self, schedule: &Schedule) {
        let limits = &self.limits;
        let tokens: usize = schedule.chunks.iter().map(|c| c.len).sum();
        assert!(tokens <= limits.max_batched_tokens as usize);
        assert!(schedule.chunks.len() <= limits.max_sequences as usize);
        assert!(self.scheduler.running() <= limits.max_sequences as usize);
        let ids: HashSet<_> = schedule.chunks.iter().map(|c| c.id).collect();
        assert_eq!(ids.len(), schedule.chunks.len(), "one chunk per sequence");
        assert_eq!(
            schedule.chunks.is_empty(),
            self.left.is_empty(),
            "every step works while there is work"
        );
        let oldest = self.left.keys().min();
        assert!(
            oldest.is_none_or(|id| ids.contains(id) || self.budget_went_to_decodes(schedule)),
            "the oldest sequence proceeds"
        );
        for chunk in &schedule.chunks {
            assert!(chunk.len > 0 && chunk.len <= limits.prefill_chunk.max(1) as usize);
            assert!(chunk.phase == Phase::Prefill || chunk.len == 1);
            assert!(chunk.cached <= chunk.start);
            if !self.first_seen.contains(&chunk.id) {
                assert!(self.first_seen.iter().all(|&seen| seen < chunk.id), "order");
                self.first_seen.push(chunk.id);
            }
        }
    }

    fn budget_went_to_decodes(&self, schedule: &Schedule) -> bool {
        let decodes = schedule.chunks.iter().filter(|c| c.phase == Phase::Decode);
        decodes.count() == self.limits.max_batched_tokens as usize
    }

    fn run_chunk(&mut self, chunk: &Chunk) {
        let sequence = self.scheduler.sequence(chunk.id).unwrap();
        let size = self.limits.block_size as usize;
        let slot = |position: usize| (sequence.table().blocks()[position / size], position % size);
        for position in 0..chunk.start {
            assert_eq!(
                self.cache.get(&slot(position)),
                Some(&history(&sequence.tokens()[..=position])),
                "request {} position {position}",
                chunk.id
            );
        }
        for position in chunk.start..chunk.start + chunk.len {
            let written = history(&sequence.tokens()[..=position]);
            self.cache.insert(slot(position), written);
        }
        let end = chunk.start + chunk.len;
        assert_eq!(chunk.wants_logits, end == sequence.tokens().len());
    }

    /// Reference counts are those of the tables, and every other block is free.
    fn check_references(&self) {
        let mut refs: HashMap<u32, usize> = HashMap::new();
        for sequence in &self.scheduler.running {
            for &id in sequence.table().blocks() {
                *refs.entry(id).or_default() += 1;
            }
        }
        for sequence in &self.scheduler.waiting {
            assert!(sequence.table().blocks().is_empty());
        }
        self.scheduler.blocks.check(&refs);
    }
}

impl BlockManager {
    /// Every block is referred to as often as `refs` says and free otherwise.
    fn check(&self, refs: &HashMap<u32, usize>) {
        let free = self.free_blocks();
        assert_eq!(free.len(), self.free(), "no block is free twice");
        assert_eq!(free.len() + refs.len(), self.total(), "no block leaked");
        for id in 0..self.total() as u32 {
            let expected = refs.get(&id).copied().unwrap_or(0);
            assert_eq!(self.references(id), expected);
            assert_eq!(expected == 0, free.contains(&id));
        }
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    (1u32..6, 0u32..20, 1u32..20, 4u32..12, any::<bool>()).prop_map(
        |(max_sequences, extra, prefill_chunk, kv_blocks, prefix_cache)| Limits {
            block_size: 4,
            kv_blocks,
            kv_bytes: 0,
            max_batched_tokens: max_sequences + extra,
            prefill_chunk,
            max_sequences,
            max_context: kv_blocks * 4,
            prefix_cache,
        },
    )
}

#[derive(Debug, Clone)]
enum Action {
    Add(Vec<u32>, u32),
    Cancel(u64),
    Step,
}

/// Prompts over two letters, so that prefixes are shared often.
fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (prop::collection::vec(0u32..2, 1..14), 1u32..10).prop_map(|(p, n)| Action::Add(p, n)),
        1 => (0u64..20).prop_map(Action::Cancel),
        4 => Just(Action::Step),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens: budgets hold, no block leaks or is shared wrongly, every request
    /// not cancelled finishes in bounded time with the tokens it has alone.
    #[test]
    fn any_interleaving_is_sound(limits in limits(), actions in prop::collection::vec(action(), 1..60)) {
        let mut simulation = Simulation::new(limits);
        let mut prompts: Vec<(Vec<u32>, u32)> = Vec::new();
        let mut cancelled = HashSet::new();
        for action in actions {
            match action {
                Action::Add(prompt, max_tokens) => {
                    let room = limits.max_context as usize;
                    let prompt: Vec<u32> = prompt.into_iter().take(room - 1).collect();
                    let max_tokens = max_tokens.min((room - prompt.len()) as u32);
                    prompts.push((prompt.clone(), max_tokens));
                    simulation.add(prompt, max_tokens);
                }
                Action::Cancel(id) => {
                    if simulation.left.contains_key(&id) {
                        cancelled.insert(id);
                    }
                    simulation.cancel(id);
                }
                Action::Step => simulation.step(),
            }
        }
        // Between two finishes each running sequence can be preempted often, but the
        // oldest moves by at least one token per step or waits for finite decodes.
        let bound = 50 * (prompts.len() + 1) * limits.max_context as usize;
        for _ in 0..bound {
            if simulation.left.is_empty() {
                break;
            }
            simulation.step();
        }
        prop_assert!(simulation.left.is_empty(), "starved: {:?}", simulation.left);
        for (id, (prompt, max_tokens)) in prompts.iter().enumerate() {
            let id = id as u64;
            if cancelled.contains(&id) {
                prop_assert!(!simulation.finished.contains_key(&id));
                continue;
            }
            let mut alone = prompt.clone();
            for _ in 0..*max_tokens {
                alone.push(next_token(&alone));
            }
            prop_assert_eq!(&simulation.finished[&id], &alone[prompt.len()..]);
        }
        prop_assert_eq!(simulation.scheduler.blocks().used(), 0);
    }
}

fn small(kv_blocks: u32) -> Limits {
    Limits {
        block_size: 4,
        kv_blocks,
        kv_bytes: 0,
        max_batched_tokens: 8,
        prefill_chunk: 8,
        max_sequences: 4,
        max_context: kv_blocks * 4,
        prefix_cache: true,
    }
}

#[test]
fn decodes_go_before_prompts() {
    let mut simulation = Simulation::new(small(16));
    simulation.add(vec![1; 4], 4);
    simulation.step();
    simulation.add(vec![2; 20], 1);
    let schedule = simulation.scheduler.schedule();
    let seen: Vec<_> = schedule
        .chunks
        .iter()
        .map(|c| (c.id, c.phase, c.len))
        .collect();
    assert_eq!(seen, [(0, Phase::Decode, 1), (1, Phase::Prefill, 7)]);
}

#[test]
fn the_latest_is_preempted_and_keeps_its_tokens() {
    let mut simulation = Simulation::new(small(4));
    simulation.add(vec![1; 4], 8);
    simulation.step();
    simulation.add(vec![2; 4], 8);
    let mut preempted = 0;
    while simulation.left.contains_key(&0) {
        let before = simulation.scheduler.waiting();
        simulation.step();
        if simulation.scheduler.waiting() > before {
            preempted += 1;
            let waiting = &simulation.scheduler.waiting[0];
            assert_eq!(waiting.id, 1);
            assert!(waiting.output_tokens() > 0);
        }
    }
    assert!(preempted > 0);
    while !simulation.left.is_empty() {
        simulation.step();
    }
    assert_eq!(simulation.finished[&1].len(), 8);
}

#[test]
fn what_a_preempted_sequence_finds_of_its_own_is_not_called_cached() {
    let mut simulation = Simulation::new(small(6));
    simulation.add(vec![1; 4], 12);
    simulation.step();
    simulation.add(vec![2; 5], 15);
    let mut resumed = false;
    while !simulation.left.is_empty() {
        let schedule = simulation.scheduler.schedule();
        for chunk in &schedule.chunks {
            resumed |= chunk.id == 1 && chunk.phase == Phase::Prefill && chunk.start > 0;
            assert_eq!(chunk.cached, 0);
            simulation.run_chunk(chunk);
        }
        simulation.scheduler.commit(&schedule);
        for chunk in schedule.chunks.iter().filter(|c| c.wants_logits) {
            simulation.scheduler.push_token(chunk.id, 9);
            let left = simulation.left.get_mut(&chunk.id).unwrap();
            *left -= 1;
            if *left == 0 {
                simulation.left.remove(&chunk.id);
                assert_eq!(
                    simulation
                        .scheduler
                        .remove(chunk.id)
                        .unwrap()
                        .cached_tokens(),
                    0
                );
            }
        }
    }
    assert!(resumed, "the case was met");
}
