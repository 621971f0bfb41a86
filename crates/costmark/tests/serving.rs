//! `costmark serve` as a process with the real engine: who goes away frees memory, what asks
//! it to stop stops it.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml's leave covers #[test] functions.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Place;
use costmark_core::{MonotonicClock, Request, Sampling};
use costmark_engine::{Checkpoint, Decoder, EngineCore, EngineOptions, OpenOptions};
use serde_json::{Value, json};

/// Longest any test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(place: &Place) -> Self {
        // Room for an answer that takes longer than the client stays, and for the token ids that
        // `costmark run` asks a server with.
        let file = place.path().join("tiny/config.json");
        let config = std::fs::read_to_string(&file).unwrap();
        let config = config.replace("_embeddings\": 256", "_embeddings\": 4096");
        let config = config.replace("vocab_size\": 256", "vocab_size\": 4096");
        std::fs::write(&file, config).unwrap();
        Self::of(place, &["--model", "tiny", "--weights", "synthetic"])
    }

    fn of(place: &Place, model: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_costmark"))
            .current_dir(place.path())
            .arg("serve")
            .args(model)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--threads",
                "1",
                "--no-prefix-cache",
            ])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut all = String::new();
        let address = loop {
            let begin = all.len();
            let n = said.read_line(&mut all).unwrap();
            assert!(n > 0, "it ended: {all}");
            if let Some((_, rest)) = all[begin..].split_once("http://") {
                let address = rest.split([',', ' ', '\n']).next().unwrap();
                break address.to_owned();
            }
        };
        // Nobody reads on; what it still says must not block it.
        std::thread::spawn(move || _ = said.read_to_string(&mut String::new()));
        Self { child, address }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        socket
    }

    fn get(&self, path: &str) -> String {
        self.say("GET", path, "")
    }

    /// The body of the answer.
    fn say(&self, method: &str, path: &str, body: &str) -> String {
        let mut answer = String::new();
        let mut socket = self.send(method, path, body);
        socket.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// The choice of an answer that is not streamed.
    fn choice(&self, path: &str, body: &Value) -> Value {
        let answer = self.say("POST", path, &body.to_string());
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"].is_null(), "{answer}");
        answer["choices"][0].clone()
    }

    /// The choices of the events of a stream.
    fn choices(&self, path: &str, body: &Value) -> Vec<Value> {
        let answer = self.say("POST", path, &body.to_string());
        let events = answer.lines().filter_map(|l| l.strip_prefix("data: "));
        events
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str::<Value>(data).unwrap()["choices"][0].clone())
            .collect()
    }

    fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics");
        let line = page
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}"))
            .parse()
            .unwrap()
    }

    fn wait_for(&self, name: &str, good: impl Fn(f64) -> bool) {
        let begin = Instant::now();
        while !good(self.metric(name)) {
            assert!(
                begin.elapsed() < PATIENCE,
                "{name} stays at {}",
                self.metric(name)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn ask(max_tokens: u32) -> String {
    format!(r#"{{"prompt":[5,6,7,8],"max_tokens":{max_tokens},"ignore_eos":true,"stream":true}}"#)
}

#[test]
fn kv_blocks_of_a_client_that_left_are_free_again() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut gone = server.send("POST", "/v1/completions", &ask(4000));
    gone.read_exact(&mut [0; 200]).unwrap();
    drop(gone);
    server.wait_for("costmark_requests_cancelled_total", |n| n == 1.0);
    assert_eq!(server.metric("costmark_requests_finished_total"), 0.0);
    let page = server.get("/metrics");
    for line in page.lines() {
        let mut words = line.split(' ');
        match words.next().unwrap() {
            "#" => assert!(["HELP", "TYPE"].contains(&words.next().unwrap()), "{line}"),
            name => {
                let letters = |c: char| c.is_ascii_lowercase() || c == '_';
                assert!(
                    name.starts_with("costmark_") && name.chars().all(letters),
                    "{line}"
                );
                words.next().unwrap().parse::<f64>().unwrap();
                assert_eq!(words.next(), None, "{line}");
                assert!(page.contains(&format!("# TYPE {name} ")), "{line}");
            }
        }
    }
    // The gauge is of the latest step: one more request, and nothing but its blocks are held.
    let mut rest = String::new();
    let mut other = server.send("POST", "/v1/completions", &ask(2));
    other.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    server.wait_for("costmark_kv_blocks_used", |n| n <= 1.0);
    assert!(server.metric("costmark_kv_blocks_total") > 1.0);
}

#[test]
fn signals_let_what_is_in_flight_end_and_stop_the_server() {
    for name in ["INT", "TERM"] {
        let place = Place::new();
        let mut server = Server::start(&place);
        let mut stream = server.send("POST", "/v1/completions", &ask(400));
        stream.read_exact(&mut [0; 200]).unwrap();
        server.signal(name);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("data: [DONE]"), "{name}: {rest}");
        let status = server.wait();
        assert_eq!(status.code(), Some(0), "{name}: {status}");
        assert!(TcpStream::connect(&server.address).is_err(), "{name}");
    }
}

/// A trained checkpoint with a tokenizer, and a template beside it.
fn golden(place: &Place) -> String {
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../costmark-engine/tests/golden/qwen3"
    );
    let folder = place.path().join("qwen3");
    std::fs::create_dir(&folder).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(format!("{golden}/{file}"), folder.join(file)).unwrap();
    }
    let template = r#"{"chat_template":"{% for m in messages %}{{ m.content }}{% endfor %}"}"#;
    std::fs::write(folder.join("tokenizer_config.json"), template).unwrap();
    folder.to_str().unwrap().to_owned()
}

