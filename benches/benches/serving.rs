//! What serving costs: one engine, driven in its own process and through `serve` over HTTP, in
//! turns.
//!
//! Random Q8_0 weights of the Qwen3-0.6B shape, 16 streams, 64 prompt and 64 output tokens, 32
//! measured requests a turn. Weights are loaded once, so that both run on the same pages; two
//! neighbouring turns are a pair, which of them comes first alternates, and what is told is the
//! median of the pairs' ratios: a machine that is slower an hour later is so for both. The client
//! over HTTP is a process of its own, on the same cores.
//!
//! `cargo bench --bench serving -- [PAIRS] [FILE]`, on a machine that has nothing else to do; 20
//! pairs take about a quarter of an hour. FILE keeps the pairs, and those that it holds already
//! count. Ends with 1 where less than 97 % is reached.

#![allow(clippy::print_stdout)] // It is what a bench is for.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use costmark_core::{
    Backend, BackendError, BackendInfo, Event, MonotonicClock, Replica, Request, RequestId,
    Sampling, StepRecord,
};
use costmark_engine::{
    Checkpoint, EngineBackend, EngineOptions, FormatChoice, OpenOptions, TensorFormat, WeightChoice,
};
use costmark_http::serve::{ServeOptions, serve};
use costmark_http::{HttpBackend, HttpOptions};
use costmark_load::{
    ClosedLoop, LengthDistribution, NullRecorder, Stop, StopSignal, UnitRun, Warmup, Workload,
};
use costmark_metrics::{UnitInput, summarise};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const STREAMS: NonZeroU32 = NonZeroU32::MIN.saturating_add(15);
const REQUESTS: u64 = 32;
const TOKENS: u32 = 64;
const PAIRS: usize = 20;
/// Least share of the engine's throughput that is to be reached.
const LEAST: f64 = 0.97;
/// Tells the child that it is the client, of which server, in which turn.
const ROLE: &str = "COSTMARK_SERVING";

fn main() -> Result<ExitCode> {
    if let Ok(role) = std::env::var(ROLE) {
        let (url, turn) = role.split_once(' ').ok_or("a URL and a turn are needed")?;
        let clock = MonotonicClock::start();
        let mut backend = HttpBackend::connect(HttpOptions::new(url.parse()?), clock)?;
        let turn = load(&mut backend, turn.parse()?)?;
        println!("{} {} {}", turn.tok_per_s, turn.begin_ns, turn.end_ns);
        return Ok(ExitCode::SUCCESS);
    }
    let (mut wanted, mut file) = (PAIRS, None);
    for argument in std::env::args().skip(1).filter(|a| a != "--bench") {
        match argument.parse() {
            Ok(pairs) => wanted = pairs,
            Err(_) => file = Some(PathBuf::from(argument)),
        }
    }
    let mut kept = match &file {
        Some(file) if file.exists() => read(&std::fs::read_to_string(file)?)?,
        _ => Vec::new(),
    };
    let mut engine = Logged::new(engine()?);
    for number in 0..wanted {
        let turn = 2 * u32::try_from(number)?;
        let pair = if number % 2 == 0 {
            let inside = in_process(&mut engine, turn)?;
            [inside, over_http(&mut engine, turn + 1)?]
        } else {
            let behind = over_http(&mut engine, turn)?;
            [in_process(&mut engine, turn + 1)?, behind]
        };
        let line = pair.map(|figures| figures.line()).join(" ");
        println!("pair {}: {line}", kept.len() + 1);
        if let Some(file) = &file {
            let mut file = File::options().append(true).create(true).open(file)?;
            writeln!(file, "{line}")?;
        }
        kept.push(pair);
    }
    Ok(tell(&kept))
}

/// What a turn brought.
#[derive(Debug, Clone, Copy)]
struct Figures {
    tok_per_s: f64,
    /// Of the engine's steps within the turn.
    steps: f64,
    decoding: f64,
    step_ms: f64,
    /// Share of the turn that lies in no step.
    between: f64,
}

impl Figures {
    fn all(&self) -> [f64; 5] {
        let Self {
            tok_per_s,
            steps,
            decoding,
            step_ms,
            between,
        } = *self;
        [tok_per_s, steps, decoding, step_ms, between]
    }

    fn of([tok_per_s, steps, decoding, step_ms, between]: [f64; 5]) -> Self {
        Self {
            tok_per_s,
            steps,
            decoding,
            step_ms,
            between,
        }
    }

