//! Threads that take part in a piece of work when they are there in time.
//!
//! The caller works too and waits for nobody who has not begun: a thread that the system has
//! not woken yet, or whose core somebody else uses, finds the work closed and lies down
//! again. Between two pieces of work threads spin for some tens of microseconds, which is
//! shorter than waking them takes, and then sleep.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;

/// Rounds a thread spins before it sleeps, or before a waiting caller lets others run.
const SPINS: u32 = 4096;

/// Of the state: threads that are working.
const COUNT: u64 = 0xffff;
/// Of the state: nobody may begin any more.
const CLOSED: u64 = 1 << 16;
/// Of the state: added with each piece of work.
const GENERATION: u64 = 1 << 17;

type Work<'a> = &'a (dyn Fn() + Sync + 'a);

/// What caller and threads share.
struct Shared {
    /// See [`COUNT`], [`CLOSED`] and [`GENERATION`].
    state: AtomicU64,
    /// Written by the caller while the state is closed and nobody works.
    work: UnsafeCell<Option<Work<'static>>>,
    /// What a thread's work panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is written only by the holder of `Pool::call` while the state is closed with
// a count of 0, and read only by threads that raised the count before it was closed; raising
// it acquires what opening released.
unsafe impl Sync for Shared {}
// SAFETY: as above; everything else in it is `Send`.
unsafe impl Send for Shared {}

/// See the module.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(Thread, Arc<AtomicBool>)>,
    /// Held by the caller whose work it is.
    call: Mutex<()>,
}

thread_local! {
    /// Whether this thread works on a piece of work now.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread busy until dropped.
struct Busy;

impl Busy {
    fn new() -> Self {
        BUSY.set(true);
        Self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(false);
    }
}

impl Pool {
    /// The pool of the process, the caller among them: as many threads as
    /// `RAYON_NUM_THREADS` says, or as this process may run at once.
    pub(crate) fn get() -> &'static Self {
        static POOL: OnceLock<Pool> = OnceLock::new();
        POOL.get_or_init(|| Self::new(threads_wanted()))
    }

    /// A pool of `threads`, the caller among them. Fewer where the system gives no more.
    fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(CLOSED),
            work: UnsafeCell::new(None),
            panic: Mutex::new(None),
        });
        let workers = (1..threads).map_while(|index| {
            let (shared, asleep) = (Arc::clone(&shared), Arc::new(AtomicBool::new(false)));
            let seen = Arc::clone(&asleep);
            let thread = std::thread::Builder::new()
                .name(format!("engine-{index}"))
                .spawn(move || shared.serve(&seen))
                .ok()?;
            Some((thread.thread().clone(), asleep))
        });
        Self {
            workers: workers.collect(),
            shared,
            call: Mutex::new(()),
        }
    }

    /// Threads that can take part, the caller among them.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` on this thread and on others, each of which must take its share from
    /// something they have in common, and returns when all of them have returned. Calls it
    /// on this thread alone from within such work, or while another caller has the pool.
    pub(crate) fn run(&self, work: Work<'_>) {
        if BUSY.get() || self.workers.is_empty() {
            work();
            return;
        }
        let _call = match self.call.try_lock() {
            Ok(call) => call,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                work();
                return;
            }
        };
        let open = Open::new(self, work);
        let own = {
            let _busy = Busy::new();
            catch_unwind(AssertUnwindSafe(work))
        };
        drop(open);
        let theirs = self.shared.panic.lock();
        let theirs = theirs.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

/// What the environment variable of rayon's pools says, so that one setting serves all.
fn threads_wanted() -> usize {
    std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|threads| *threads > 0)
        .or_else(|| Some(std::thread::available_parallelism().ok()?.get()))
        .unwrap_or(1)
}