/// Log-probabilities of every token of the vocabulary before each greedy token, and those
/// tokens, by the engine in this process.
fn expected(folder: &str, prompt: &[u32], max_tokens: u32) -> Vec<(u32, Vec<f64>)> {
    let mut checkpoint = Checkpoint::open(&OpenOptions::new(folder)).unwrap();
    let decoder = Decoder::load(&checkpoint.config, checkpoint.weights.as_mut()).unwrap();
    let clock = MonotonicClock::start();
    let mut engine = EngineCore::new(decoder, &EngineOptions::default(), clock).unwrap();
    let (sender, rows) = std::sync::mpsc::channel();
    engine.observe_logits(Box::new(move |_, _, row| {
        sender.send(row.to_vec()).unwrap();
    }));
    let request = Request {
        id: 0,
        prompt: prompt.to_vec(),
        max_tokens,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        logprobs: None,
    };
    engine.add_request(&request).unwrap();
    while !engine.is_idle() {
        engine.step(&mut Vec::new()).unwrap();
    }
    let softmax = |row: Vec<f32>| {
        let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
        let logprobs: Vec<f64> = row.iter().map(|&l| f64::from(l) - sum.ln()).collect();
        let greatest = (0..logprobs.len()).max_by(|&a, &b| logprobs[a].total_cmp(&logprobs[b]));
        (u32::try_from(greatest.unwrap()).unwrap(), logprobs)
    };
    rows.try_iter().map(softmax).collect()
}

#[track_caller]
fn close(told: &Value, expected: f64) {
    let told = told.as_f64().unwrap();
    assert!((told - expected).abs() < 1e-3, "{told} for {expected}");
}