    fn line(&self) -> String {
        self.all().map(|figure| format!("{figure:.5}")).join(" ")
    }
}

/// Pairs as they were written.
fn read(text: &str) -> Result<Vec<[Figures; 2]>> {
    let pair = |line: &str| -> Result<[Figures; 2]> {
        let figures: Vec<f64> = line
            .split(' ')
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?;
        let (inside, behind) = figures
            .split_at_checked(5)
            .ok_or("ten figures are a pair")?;
        Ok([
            Figures::of(inside.try_into()?),
            Figures::of(behind.try_into()?),
        ])
    };
    text.lines().map(pair).collect()
}

fn tell(pairs: &[[Figures; 2]]) -> ExitCode {
    println!("\n| | output tok/s | steps | sequences decoding | step ms | between steps % |");
    println!("|---|---:|---:|---:|---:|---:|");
    for (which, name) in ["in process", "over HTTP"].into_iter().enumerate() {
        let middle = |of: fn(&Figures) -> f64| median(pairs.iter().map(|pair| of(&pair[which])));
        println!(
            "| {name} | {:.1} | {:.0} | {:.2} | {:.2} | {:.2} |",
            middle(|f| f.tok_per_s),
            middle(|f| f.steps),
            middle(|f| f.decoding),
            middle(|f| f.step_ms),
            middle(|f| 100.0 * f.between),
        );
    }
    let ratios: Vec<f64> = pairs
        .iter()
        .map(|[i, b]| b.tok_per_s / i.tok_per_s)
        .collect();
    let share = median(ratios.iter().copied());
    let (low, high) = interval(&ratios);
    let met = share >= LEAST;
    println!(
        "\nover HTTP: {:.2} % of in process, median of {} pairs; 95 % interval {:.2} to {:.2} \
         (bootstrap); at least {:.0} % is wanted: {}",
        100.0 * share,
        ratios.len(),
        100.0 * low,
        100.0 * high,
        100.0 * LEAST,
        if met { "met" } else { "MISSED" }
    );
    ExitCode::from(u8::from(!met))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// The central 95 % of the medians of what is drawn from `values` with replacement.
fn interval(values: &[f64]) -> (f64, f64) {
    const DRAWS: usize = 10_000;
    let mut state = 1_u64;
    let mut draw = || {
        // A linear congruential generator (Knuth); its upper half is random enough for this.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        values[(state >> 33) as usize % values.len()]
    };
    let mut medians: Vec<f64> = (0..DRAWS)
        .map(|_| median((0..values.len()).map(|_| draw())))
        .collect();
    medians.sort_unstable_by(f64::total_cmp);
    (medians[DRAWS / 40], medians[DRAWS - 1 - DRAWS / 40])
}

/// A turn as its driver saw it, on the wall clock.
struct Turn {
    tok_per_s: f64,
    begin_ns: u64,
    end_ns: u64,
}

fn load(backend: &mut dyn Backend, unit: u32) -> Result<Turn> {
    let plan = ClosedLoop {
        warmup: Warmup {
            max_requests_per_slot: 1,
            ..Warmup::default()
        },
        ..ClosedLoop::new(STREAMS, Stop::Requests(REQUESTS))
    };
    let workload = Workload {
        input: LengthDistribution::Fixed(TOKENS),
        output: LengthDistribution::Fixed(TOKENS),
        vocab_size: 100_000,
        seed: 1,
        ignore_eos: true,
        sampling: Sampling::Greedy,
    };
    let signal = StopSignal::new();
    let run: UnitRun = plan.run(unit, backend, &workload, &mut NullRecorder, &signal);
    if !run.is_complete() || run.failed() > 0 {
        return Err(format!("turn {unit}: {:?}, {} failed", run.error, run.failed()).into());
    }
    let summary = summarise(&UnitInput {
        concurrency: run.concurrency,
        start_ns: run.start_ns,
        end_ns: run.end_ns,
        requests: &run.requests,
        background: &run.background,
        steps: &[],
        replicas: 1,
        roofline: None,
        slo: None,
    });
    let wall_ns = wall_ahead_ns(backend.now_ns())?;
    Ok(Turn {
        tok_per_s: summary.throughput.output_tok_per_s,
        begin_ns: wall_ns + run.start_ns,
        end_ns: wall_ns + run.end_ns,
    })
}

/// What the wall clock is ahead of one that reads `now_ns`.
fn wall_ahead_ns(now_ns: u64) -> Result<u64> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(wall.as_nanos())? - now_ns)
}