/// Work that threads may begin until this is dropped, which waits for those that did.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    /// The caller holds `pool.call`.
    fn new(pool: &'a Pool, work: Work<'_>) -> Self {
        // SAFETY: only the lifetime is changed. Threads use the work only between raising the
        // count and lowering it; dropping this value, which no panic skips, comes before
        // `work` ends and waits until the count is 0 and can rise no more.
        let work = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        let shared = &*pool.shared;
        // SAFETY: the state is closed with a count of 0, so no thread looks at it; no other
        // caller is here.
        unsafe { *shared.work.get() = Some(work) };
        let state = shared.state.load(Ordering::Relaxed);
        // Sequentially consistent with what a thread does before it sleeps: either it sees
        // the new state or this sees that it sleeps.
        let opened = (state & !CLOSED).wrapping_add(GENERATION);
        shared.state.store(opened, Ordering::SeqCst);
        for (thread, asleep) in &pool.workers {
            if asleep.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_or(CLOSED, Ordering::AcqRel);
        let mut spins = 0;
        while self.0.state.load(Ordering::Acquire) & COUNT != 0 {
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                // Perhaps what is waited for has no core of its own.
                std::thread::yield_now();
            }
        }
    }
}

impl Shared {
    /// A thread's life.
    fn serve(&self, asleep: &AtomicBool) {
        let _busy = Busy::new();
        let mut done = self.state.load(Ordering::Acquire) & !(GENERATION - 1);
        loop {
            done = self.wait(done, asleep);
            if !self.join(done) {
                continue;
            }
            // SAFETY: the count was raised in a state that was open, so the caller wrote the
            // work before and waits for the count before anything of it goes.
            let work = unsafe { *self.work.get() };
            if let Some(work) = work
                && let Err(panic) = catch_unwind(AssertUnwindSafe(work))
            {
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a generation other than `done` and returns it.
    fn wait(&self, done: u64, asleep: &AtomicBool) -> u64 {
        let mut spins = 0;
        loop {
            let generation = self.state.load(Ordering::SeqCst) & !(GENERATION - 1);
            if generation != done {
                asleep.store(false, Ordering::Relaxed);
                return generation;
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else if !asleep.swap(true, Ordering::SeqCst) {
                // Once more: the caller may not have seen it.
            } else {
                std::thread::park();
            }
        }
    }

    /// Raises the count, unless this generation's work is closed.
    fn join(&self, generation: u64) -> bool {
        let begin = |state: u64| {
            let open = state & !(GENERATION - 1) == generation && state & CLOSED == 0;
            open.then_some(state + 1)
        };
        let joined = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, begin);
        joined.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Every index once, whoever takes it.
    fn visit(pool: &Pool, items: usize) -> Vec<usize> {
        let visits: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
        let next = AtomicUsize::new(0);
        pool.run(&|| {
            while let Some(visit) = visits.get(next.fetch_add(1, Ordering::Relaxed)) {
                visit.fetch_add(1, Ordering::Relaxed);
            }
        });
        visits.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn all_work_is_done_once_awake_or_asleep() {
        for threads in [0, 1, 2, 5] {
            let pool = Pool::new(threads);
            for round in 0..400 {
                assert_eq!(visit(&pool, 37), [1; 37]);
                if round % 100 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(3));
                }
            }
        }
    }

    /// Each returns when its own work is done, whoever has the pool.
    #[test]
    fn callers_do_not_wait_for_each_other() {
        let pool = Pool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|_| assert_eq!(visit(&pool, 9), [1; 9])));
            }
        });
    }

    #[test]
    fn work_within_work_runs() {
        let pool = Pool::new(3);
        let inner = AtomicUsize::new(0);
        pool.run(&|| {
            pool.run(&|| {
                inner.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert!((1..=3).contains(&inner.into_inner()));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|| std::panic::panic_any("of the work"));
            }));
            let panic = result.expect_err("the caller's own share panics");
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"of the work"));
            assert_eq!(visit(&pool, 9), [1; 9]);
        }
    }
}
