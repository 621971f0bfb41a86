//! How true and how cheap the client is: against a server on this machine that keeps its own
//! record, first token after 50 ms, then one every 10 ms, closed loop, 4 requests per stream.
//!
//! Client and server are two processes that share the machine's cores. Beside the client stands
//! a bare socket reader, which parses nothing: what the machine allows. An error is the client's
//! mean less the server's mean. A stream's first request opens its connection, which a server
//! accepts when it comes to that: time that the client's user waits and the server does not see.
//! So the client is judged by the requests on open connections; beside them stands the error of
//! all.
//!
//! `cargo bench -p costmark-http --bench streams`, on a machine that has nothing else to do. Ends
//! with 1 where a target is missed.

#![allow(clippy::print_stdout)] // It is what a bench is for.

use std::collections::HashMap;
use std::error::Error;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use costmark_core::{Backend, Event, MonotonicClock, Request, Sampling};
use costmark_http::scripted::{Received, Script, Scripted, Truth, models_page};
use costmark_http::{HttpBackend, HttpOptions};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TOKENS: u32 = 100;
const REQUESTS_PER_STREAM: u64 = 4;
const TTFT: Duration = Duration::from_millis(50);
const ITL: Duration = Duration::from_millis(10);
/// Streams, and the TTFT error that is allowed at them, in milliseconds.
const LEVELS: [(u64, f64); 4] = [(1, 0.2), (100, 0.6), (500, 1.5), (1000, 2.5)];
/// Streams of the one level to measure; all where it is not set.
const ONLY: &str = "COSTMARK_STREAMS_ONLY";
/// Says to the child what it is: reader, URL, streams.
const ROLE: &str = "COSTMARK_STREAMS";

fn main() -> Result<ExitCode> {
    if let Ok(role) = std::env::var(ROLE) {
        let words: Vec<&str> = role.split(' ').collect();
        let [reader, url, streams] = words[..] else {
            return Err(format!("{ROLE}={role}: three words are needed").into());
        };
        let figures = match reader {
            "client" => client(url, streams.parse()?)?,
            _ => bare(url, streams.parse()?)?,
        };
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(ExitCode::SUCCESS);
    }

    let only = std::env::var(ONLY).ok();
    let only = only.as_deref().map(str::parse::<u64>).transpose()?;
    println!(
        "{TOKENS} tokens per request, {REQUESTS_PER_STREAM} requests per stream; \
         errors are mean(client) − mean(server)\n"
    );
    println!(
        "| streams | reader | TTFT error ms | on open connections | ITL error ms | ITL σ ms | server's σ ms | tok/s | \
         CPU µs/token | KiB/stream |"
    );
    println!("|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut verdicts = Vec::new();
    let wanted = |streams: u64| only.is_none_or(|only| only == streams);
    for (streams, allowed_ms) in LEVELS.into_iter().filter(|level| wanted(level.0)) {
        let bare = measure("bare", streams)?;
        let client = measure("client", streams)?;
        let at = |what: &str| format!("{what} at {streams}");
        let error_ms = client.kept_ttft_error_ms;
        verdicts.push((
            at("TTFT error on open connections, ms"),
            error_ms,
            allowed_ms,
        ));
        if streams == 500 {
            let off = (client.seen.itl_sd_ms - client.server_itl_sd_ms).abs();
            verdicts.push((at("ITL σ off the server's, ms"), off, 1.0));
        }
        if streams == 1000 {
            let lost = 1.0 - client.seen.tokens_per_s / bare.seen.tokens_per_s;
            verdicts.push((at("tok/s lost to the bare reader, %"), 100.0 * lost, 3.0));
            let cpu = client.seen.cpu_us_per_token;
            verdicts.push((at("CPU per token event, µs"), cpu, 15.0));
            verdicts.push((
                at("memory per stream, KiB"),
                client.seen.kib_per_stream,
                64.0,
            ));
        }
    }
    println!("\n| target | measured | at most | |\n|---|---:|---:|---|");
    let mut missed = false;
    for (what, measured, most) in verdicts {
        // A figure that could not be read is no figure that was met.
        let met = measured <= most;
        missed |= !met;
        let verdict = if met { "met" } else { "MISSED" };
        println!("| {what} | {measured:.3} | {most} | {verdict} |");
    }
    Ok(ExitCode::from(u8::from(missed)))
}

/// What a reader saw.
#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    ttft_ms: f64,
    /// Without the first request of each stream, which opens the connection.
    kept_ttft_ms: f64,
    itl_ms: f64,
    itl_sd_ms: f64,
    tokens_per_s: f64,
    cpu_us_per_token: f64,
    kib_per_stream: f64,
}

struct Compared {
    seen: Figures,
    kept_ttft_error_ms: f64,
    server_itl_sd_ms: f64,
}