fn engine() -> Result<EngineBackend> {
    let checkpoint = Checkpoint::open(&OpenOptions {
        weights: WeightChoice::Synthetic { seed: 1 },
        format: FormatChoice::All(TensorFormat::Q8_0),
        ..OpenOptions::new("qwen3-0.6b")
    })?;
    let options = EngineOptions {
        max_context: Some(2 * TOKENS),
        max_sequences: STREAMS.get(),
        prefix_cache: false,
        ..EngineOptions::default()
    };
    Ok(EngineBackend::open(
        checkpoint,
        &options,
        MonotonicClock::start(),
    )?)
}

fn in_process(engine: &mut Logged, unit: u32) -> Result<Figures> {
    engine.steps.clear();
    let turn = load(engine, unit)?;
    engine.figures(&turn)
}

fn over_http(engine: &mut Logged, unit: u32) -> Result<Figures> {
    engine.steps.clear();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let stop = AtomicBool::new(false);
    let turn = std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let stopped = || stop.load(Ordering::Relaxed);
            serve(listener, engine, &ServeOptions::default(), &stopped)
        });
        let client = std::env::current_exe().and_then(|program| {
            Command::new(program)
                .env(ROLE, format!("{url} {unit}"))
                .output()
        });
        stop.store(true, Ordering::Relaxed);
        serving.join().map_err(|_| "the server panicked")??;
        let client = client?;
        let said = String::from_utf8(client.stdout)?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let [tok_per_s, begin_ns, end_ns] = words[..] else {
            return Err(String::from_utf8_lossy(&client.stderr).into());
        };
        Ok::<_, Box<dyn Error>>(Turn {
            tok_per_s: tok_per_s.parse()?,
            begin_ns: begin_ns.parse()?,
            end_ns: end_ns.parse()?,
        })
    })?;
    engine.figures(&turn)
}

/// An engine whose steps are kept.
struct Logged {
    engine: EngineBackend,
    steps: Vec<StepRecord>,
}

impl Logged {
    fn new(engine: EngineBackend) -> Self {
        Self {
            engine,
            steps: Vec::new(),
        }
    }

    fn figures(&self, turn: &Turn) -> Result<Figures> {
        let ahead_ns = wall_ahead_ns(self.engine.now_ns())?;
        let within = |step: &&StepRecord| {
            turn.begin_ns <= ahead_ns + step.start_ns && ahead_ns + step.end_ns <= turn.end_ns
        };
        let steps: Vec<&StepRecord> = self.steps.iter().filter(within).collect();
        let n = steps.len() as f64;
        let sum = |of: fn(&StepRecord) -> f64| steps.iter().map(|step| of(step)).sum::<f64>();
        let in_steps_ms = sum(|step| (step.end_ns - step.start_ns) as f64 / 1e6);
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
            return Err("no step fell into the turn".into());
        };
        Ok(Figures {
            tok_per_s: turn.tok_per_s,
            steps: n,
            decoding: sum(|step| f64::from(step.decode.sequences)) / n,
            step_ms: in_steps_ms / n,
            between: 1.0 - in_steps_ms * 1e6 / (last.end_ns - first.start_ns) as f64,
        })
    }
}

impl Backend for Logged {
    fn info(&self) -> &BackendInfo {
        self.engine.info()
    }

    fn now_ns(&self) -> u64 {
        self.engine.now_ns()
    }

    fn submit(&mut self, request: Request) -> std::result::Result<(), BackendError> {
        self.engine.submit(request)
    }

    fn cancel(&mut self, id: RequestId) {
        self.engine.cancel(id);
    }

    fn poll(
        &mut self,
        until_ns: Option<u64>,
        events: &mut Vec<Event>,
    ) -> std::result::Result<(), BackendError> {
        let before = events.len();
        let polled = self.engine.poll(until_ns, events);
        self.steps
            .extend(events[before..].iter().filter_map(|event| match event {
                Event::Step(step) => Some(*step),
                _ => None,
            }));
        polled
    }

    fn ringing(&mut self) -> Option<&mut dyn Replica> {
        self.engine.ringing()
    }
}
