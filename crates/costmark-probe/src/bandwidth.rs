//! Memory bandwidth with several threads: read (a sum over the buffer) and triad
//! (`a = b + s·c`, as in STREAM, McCalpin 1995).
//!
//! Every thread owns its part of the buffer, touches it first (so that it lies near the
//! thread on machines with several memory nodes) and starts each pass at a barrier. A pass
//! lasts from the first thread's start to the last one's end.
//!
//! The buffer lies in large pages where the system gives them, and reads fetch ahead: what the
//! fastest programs do, so that a share of this peak is not more than all of it. On two threads
//! of a Xeon that is a tenth more than plain reads of small pages (medians of 12 passes in turn);
//! large pages alone gain nothing.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use crate::error::ProbeError;

/// Fewest passes, however little time there is.
const MIN_PASSES: usize = 3;
/// Places of its part a thread reads from in turn. One alone leaves a third of the bandwidth
/// unused: hardware prefetchers stop at the end of a page, and then nothing is under way.
const STREAMS: usize = 4;
/// Words read from each place in a row: two cache lines, four 32-byte registers.
const LANES: usize = 16;
/// Bytes of a word.
const WORD: usize = 8;
/// Those words.
type Row = [[u8; WORD]; LANES];
/// How many bytes ahead of their use words are fetched.
const AHEAD: usize = 4096;

/// What to do with the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Read it all.
    Read,
    /// Read two thirds and write one.
    Triad,
}

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read bandwidth",
            Self::Triad => "triad bandwidth",
        }
    }
}

/// A buffer with a part for each thread, allocated and not yet touched.
pub(crate) struct Buffer {
    parts: Vec<MmapMut>,
    bytes_per_part: usize,
}

impl Buffer {
    /// A buffer of `bytes`, rounded down to whole steps of every thread.
    pub(crate) fn allocate(
        bytes: u64,
        threads: usize,
        available_bytes: u64,
    ) -> Result<Self, ProbeError> {
        // Three arrays of whole steps for the triad.
        let of_part = (STREAMS * size_of::<Row>() * 3) as u64;
        let steps = (bytes / (of_part * threads as u64)).max(1);
        let bytes_per_part = usize::try_from(steps * of_part).unwrap_or(usize::MAX);
        let refused = |_| ProbeError::Memory {
            needed_bytes: bytes,
            available_bytes,
        };
        let mut parts = Vec::new();
        for _ in 0..threads {
            let part = MmapMut::map_anon(bytes_per_part).map_err(refused)?;
            // A refusal leaves small pages, which is what weights get then, too.
            #[cfg(target_os = "linux")]
            let _ = part.advise(memmap2::Advice::HugePage);
            parts.push(part);
        }
        Ok(Self {
            parts,
            bytes_per_part,
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.parts.len() * self.bytes_per_part) as u64
    }

    /// Runs `kernel` over the buffer until `budget` is spent, at least [`MIN_PASSES`] times,
    /// and returns bytes per second of each pass. The first touch is outside of it all.
    pub(crate) fn run(&mut self, kernel: Kernel, budget: Duration) -> Result<Vec<f64>, ProbeError> {
        let threads = self.parts.len();
        let bytes = self.bytes() as f64;
        let (barrier, passes) = (Barrier::new(threads), AtomicUsize::new(usize::MAX));
        let spans = std::thread::scope(|scope| {
            let mut gates = Vec::new();
            let mut workers = Vec::new();
            for (index, part) in self.parts.iter_mut().enumerate() {
                let (gate, opened) = mpsc::channel::<()>();
                let worker = Worker {
                    leads: index == 0,
                    kernel,
                    budget,
                    barrier: &barrier,
                    passes: &passes,
                };
                let handle = std::thread::Builder::new()
                    .name(String::from("costmark-probe"))
                    .spawn_scoped(scope, move || {
                        // A barrier waits for all threads, so nobody goes near it before
                        // all of them are known to run.
                        match opened.recv() {
                            Ok(()) => worker.run(part),
                            Err(mpsc::RecvError) => Vec::new(),
                        }
                    })
                    .map_err(|e| ProbeError::Threads {
                        threads,
                        reason: e.to_string(),
                    })?;
                gates.push(gate);
                workers.push(handle);
            }
            for gate in &gates {
                // A worker that died is found when it is joined.
                let _ = gate.send(());
            }
            workers
                .into_iter()
                .map(|w| w.join().map_err(|_| ProbeError::Worker(kernel.name())))
                .collect::<Result<Vec<Vec<Span>>, ProbeError>>()
        })?;
        let passes = spans.iter().map(Vec::len).min().unwrap_or(0);
        Ok((0..passes)
            .filter_map(|pass| {
                let starts = spans.iter().map(|s| s[pass].start);
                let ends = spans.iter().map(|s| s[pass].end);
                let seconds = (ends.max()? - starts.min()?).as_secs_f64();
                (seconds > 0.0).then(|| bytes / seconds)
            })
            .collect())
    }
}

/// When one thread worked on a pass.
#[derive(Clone, Copy)]
struct Span {
    start: Instant,
    end: Instant,
}

/// One thread's view of a measurement.
struct Worker<'a> {
    leads: bool,
    kernel: Kernel,
    budget: Duration,
    barrier: &'a Barrier,
    /// How many passes there will be; not known before the budget is spent.
    passes: &'a AtomicUsize,
}