/// Lets a child read, and puts what it saw beside what the server did.
fn measure(reader: &str, streams: u64) -> Result<Compared> {
    // Made once: what the server computes is time that the client's core has not.
    let answer = Script::tokens(8, TOKENS, TTFT, ITL);
    let server = Scripted::start(None, move |received: &Received| {
        if received.method == "GET" {
            return models_page();
        }
        let asked = received.field("max_tokens").and_then(|n| n.as_u64());
        if asked == Some(u64::from(TOKENS)) {
            answer.clone()
        } else {
            let few = asked.and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
            Script::tokens(8, few, Duration::ZERO, Duration::ZERO)
        }
    })?;
    let child = Command::new(std::env::current_exe()?)
        .env(ROLE, format!("{reader} {} {streams}", server.url()))
        .output()?;
    if !child.status.success() {
        let said = String::from_utf8_lossy(&child.stderr).into_owned();
        return Err(format!("{reader} at {streams} streams: {said}").into());
    }
    let seen: Figures = serde_json::from_slice(&child.stdout)?;
    let truth = truth(&server.truths(), streams);
    let kept_ttft_error_ms = seen.kept_ttft_ms - truth.kept_ttft.mean_ms();
    println!(
        "| {streams} | {reader} | {:.3} | {kept_ttft_error_ms:.3} | {:.3} | {:.3} | {:.3} | {:.0} | {:.2} | {:.1} |",
        seen.ttft_ms - truth.ttft.mean_ms(),
        seen.itl_ms - truth.itl.mean_ms(),
        seen.itl_sd_ms,
        truth.itl.sd_ms(),
        seen.tokens_per_s,
        seen.cpu_us_per_token,
        seen.kib_per_stream,
    );
    Ok(Compared {
        kept_ttft_error_ms,
        server_itl_sd_ms: truth.itl.sd_ms(),
        seen,
    })
}

/// Count, sum and sum of squares of durations.
#[derive(Debug, Default, Clone, Copy)]
struct Moments {
    n: f64,
    sum_ms: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, ns: u64) {
        let ms = ns as f64 / 1e6;
        self.n += 1.0;
        self.sum_ms += ms;
        self.squares += ms * ms;
    }

    fn mean_ms(&self) -> f64 {
        self.sum_ms / self.n
    }

    fn sd_ms(&self) -> f64 {
        (self.squares / self.n - self.mean_ms().powi(2))
            .max(0.0)
            .sqrt()
    }
}

/// Instants of tokens, as they come.
#[derive(Debug, Default)]
struct Latencies {
    ttft: Moments,
    /// Of requests on a connection that was open.
    kept_ttft: Moments,
    itl: Moments,
}

impl Latencies {
    /// A token at `at_ns` of a request whose token before, or sending, was at `last_ns`.
    fn token(&mut self, first: bool, kept: bool, last_ns: u64, at_ns: u64) {
        let took_ns = at_ns.saturating_sub(last_ns);
        let moments = if first { &mut self.ttft } else { &mut self.itl };
        moments.add(took_ns);
        if first && kept {
            self.kept_ttft.add(took_ns);
        }
    }
}

/// The first `streams` of them opened their connections.
fn truth(truths: &[Truth], streams: u64) -> Latencies {
    let mut latencies = Latencies::default();
    let whole = truths.iter().filter(|t| t.tokens.len() == TOKENS as usize);
    for (index, truth) in whole.enumerate() {
        let kept = index as u64 >= streams;
        let mut last = Duration::ZERO;
        for (i, &at) in truth.tokens.iter().enumerate() {
            let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
            latencies.token(i == 0, kept, ns(last), ns(at));
            last = at;
        }
    }
    latencies
}

/// What the process has used, by Linux' own books.
struct Usage {
    cpu_ns: f64,
    resident_kib: f64,
}

