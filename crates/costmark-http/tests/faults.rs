//! Whatever a server does, a request ends: well, or with the class of what went wrong.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use std::net::TcpListener;
use std::time::Duration;

use common::{MS, behaved, connect, drive, options, request, server};
use costmark_core::{ErrorClass, FinishReason, MonotonicClock};
use costmark_http::scripted::{Act, Script, Scripted, chunk, models_page, sse_token};
use costmark_http::{ConnectError, HttpBackend, Secrets};

fn two_tokens() -> Script {
    Script::stream()
        .then(Act::Token(sse_token(" a", None)))
        .then(Act::Until(5 * MS))
        .then(Act::Token(sse_token(" b", None)))
}

fn write(text: &str) -> Act {
    Act::Write(text.to_owned().into())
}

fn event(data: &str) -> Act {
    Act::Write(chunk(format!("data: {data}\n\n").as_bytes()))
}

/// Each fault, its class, words its message must have, and the tokens that came before.
#[test]
fn every_fault_has_its_class_and_the_next_request_is_served() {
    use ErrorClass as C;
    let comments = (1..20).fold(two_tokens(), |script, i| {
        script
            .then(Act::Until(i * 50 * MS))
            .then(Act::Write(chunk(b": still here\n\n")))
    });
    let faults: Vec<(&str, Script, C, &str, usize)> = vec![
        (
            "4xx",
            Script::json("400 Bad Request", r#"{"error":{"message":"too long"}}"#),
            C::Rejected,
            "too long",
            0,
        ),
        (
            "429",
            Script(vec![write(
                "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
            )]),
            C::RateLimited,
            "retry after 7",
            0,
        ),
        (
            "5xx",
            Script::page("503 Service Unavailable", "text/html", "<p>busy</p>"),
            C::ServerError,
            "<p>busy</p>",
            0,
        ),
        (
            "redirection",
            Script(vec![write(
                "HTTP/1.1 302 Found\r\nlocation: http://h/\r\ncontent-length: 0\r\n\r\n",
            )]),
            C::Malformed,
            "302",
            0,
        ),
        (
            "cut in the middle",
            two_tokens().then(Act::Cut),
            C::Disconnected,
            "cut short",
            2,
        ),
        (
            "ended without a word",
            two_tokens().then(write("0\r\n\r\n")),
            C::Disconnected,
            "after 2 tokens",
            2,
        ),
        (
            "cut before the answer",
            Script(vec![Act::Cut]),
            C::Disconnected,
            "before an answer",
            0,
        ),
        (
            "stall before the answer",
            Script(vec![Act::Hang]),
            C::FirstTokenTimeout,
            "0.4 s",
            0,
        ),
        (
            "stall before the first token",
            Script::stream().then(Act::Hang),
            C::FirstTokenTimeout,
            "0.4 s",
            0,
        ),
        (
            "stall between tokens",
            two_tokens().then(Act::Hang),
            C::TokenTimeout,
            "0.3 s",
            2,
        ),
        (
            "comments are no tokens",
            comments,
            C::TokenTimeout,
            "0.3 s",
            2,
        ),
        (
            "malformed SSE",
            Script::stream().then(Act::Write(chunk(b"<html>oops\n\n"))),
            C::Malformed,
            "<html>oops",
            0,
        ),
        (
            "bad UTF-8",
            Script::stream().then(Act::Write(chunk(b"data: \xff\xfe\n\n"))),
            C::Malformed,
            "UTF-8",
            0,
        ),
        (
            "invalid JSON",
            two_tokens().then(event("{\"choices\": [")),
            C::Malformed,
            "not the JSON",
            2,
        ),
        (
            "an error within the stream",
            two_tokens().then(event(r#"{"error":{"message":"CUDA died","code":500}}"#)),
            C::ServerError,
            "CUDA died",
            2,
        ),
        (
            "aborted",
            two_tokens()
                .then(event(
                    r#"{"choices":[{"text":"","finish_reason":"abort"}]}"#,
                ))
                .then(event("[DONE]")),
            C::ServerError,
            "aborted",
            2,
        ),
        (
            "JSON for a stream",
            Script::json("200 OK", r#"{"choices":[]}"#),
            C::Malformed,
            "one JSON document",
            0,
        ),
        (
            "not HTTP",
            Script(vec![write("SSH-2.0-OpenSSH_9.2\r\n\r\n")]),
            C::Malformed,
            "not HTTP",
            0,
        ),
        (
            "bad chunk length",
            two_tokens().then(write("zz\r\n")),
            C::Malformed,
            "not HTTP",
            2,
        ),
        (
            "no end of tokens",
            Script::tokens(8, 10_000, Duration::ZERO, Duration::ZERO),
            C::WrongOutput,
            "ignores the limit",
            0, // at least
        ),
    ];
    let names: Vec<_> = faults.iter().map(|f| (f.0, f.2, f.3, f.4)).collect();
    let scripts: Vec<Script> = faults.into_iter().map(|f| f.1).collect();
    let server = server(move |received| {
        // Tokens asked for choose the fault.
        let n = received.field("max_tokens").unwrap().as_u64().unwrap();
        match n.checked_sub(100) {
            Some(fault) => scripts[usize::try_from(fault).unwrap()].clone(),
            None => Script::tokens(8, u32::try_from(n).unwrap(), 2 * MS, MS),
        }
    });
    let mut backend = connect(&server);
    for (i, (name, class, words, tokens)) in (0u32..).zip(names) {
        let fate = drive(&mut backend, request(u64::from(i) * 2, 100 + i));
        let (found, message) = fate.failed.expect(name);
        assert_eq!(found, class, "{name}: {message}");
        assert!(message.contains(words), "{name}: {message}");
        assert!(fate.tokens.len() >= tokens, "{name}: {:?}", fate.tokens);
        let after = drive(&mut backend, request(u64::from(i) * 2 + 1, 3));
        assert!(after.finished.is_some(), "after {name}: {:?}", after.failed);
    }
}

#[test]
fn a_server_that_is_gone_refuses_each_request() {
    let server = server(|_| Script::tokens(8, 3, MS, MS));
    let mut backend = connect(&server);
    assert!(drive(&mut backend, request(0, 3)).finished.is_some());
    drop(server);
    for id in 1..4 {
        let (class, message) = drive(&mut backend, request(id, 3)).failed.unwrap();
        assert_eq!(class, ErrorClass::Connect, "{message}");
    }
}

#[test]
fn who_does_not_answer_at_all_is_told_before_anything_is_measured() {
    // Accepts, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let plain = server(|_| Script::default());
    let tls_on_plain = format!("https://localhost:{}", plain.address().port());
    for (url, words) in [
        ("http://nowhere.invalid:1".to_owned(), "cannot be resolved"),
        ("http://localhost:1".to_owned(), "no connection"),
        (tls_on_plain, "no TLS connection"),
        (format!("https://127.0.0.1:{port}"), "within 0.2 s"),
    ] {
        let mut options = options(&url);
        options.timeouts.connect = 200 * MS;
        let error = HttpBackend::connect(options, MonotonicClock::start())
            .err()
            .unwrap();
        assert!(
            matches!(&error, ConnectError::Run(m) if m.contains(words)),
            "{url}: {error}"
        );
    }
}

#[test]
fn characters_may_be_cut_anywhere_and_answers_may_be_long() {
    let server = server(|received| {
        let n = received.field("max_tokens").unwrap().as_u64().unwrap();
        if n == 2 {
            // One byte at a time, through the middle of characters.
            let stream = "data: {\"choices\":[{\"text\":\"漢🦀\"}]}\r\n\r\n".to_owned()
                + "data: {\"choices\":[{\"text\":\"é\",\"finish_reason\":\"length\"}]}\n\n"
                + "data: [DONE]\n\n";
            let mut script = Script::stream();
            for byte in stream.bytes() {
                script = script.then(Act::Write(chunk(&[byte])));
            }
            return script.then(write("0\r\n\r\n"));
        }
        Script::tokens(8, u32::try_from(n).unwrap(), Duration::ZERO, Duration::ZERO)
    });
    let mut backend = connect(&server);
    let fate = drive(&mut backend, request(0, 2));
    let tokens: u32 = fate.tokens.iter().map(|t| t.1).sum();
    assert_eq!((tokens, fate.failed), (2, None));
    let fate = drive(&mut backend, request(1, 100_000));
    let (reason, usage, _) = fate.finished.unwrap();
    assert_eq!(
        (reason, usage.output_tokens),
        (FinishReason::Length, 100_000)
    );
    let tokens: u32 = fate.tokens.iter().map(|t| t.1).sum();
    assert_eq!(tokens, 100_000);
}

#[test]
fn a_cancelled_request_leaves_the_server() {
    let server = server(|_| two_tokens().then(Act::Hang));
    let mut options = options(&server.url());
    options.timeouts.between_tokens = Duration::from_secs(60);
    let mut backend = HttpBackend::connect(options, MonotonicClock::start()).unwrap();
    use costmark_core::Backend;
    backend.submit(request(7, 50)).unwrap();
    let mut events = Vec::new();
    while !events
        .iter()
        .any(|e| matches!(e, costmark_core::Event::Tokens(_)))
    {
        backend.poll(None, &mut events).unwrap();
    }
    backend.cancel(7);
    let fate = common::wait(&mut backend);
    assert_eq!(fate.finished.unwrap().0, FinishReason::Cancelled);
    let begin = std::time::Instant::now();
    while !server.truths().iter().any(|t| t.client_left) {
        assert!(begin.elapsed() < Duration::from_secs(10), "still connected");
        std::thread::sleep(MS);
    }
}

#[test]
fn servers_that_repeat_keys_are_not_repeated() {
    let echo = |received: &costmark_http::scripted::Received| {
        let key = received.header("authorization").unwrap_or("").to_owned();
        let team = received.header("x-team").unwrap_or("").to_owned();
        match received.field("max_tokens").and_then(|n| n.as_u64()) {
            Some(100) => Script::json(
                "401 Unauthorized",
                &serde_json::json!({"error": {"message": format!("bad key {key} of {team}")}})
                    .to_string(),
            ),
            _ => Script::stream().then(event(&format!("{{\"error\":\"{key} {team}\"}}"))),
        }
    };
    let server = server(echo);
    let mut options = options(&server.url());
    options.secrets = Secrets::new(Some("sk-hush-hush"), Some("X-Team: blue-whale")).unwrap();
    let mut backend = HttpBackend::connect(options.clone(), MonotonicClock::start()).unwrap();
    for n in [100, 101] {
        let (_, message) = drive(&mut backend, request(u64::from(n), n))
            .failed
            .unwrap();
        assert!(message.contains("[hidden]"), "{message}");
        assert!(
            !message.contains("hush") && !message.contains("whale"),
            "{message}"
        );
    }
    // Nor before the measurement.
    let closed = Scripted::start(None, move |received| match echo(received) {
        _ if received.method == "GET" => {
            let key = received.header("authorization").unwrap();
            Script::page("403 Forbidden", "text/plain", key)
        }
        script => script,
    })
    .unwrap();
    options.endpoint = closed.url().parse().unwrap();
    let error = HttpBackend::connect(options, MonotonicClock::start())
        .err()
        .unwrap();
    let shown = error.to_string();
    assert!(shown.contains("403") && !shown.contains("hush"), "{shown}");
}

/// A certificate for `localhost` and the acceptor that shows it.
fn certificate() -> (String, tokio_rustls::TlsAcceptor) {
    use tokio_rustls::rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    (made.cert.pem(), std::sync::Arc::new(config).into())
}

#[test]
fn a_certificate_must_be_trusted() {
    let (pem, acceptor) = certificate();
    let server = Scripted::start(
        Some(acceptor),
        behaved(|_| Script::tokens(8, 3, 2 * MS, MS)),
    )
    .unwrap();
    let error = HttpBackend::connect(options(&server.url()), MonotonicClock::start())
        .err()
        .unwrap();
    assert!(error.to_string().contains("no TLS connection"), "{error}");

    let file = std::env::temp_dir().join(format!("costmark-ca-{}.pem", std::process::id()));
    std::fs::write(&file, pem).unwrap();
    let mut options = options(&server.url());
    options.ca_file = Some(file.clone());
    let mut backend = HttpBackend::connect(options, MonotonicClock::start()).unwrap();
    let fate = drive(&mut backend, request(0, 3));
    std::fs::remove_file(file).unwrap();
    assert_eq!(fate.failed, None);
    assert_eq!(fate.tokens.iter().map(|t| t.1).sum::<u32>(), 3);
}

#[test]
fn a_server_that_ignores_the_limit_is_told_at_once() {
    let server = Scripted::start(None, |received| match received.method.as_str() {
        "GET" => models_page(),
        _ => Script::tokens(8, 40, Duration::ZERO, Duration::ZERO),
    })
    .unwrap();
    let error = HttpBackend::connect(options(&server.url()), MonotonicClock::start())
        .err()
        .unwrap();
    assert!(error.to_string().contains("ignores max_tokens"), "{error}");
}