#[test]
fn log_probabilities_are_those_of_the_engine() {
    let place = Place::new();
    let folder = golden(&place);
    let server = Server::of(&place, &["--model", &folder]);
    let tokenizer = Checkpoint::open(&OpenOptions::new(folder.as_str())).unwrap();
    let tokenizer = tokenizer.tokenizer.unwrap().load().unwrap();
    let text = "the quick brown fox";
    let prompt = tokenizer.encode_plain(text).unwrap();
    let expected = expected(&folder, &prompt, 8);
    let ids: Vec<u32> = expected.iter().map(|(id, _)| *id).collect();

    let ask = json!({"prompt": prompt, "max_tokens": 8, "ignore_eos": true, "temperature": 0,
        "logprobs": 3, "return_token_ids": true});
    let whole = server.choice("/v1/completions", &ask);
    assert_eq!(whole["token_ids"], json!(ids));
    let told = &whole["logprobs"];
    let written = whole["text"].as_str().unwrap();
    for (i, (id, logprobs)) in expected.iter().enumerate() {
        close(&told["token_logprobs"][i], logprobs[*id as usize]);
        let name = told["tokens"][i].as_str().unwrap();
        close(&told["top_logprobs"][i][name], logprobs[*id as usize]);
        assert_eq!(told["top_logprobs"][i].as_object().unwrap().len(), 3);
        if !name.starts_with("token_id:") {
            let offset = usize::try_from(told["text_offset"][i].as_u64().unwrap()).unwrap();
            let here: String = written.chars().skip(offset).collect();
            // Bytes that were no character yet may stand before it.
            assert!(here.contains(name), "{name} in {here}");
        }
    }

    let mut ask = ask;
    ask["stream"] = true.into();
    let events = server.choices("/v1/completions", &ask);
    let events: Vec<&Value> = events.iter().filter(|c| !c["logprobs"].is_null()).collect();
    assert_eq!(events.len(), 8, "one token an event");
    for (i, event) in events.iter().enumerate() {
        for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(
                event["logprobs"][key],
                json!([told[key][i]]),
                "{key} of {i}"
            );
        }
    }

    let ask = json!({"messages": [{"role": "user", "content": text}], "max_tokens": 8,
        "min_tokens": 8, "temperature": 0, "logprobs": true, "top_logprobs": 2});
    let chat = server.choice("/v1/chat/completions", &ask);
    let content = chat["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 8);
    for (told, (id, logprobs)) in content.iter().zip(&expected) {
        close(&told["logprob"], logprobs[*id as usize]);
        let top = told["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"]), (2, &told["token"]));
        let mut sorted = logprobs.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        close(&top[1]["logprob"], sorted[1]);
    }
    // Nothing is told to who does not ask.
    let ask = json!({"prompt": prompt, "max_tokens": 2});
    assert!(server.choice("/v1/completions", &ask)["logprobs"].is_null());
}

#[test]
fn each_unit_has_what_the_server_told_of_it() {
    let place = Place::new();
    let server = Server::start(&place);
    // What was before the run is no unit's.
    _ = server.say("POST", "/v1/completions", &ask(50));
    let endpoint = format!("http://{}", server.address);
    let args = ["run", "--endpoint", &endpoint, "--price", "1"];
    let lengths = ["--input-len", "8..24", "--output-len", "8"];
    let load = ["--concurrency", "1,3", "--requests", "6", "--repeats", "2"];
    let mut run = place.costmark(&[&args[..], &lengths, &load, &["-o", "run"]].concat());
    common::stdout(&mut run);
    let lines = common::lines(&place.path().join("run/requests.jsonl"));
    let document = place.document("run");
    let units = document["units"].as_array().unwrap();
    assert_eq!(units.len(), 4);
    for unit in units {
        let is_cancelled = |line: &Value| line["outcome"]["reason"] == "cancelled";
        let of_unit = |line: &Value| {
            line["unit"]["level"] == unit["level"] && line["unit"]["repeat"] == unit["repeat"]
        };
        let ended = lines.iter().filter(|l| of_unit(l) && !is_cancelled(l));
        // What is cancelled as a unit ends the server may count before or after that.
        let cancelled = lines.iter().filter(|l| is_cancelled(l));
        let sum = |lines: &mut dyn Iterator<Item = &Value>, key: &str| -> f64 {
            lines.map(|line| line[key].as_f64().unwrap()).sum()
        };
        let told = &unit["server"];
        let prefill = sum(&mut ended.clone(), "input_tokens");
        let more = sum(&mut cancelled.clone(), "input_tokens");
        let range = prefill..=prefill + more;
        assert!(
            range.contains(&told["prefill_tokens"].as_f64().unwrap()),
            "{range:?}: {told}"
        );
        let decode = sum(&mut ended.clone(), "output_tokens");
        let range = decode..=decode + 8.0 * cancelled.count() as f64;
        assert!(
            range.contains(&told["decode_tokens"].as_f64().unwrap()),
            "{range:?}: {told}"
        );
        let measured_s =
            (unit["end_ns"].as_f64().unwrap() - unit["start_ns"].as_f64().unwrap()) / 1e9;
        let seconds = |key: &str| told[key].as_f64().unwrap();
        assert!(seconds("span_s") >= measured_s, "{told}");
        assert!(seconds("prefill_s") + seconds("decode_s") > 0.0, "{told}");
    }
}