impl Worker<'_> {
    fn run(&self, part: &mut [u8]) -> Vec<Span> {
        // First touch, by the thread that will use it; not zero, so that no page is shared.
        part.as_chunks_mut().0.fill(1f64.to_ne_bytes());
        let mut spans = Vec::new();
        let began = Instant::now();
        loop {
            let done = spans.len();
            if self.leads && done >= MIN_PASSES && began.elapsed() >= self.budget {
                // A number, not a flag: a thread that is still between the previous barrier
                // and its load must not stop one pass before the others.
                self.passes.store(done, Ordering::Relaxed);
            }
            // The barrier orders the store above before the loads below.
            self.barrier.wait();
            if done >= self.passes.load(Ordering::Relaxed) {
                return spans;
            }
            let start = Instant::now();
            match self.kernel {
                Kernel::Read => {
                    black_box(sum_bits(black_box(&*part)));
                }
                Kernel::Triad => triad(black_box(part), 3.0),
            }
            let end = Instant::now();
            spans.push(Span { start, end });
        }
    }
}

/// Wrapping sum of the words' bits: every byte has to be read, and integer addition may be
/// reordered into vectors.
fn sum_bits(part: &[u8]) -> u64 {
    let (words, _) = part.as_chunks::<WORD>();
    let (rows, rest) = words.as_chunks::<LANES>();
    let steps = rows.len() / STREAMS;
    let streams: [&[Row]; STREAMS] = std::array::from_fn(|s| &rows[s * steps..][..steps]);
    let mut sums = [0u64; LANES];
    for step in 0..steps {
        for stream in streams {
            let row = &stream[step];
            fetch(row);
            for (sum, word) in sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
    }
    let rest = rows[steps * STREAMS..].as_flattened().iter().chain(rest);
    let rest = rest.map(|word| u64::from_ne_bytes(*word));
    sums.into_iter().chain(rest).fold(0, u64::wrapping_add)
}

/// Fetches the cache lines of the row that lies [`AHEAD`] bytes behind this one, or nothing where
/// no memory is.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[inline(always)]
fn fetch(row: &Row) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let line = std::ptr::from_ref(row).cast::<i8>().wrapping_add(AHEAD);
    // SAFETY: hints, which read nothing that the program could see and never fault; the
    // instruction is part of every x86-64.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(line);
        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(64));
    }
}

/// Elsewhere the hardware alone fetches ahead.
#[cfg(not(target_arch = "x86_64"))]
fn fetch(_: &Row) {}

/// `a = b + scale · c` on the thirds of `part`.
fn triad(part: &mut [u8], scale: f64) {
    let (words, _) = part.as_chunks_mut::<WORD>();
    let third = words.len() / 3;
    let (a, rest) = words.split_at_mut(third);
    let (b, c) = rest.split_at(third);
    for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
        let (b, c) = (f64::from_ne_bytes(*b), f64::from_ne_bytes(*c));
        *a = scale.mul_add(c, b).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_reads_every_word() {
        let words: Vec<u64> = (0..1000).map(|i| i * i).collect();
        let mut part: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(sum_bits(&part), words.iter().sum::<u64>());
        for i in [0, 63, 64, 999] {
            let before = sum_bits(&part);
            part[8 * i + 3] ^= 1;
            assert_ne!(sum_bits(&part), before, "word {i}");
        }
    }

    #[test]
    fn the_triad_writes_the_first_third() {
        let words: [f64; 12] = [0., 0., 0., 0., 1., 2., 3., 4., 10., 10., 10., 10.];
        let mut part = words.map(f64::to_ne_bytes).concat();
        triad(&mut part, 3.0);
        let after: Vec<f64> = part
            .as_chunks()
            .0
            .iter()
            .map(|w| f64::from_ne_bytes(*w))
            .collect();
        assert_eq!(after[..4], [31.0, 32.0, 33.0, 34.0]);
        assert_eq!(after[4..], words[4..]);
    }

    #[test]
    fn every_pass_of_every_kernel_is_a_positive_rate() {
        for threads in [1, 3, 8] {
            let mut buffer = Buffer::allocate(1 << 20, threads, u64::MAX).unwrap();
            assert!(buffer.bytes() <= 1 << 20);
            // Often, because threads that disagree on the last pass wait forever.
            for kernel in [Kernel::Read, Kernel::Triad].repeat(50) {
                let rates = buffer.run(kernel, Duration::ZERO).unwrap();
                assert_eq!(rates.len(), MIN_PASSES);
                assert!(rates.iter().all(|r| r.is_finite() && *r > 0.0));
            }
        }
    }

    #[test]
    fn an_impossible_buffer_is_an_error() {
        let Err(error) = Buffer::allocate(1 << 60, 2, 4096) else {
            panic!("2^60 bytes can not be had")
        };
        assert!(matches!(
            error,
            ProbeError::Memory {
                available_bytes: 4096,
                ..
            }
        ));
    }
}