impl Usage {
    fn now() -> Result<Self> {
        let mut cpu_ns = 0.0;
        for task in std::fs::read_dir("/proc/self/task")? {
            let Ok(line) = std::fs::read_to_string(task?.path().join("schedstat")) else {
                continue; // It ended meanwhile.
            };
            let on_cpu = line.split(' ').next().unwrap_or_default();
            cpu_ns += on_cpu.parse::<f64>()?;
        }
        let status = std::fs::read_to_string("/proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|kib| kib.trim().strip_suffix(" kB"));
        Ok(Self {
            cpu_ns,
            resident_kib: resident.ok_or("no VmRSS")?.parse()?,
        })
    }
}

/// Figures from what was used before, in the middle and at the end.
fn figures(
    seen: &Latencies,
    tokens: u64,
    streams: u64,
    took: Duration,
    [before, middle, after]: [&Usage; 3],
) -> Figures {
    Figures {
        ttft_ms: seen.ttft.mean_ms(),
        kept_ttft_ms: seen.kept_ttft.mean_ms(),
        itl_ms: seen.itl.mean_ms(),
        itl_sd_ms: seen.itl.sd_ms(),
        tokens_per_s: tokens as f64 / took.as_secs_f64(),
        cpu_us_per_token: (after.cpu_ns - before.cpu_ns) / tokens as f64 / 1e3,
        kib_per_stream: (middle.resident_kib - before.resident_kib) / streams as f64,
    }
}

fn client(url: &str, streams: u64) -> Result<Figures> {
    let options = HttpOptions::new(url.parse()?);
    let mut backend = HttpBackend::connect(options, MonotonicClock::start())?;
    let request = |id| Request {
        id,
        prompt: vec![5; 8],
        max_tokens: TOKENS,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    };
    let total = streams * REQUESTS_PER_STREAM;
    let (before, begin) = (Usage::now()?, Instant::now());
    let mut middle = None;
    let mut submitted = streams;
    for id in 0..streams {
        backend.submit(request(id))?;
    }
    let mut last: HashMap<u64, (bool, u64)> = HashMap::new();
    let (mut seen, mut tokens, mut ended) = (Latencies::default(), 0, 0);
    let mut events = Vec::new();
    while ended < total {
        backend.poll(None, &mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Sent { request, at_ns } => _ = last.insert(request, (true, at_ns)),
                Event::Tokens(token) => {
                    let (first, last_ns) = last
                        .insert(token.request, (false, token.at_ns))
                        .ok_or("a token before its request")?;
                    seen.token(first, token.request >= streams, last_ns, token.at_ns);
                    tokens += u64::from(token.tokens);
                }
                Event::Finished { request: id, .. } => {
                    last.remove(&id);
                    ended += 1;
                    if submitted < total {
                        backend.submit(request(submitted))?;
                        submitted += 1;
                    }
                }
                Event::Failed { error, .. } => return Err(error.message.into()),
                Event::Step(_) | Event::TokenRun(_) | Event::Logprobs(_) => {}
            }
        }
        if middle.is_none() && ended >= total / 2 {
            middle = Some(Usage::now()?);
        }
    }
    let (took, after) = (begin.elapsed(), Usage::now()?);
    if tokens != total * u64::from(TOKENS) {
        return Err(format!("{tokens} tokens of {}", total * u64::from(TOKENS)).into());
    }
    let middle = middle.as_ref().unwrap_or(&after);
    Ok(figures(
        &seen,
        tokens,
        streams,
        took,
        [&before, middle, &after],
    ))
}

/// Reads bytes and looks for where events begin, nothing else.
fn bare(url: &str, streams: u64) -> Result<Figures> {
    let address = url.strip_prefix("http://").ok_or("no http address")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let clock = Instant::now();
    let (before, begin) = (Usage::now()?, Instant::now());
    let (seen, tokens, middle) = runtime.block_on(async {
        let tasks: Vec<_> = (0..streams)
            .map(|_| tokio::spawn(bare_stream(address.to_owned(), clock)))
            .collect();
        let (mut seen, mut tokens, mut middle) = (Latencies::default(), 0, None);
        for task in tasks {
            let (stream, n) = task.await?.map_err(|error| error.to_string())?;
            for (all, one) in [
                (&mut seen.ttft, stream.ttft),
                (&mut seen.kept_ttft, stream.kept_ttft),
                (&mut seen.itl, stream.itl),
            ] {
                all.n += one.n;
                all.sum_ms += one.sum_ms;
                all.squares += one.squares;
            }
            tokens += n;
            if middle.is_none() {
                middle = Some(Usage::now()?);
            }
        }
        Ok::<_, Box<dyn Error>>((seen, tokens, middle))
    })?;
    let (took, after) = (begin.elapsed(), Usage::now()?);
    let middle = middle.as_ref().unwrap_or(&after);
    Ok(figures(
        &seen,
        tokens,
        streams,
        took,
        [&before, middle, &after],
    ))
}

async fn bare_stream(address: String, clock: Instant) -> std::io::Result<(Latencies, u64)> {
    const TOKEN: &[u8] = b"\"text\":";
    const END: &[u8] = b"0\r\n\r\n";
    let now_ns = || u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let body = format!("{{\"max_tokens\":{TOKENS}}}");
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (mut latencies, mut tokens) = (Latencies::default(), 0);
    let mut socket = None;
    let mut buffer = vec![0; 16 << 10];
    for index in 0..REQUESTS_PER_STREAM {
        let mut last_ns = now_ns();
        let socket = match &mut socket {
            Some(socket) => socket,
            empty => {
                let opened = tokio::net::TcpStream::connect(&address).await?;
                opened.set_nodelay(true)?;
                empty.insert(opened)
            }
        };
        socket.write_all(request.as_bytes()).await?;
        let mut first = true;
        loop {
            let n = socket.read(&mut buffer).await?;
            let at_ns = now_ns();
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let bytes = &buffer[..n];
            // The server writes each event at once, so this word is not cut.
            for _ in bytes.windows(TOKEN.len()).filter(|w| *w == TOKEN) {
                latencies.token(first, index > 0, last_ns, at_ns);
                (first, last_ns) = (false, at_ns);
                tokens += 1;
            }
            if bytes.ends_with(END) {
                break;
            }
        }
    }
    Ok((latencies, tokens))
}
