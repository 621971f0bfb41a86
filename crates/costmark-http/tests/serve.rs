//! The server in front of a mock backend, driven by this crate's own client.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{drive, options, request};
use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_core::{Backend, FinishReason, MonotonicClock};
use costmark_http::HttpBackend;
use costmark_http::serve::{RequestLog, ServeOptions, serve};

struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(config: MockConfig, options: ServeOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut mock = MockBackend::new(config, MockTime::Real(MonotonicClock::start()));
            serve(listener, &mut mock, &options, &|| {
                asked.load(Ordering::Relaxed)
            })
            .unwrap();
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    fn quick() -> Self {
        let config = MockConfig {
            ttft_ns: 10_000_000,
            itl_ns: 2_000_000,
            ..MockConfig::default()
        };
        Self::start(config, ServeOptions::default())
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends bytes as they are; the whole answer of a connection that is then closed.
    fn say(&self, method: &str, path: &str, body: &str) -> String {
        let mut socket = self.send(method, path, body);
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        socket
    }

    fn metric(&self, name: &str) -> f64 {
        let page = self.say("GET", "/metrics", "");
        let line = page
            .lines()
            .find(|l| l.starts_with(&format!("costmark_{name} ")));
        line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[track_caller]
    fn wait_for(&self, name: &str, value: f64) {
        let begin = Instant::now();
        while self.metric(name) < value {
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "{name} stays below {value}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn the_client_and_the_server_understand_each_other() {
    let server = Server::quick();
    for http2 in [false, true] {
        let mut options = options(&server.url());
        options.http2 = http2;
        let mut backend = HttpBackend::connect(options, MonotonicClock::start()).unwrap();
        assert!(backend.info().software.starts_with("costmark serve"));
        for id in 0..3 {
            let fate = drive(&mut backend, request(id, 12));
            assert_eq!(fate.failed, None);
            let (reason, usage, _) = fate.finished.unwrap();
            assert_eq!(reason, FinishReason::Length);
            assert_eq!((usage.input_tokens, usage.output_tokens), (8, 12));
            let tokens: u32 = fate.tokens.iter().map(|t| t.1).sum();
            assert_eq!(tokens, 12, "http2: {http2}");
            assert!(fate.tokens[0].0 - fate.sent_ns >= 10_000_000);
        }
    }
}

#[test]
fn whole_answers_and_streams() {
    let server = Server::quick();
    let body = r#"{"prompt":[1,2,3],"max_tokens":3,"return_token_ids":true}"#;
    let answer = server.say("POST", "/v1/completions", body);
    let json: serde_json::Value =
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(
        json["choices"][0]["text"], " 1 2 3",
        "ids where there is no tokenizer"
    );
    assert_eq!(
        json["choices"][0]["token_ids"],
        serde_json::json!([1, 2, 3])
    );
    assert_eq!(json["choices"][0]["finish_reason"], "length");
    assert_eq!(json["usage"]["total_tokens"], 6);
    let body =
        r#"{"prompt":[1],"max_tokens":2,"stream":true,"stream_options":{"include_usage":true}}"#;
    let answer = server.say("POST", "/v1/completions", body);
    let events: Vec<&str> = answer.lines().filter(|l| l.starts_with("data: ")).collect();
    // Two tokens, the reason, the counts, the end mark.
    assert_eq!(events.len(), 5, "{answer}");
    assert_eq!(events[4], "data: [DONE]");
    assert!(events[3].contains("\"completion_tokens\":2"));
}

#[test]
fn what_is_wrong_has_its_status() {
    let options = ServeOptions {
        max_body_bytes: 2000,
        ..ServeOptions::default()
    };
    let server = Server::start(MockConfig::default(), options);
    let long = format!(r#"{{"prompt":[{}1]}}"#, "1,".repeat(2000));
    for (method, path, body, status, words) in [
        ("GET", "/", "", 404, "/v1/completions"),
        ("GET", "/v1/completions", "", 405, "does not take GET"),
        ("POST", "/v1/completions", "{", 400, "no request"),
        (
            "POST",
            "/v1/completions",
            r#"{"prompt":"x"}"#,
            400,
            "no tokenizer",
        ),
        (
            "POST",
            "/v1/chat/completions",
            r#"{"messages":[]}"#,
            400,
            "chat template",
        ),
        ("POST", "/v1/completions", &long, 413, "larger than 2000"),
        ("GET", "/health", "", 200, "ok"),
        ("GET", "/v1/models", "", 200, "not a product"),
    ] {
        let answer = server.say(method, path, body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {answer}"
        );
        assert!(answer.contains(words), "{path}: {answer}");
    }
}

#[test]
fn a_failure_of_the_backend_is_told() {
    let config = MockConfig {
        fail_every: 1,
        ..MockConfig::default()
    };
    let server = Server::start(config, ServeOptions::default());
    for stream in [true, false] {
        let body = format!(r#"{{"prompt":[1],"stream":{stream}}}"#);
        let answer = server.say("POST", "/v1/completions", &body);
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        assert!(answer.contains("told to fail"), "{answer}");
    }
}

#[test]
fn who_goes_away_is_not_worked_for() {
    let server = Server::start(MockConfig::default(), ServeOptions::default());
    for (cancelled, stream) in [(1.0, true), (2.0, false)] {
        let body = format!(r#"{{"prompt":[1],"max_tokens":100000,"stream":{stream}}}"#);
        let mut socket = server.send("POST", "/v1/completions", &body);
        if stream {
            socket.read_exact(&mut [0; 100]).unwrap();
        } else {
            server.wait_for("requests_in_flight", 1.0);
        }
        drop(socket);
        server.wait_for("requests_cancelled_total", cancelled);
    }
    assert!(server.metric("requests_in_flight") < 1.0);
}

#[test]
fn a_full_server_says_when_to_come_back() {
    let options = ServeOptions {
        max_requests: 1,
        ..ServeOptions::default()
    };
    let server = Server::start(MockConfig::default(), options);
    let mut first = server.send(
        "POST",
        "/v1/completions",
        r#"{"prompt":[1],"stream":true,"max_tokens":90}"#,
    );
    first.read_exact(&mut [0; 10]).unwrap();
    let answer = server.say("POST", "/v1/completions", r#"{"prompt":[1]}"#);
    assert!(
        answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: 1"),
        "{answer}"
    );
}

/// The server's own record of a request agrees with what its client saw, and every way in which
/// a request can end is told apart.
#[test]
fn the_log_tells_each_request() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("served.jsonl");
    std::fs::write(&path, "{\"kept\":true}\n").unwrap();
    let config = MockConfig {
        ttft_ns: 30_000_000,
        itl_ns: 5_000_000,
        ..MockConfig::default()
    };
    let options = ServeOptions {
        log: Some(RequestLog::append(&path).unwrap()),
        max_requests: 2,
        ..ServeOptions::default()
    };
    let server = Server::start(config, options);
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut backend =
        HttpBackend::connect(common::options(&server.url()), MonotonicClock::start()).unwrap();
    let fate = drive(&mut backend, request(41, 12));
    let say = |body: &str| server.say("POST", "/v1/completions", body);
    assert!(say(r#"{"prompt":[1,2,3],"max_tokens":2}"#).contains("200 OK"));
    assert!(say("{").contains(" 400 "));
    let gone = [(); 2].map(|()| {
        let body = r#"{"prompt":[1],"max_tokens":100000,"stream":true}"#;
        let mut gone = server.send("POST", "/v1/completions", body);
        gone.read_exact(&mut [0; 10]).unwrap();
        gone
    });
    assert!(say(r#"{"prompt":[1]}"#).contains(" 429 "));
    drop(gone);
    server.wait_for("requests_cancelled_total", 2.0);
    drop(server);

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["kept"], true, "lines are added");
    let of = |outcome: &str| -> Vec<&serde_json::Value> {
        let lines = lines.iter();
        lines.filter(|line| line["outcome"] == outcome).collect()
    };
    let number = |line: &serde_json::Value, name: &str| line[name].as_u64().unwrap();
    let named: Vec<_> = lines.iter().filter(|l| l["request_id"] == "41").collect();
    assert_eq!(named.len(), 1, "{text}");
    let line = named[0];
    assert_eq!(
        (
            &line["outcome"],
            number(line, "prompt_tokens"),
            number(line, "output_tokens")
        ),
        (&"length".into(), 8, 12)
    );
    let received = Duration::from_nanos(number(line, "received_unix_ns"));
    assert!(received >= begun && received < begun + Duration::from_secs(20));
    let (first, last) = (
        number(line, "first_token_ns"),
        number(line, "last_token_ns"),
    );
    // The server sees a token before its client does, and the request after it.
    assert!(
        (30_000_000..=fate.tokens[0].0 - fate.sent_ns).contains(&first),
        "{line}"
    );
    let ended = number(line, "ended_ns");
    assert!(
        30_000_000 + 11 * 5_000_000 <= last && last <= ended,
        "{line}"
    );
    let whole = of("length");
    assert!(
        whole.iter().any(|line| number(line, "output_tokens") == 2),
        "{text}"
    );
    let refused = of("refused");
    assert_eq!(refused.len(), 2, "{text}");
    assert!(
        refused
            .iter()
            .all(|line| line["id"].is_null() && line["first_token_ns"].is_null())
    );
    let cancelled = of("cancelled");
    assert_eq!(cancelled.len(), 2, "{text}");
    assert!((1..100_000).contains(&number(cancelled[0], "output_tokens")));
}

/// A log that cannot be written does not stop the server, and is not kept from whoever started it.
#[test]
#[cfg(target_os = "linux")]
fn a_log_that_cannot_be_written_is_told_at_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = AtomicBool::new(false);
    let options = ServeOptions {
        log: Some(RequestLog::append("/dev/full".as_ref()).unwrap()),
        ..ServeOptions::default()
    };
    let ended = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut mock = MockBackend::new(
                MockConfig::default(),
                MockTime::Real(MonotonicClock::start()),
            );
            serve(listener, &mut mock, &options, &|| {
                stop.load(Ordering::Relaxed)
            })
        });
        for _ in 0..2 {
            let mut socket = TcpStream::connect(address).unwrap();
            let body = r#"{"prompt":[1],"max_tokens":1}"#;
            write!(
                socket,
                "POST /v1/completions HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            assert!(answer.contains("200 OK"), "{answer}");
        }
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap()
    });
    let error = ended.unwrap_err().to_string();
    assert!(
        error.contains("log of requests") && error.contains("No space"),
        "{error}"
    );
}

#[test]
fn stopping_lets_what_is_in_flight_end() {
    let server = Server::quick();
    let mut socket = server.send(
        "POST",
        "/v1/completions",
        r#"{"prompt":[1],"stream":true,"max_tokens":50}"#,
    );
    socket.read_exact(&mut [0; 10]).unwrap();
    server.stop.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    let refused = loop {
        assert!(begin.elapsed() < Duration::from_secs(10));
        let Ok(mut other) = TcpStream::connect(server.address) else {
            break true; // it ended between two looks
        };
        let asked = write!(
            other,
            "GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
        );
        let mut answer = String::new();
        if asked.is_err() || other.read_to_string(&mut answer).is_err() || answer.contains(" 503 ")
        {
            break true;
        }
    };
    assert!(refused);
    let mut rest = String::new();
    socket.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    let mut backend_gone = options(&server.url());
    drop(server);
    backend_gone.timeouts.connect = Duration::from_secs(1);
    assert!(HttpBackend::connect(backend_gone, MonotonicClock::start()).is_err());
}
