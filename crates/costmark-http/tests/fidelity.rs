//! What is reported is what the server did.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{MS, connect, drive, options, request, server};
use costmark_core::{Backend, FinishReason, MonotonicClock};
use costmark_http::scripted::{Act, Received, Script, Scripted, Truth, chunk, models_page};
use costmark_http::{ApiChoice, HttpBackend, PromptText};

fn event(data: &str) -> Act {
    Act::Write(chunk(format!("data: {data}\n\n").as_bytes()))
}

fn ended(script: Script) -> Script {
    script
        .then(event("[DONE]"))
        .then(Act::Write("0\r\n\r\n".into()))
}

/// The server's record of the `n`-th request of ten tokens; it is written just after the last.
fn truth(server: &Scripted, n: u64) -> Truth {
    let begin = std::time::Instant::now();
    loop {
        let truths = server.truths().into_iter();
        let found = truths.filter(|t| t.tokens.len() == 10).nth(n as usize);
        if let Some(found) = found {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "not recorded");
        std::thread::sleep(MS);
    }
}

#[test]
fn tokens_follow_their_sending_in_order_and_connections_are_kept() {
    let server = server(|r| {
        let n = r.field("max_tokens").unwrap().as_u64().unwrap();
        Script::tokens(8, u32::try_from(n).unwrap(), 30 * MS, 5 * MS)
    });
    let mut backend = connect(&server);
    for id in 0..3 {
        let fate = drive(&mut backend, request(id, 10));
        let truth = truth(&server, id);
        assert_eq!(fate.tokens.len(), 10, "{:?}", fate.failed);
        // The client cannot have seen a token before the server sent it.
        for (&(at_ns, tokens), sent) in fate.tokens.iter().zip(&truth.tokens) {
            assert_eq!(tokens, 1);
            assert!(u128::from(at_ns - fate.sent_ns) >= sent.as_nanos());
        }
        assert!(fate.tokens.windows(2).all(|w| w[0].0 <= w[1].0));
        let (reason, usage, at_ns) = fate.finished.unwrap();
        assert_eq!(reason, FinishReason::Length);
        assert_eq!((usage.input_tokens, usage.output_tokens), (8, 10));
        assert!(at_ns >= fate.tokens.last().unwrap().0);
    }
    let notes = backend.info().notes.join("\n");
    assert!(!notes.contains("sent again"), "{notes}");
    assert!(notes.contains("opened by requests: 1, in"), "{notes}");
    let whose = match cfg!(target_os = "linux") {
        true => "as the system's kernel tells",
        false => "read from the socket",
    };
    assert!(notes.contains(whose), "{notes}");
}

#[test]
fn an_idle_connection_that_was_closed_costs_no_request() {
    // Says that it keeps the connection, and does not.
    let server = server(|_| Script::tokens(8, 3, MS, MS).then(Act::Cut));
    let mut backend = connect(&server);
    for id in 0..10 {
        let fate = drive(&mut backend, request(id, 3));
        assert_eq!(fate.failed, None);
    }
}

#[test]
fn tokens_that_were_counted_and_not_seen_are_added_to_the_last_event() {
    let server =
        server(|r| {
            let told = if r.field("max_tokens") == Some(5.into()) {
                5
            } else {
                1
            };
            ended(
            Script::stream()
                .then(event(r#"{"choices":[{"text":"ab"}]}"#))
                .then(Act::Until(10 * MS))
                .then(event(r#"{"choices":[{"text":"cde","finish_reason":"length"}]}"#))
                .then(event(&format!(
                    r#"{{"choices":[],"usage":{{"prompt_tokens":11,"completion_tokens":{told}}}}}"#
                ))),
        )
        });
    let mut backend = connect(&server);
    let fate = drive(&mut backend, request(0, 5));
    let instants: Vec<u64> = fate.tokens.iter().map(|t| t.0).collect();
    let counts: Vec<u32> = fate.tokens.iter().map(|t| t.1).collect();
    assert_eq!(counts, [1, 1, 3]);
    assert_eq!(instants[1], instants[2]);
    let usage = fate.finished.unwrap().1;
    assert_eq!((usage.input_tokens, usage.output_tokens), (11, 5));
    // Fewer than arrived: what arrived stands.
    let fate = drive(&mut backend, request(1, 2));
    assert_eq!(fate.finished.unwrap().1.output_tokens, 2);
    let notes = backend.info().notes.join("\n");
    for words in [
        "more tokens than arrived",
        "fewer tokens than arrived",
        "+3.0 tokens",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
}

/// One token per character.
struct Letters;

impl PromptText for Letters {
    fn text(&self, ids: &[u32]) -> Option<String> {
        Some(
            ids.iter()
                .map(|id| char::from(b'a' + (id % 26) as u8))
                .collect(),
        )
    }

    fn count(&self, text: &str) -> u32 {
        text.chars().count() as u32
    }

    fn vocab_size(&self) -> u32 {
        26
    }
}

#[test]
fn without_the_servers_counts_a_tokenizer_counts() {
    // Neither ids nor stream options are taken, and chat is all there is.
    let server = Scripted::start(None, |r: &Received| {
        if r.method == "GET" {
            return models_page();
        }
        if r.path != "/v1/chat/completions" {
            return Script::json("404 Not Found", r#"{"detail":"Not Found"}"#);
        }
        for refused in ["stream_options", "ignore_eos", "min_tokens", "max_tokens"] {
            if r.field(refused).is_some() {
                let words = format!("Unsupported parameter: '{refused}'. Use another.");
                let page = serde_json::json!({"error": {"message": words}});
                return Script::json("400 Bad Request", &page.to_string());
            }
        }
        let content = r.field("messages").unwrap()[0]["content"].clone();
        let prompt = content.as_str().unwrap().to_owned();
        let mut script = Script::stream()
            .then(event(
                r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            ))
            .then(Act::Until(20 * MS));
        if r.field("max_completion_tokens") == Some(6.into()) {
            assert_eq!(prompt, "ffffffff", "text of eight tokens");
            script = script
                .then(event(r#"{"choices":[{"delta":{"reasoning":"xyz"}}]}"#))
                .then(Act::Until(40 * MS))
                .then(event(r#"{"choices":[{"delta":{"content":"abc"}}]}"#));
        }
        let last = r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#;
        ended(script.then(event(last)))
    })
    .unwrap();
    let mut options = options(&server.url());
    options.text = Some(Arc::new(Letters));
    let mut backend = HttpBackend::connect(options, MonotonicClock::start()).unwrap();
    assert_eq!(backend.vocab_size(), 26);
    let fate = drive(&mut backend, request(0, 6));
    assert_eq!(fate.failed, None);
    let counts: Vec<u32> = fate.tokens.iter().map(|t| t.1).collect();
    assert_eq!(counts, [1, 1, 4], "six letters in two events");
    let first_ms = (fate.tokens[0].0 - fate.sent_ns) / 1_000_000;
    assert!(first_ms >= 20, "the role is no token: {first_ms} ms");
    let notes = backend.info().notes.join("\n");
    for words in [
        "/v1/chat/completions",
        "refuses",
        "a tokenizer counts",
        "were reasoning",
        "1 of 1 requests began with reasoning",
        "1 came to content, after",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
}

#[test]
fn a_server_that_takes_nothing_says_why_for_each_way_to_ask() {
    let server = Scripted::start(None, |r: &Received| {
        if r.method == "GET" {
            return models_page();
        }
        let why = match r.path.as_str() {
            "/v1/chat/completions" => "no template",
            _ if r.field("prompt").is_some_and(|prompt| prompt.is_array()) => "no such id",
            _ => "no tokenizer",
        };
        let page = serde_json::json!({"error": {"message": why}});
        Script::json("400 Bad Request", &page.to_string())
    })
    .unwrap();
    let error = HttpBackend::connect(options(&server.url()), MonotonicClock::start());
    let error = error.err().unwrap().to_string();
    let mut rest = error.as_str();
    for words in [
        "token ids",
        "no such id",
        "text",
        "no tokenizer",
        "chat",
        "no template",
    ] {
        let (_, after) = rest
            .split_once(words)
            .unwrap_or_else(|| panic!("{words}: {error}"));
        rest = after;
    }
}

#[test]
fn a_server_that_stops_early_is_found_out() {
    let server = server(|_| {
        let stop = r#"{"choices":[{"text":"b","finish_reason":"stop"}]}"#;
        let first = event(r#"{"choices":[{"text":"a"}]}"#);
        ended(Script::stream().then(first).then(event(stop)))
    });
    let mut backend = connect(&server);
    let lengths = "exact lengths by max_tokens, ignore_eos, min_tokens";
    assert!(backend.info().notes[0].contains(lengths));
    let mut free = request(0, 6);
    free.ignore_eos = false;
    for (request, early) in [(free, false), (request(1, 2), false), (request(2, 6), true)] {
        let fate = drive(&mut backend, request);
        assert_eq!(fate.finished.unwrap().0, FinishReason::Stop);
        let notes = backend.info().notes.join("\n");
        assert_eq!(notes.contains("stopped before the exact length"), early);
    }
}

#[test]
fn a_server_that_miscounts_is_found_out() {
    for (told, lies) in [(6, false), (7, false), (12, true)] {
        let server = server(move |_| {
            let mut script = Script::stream();
            for _ in 0..6 {
                script = script.then(event(r#"{"choices":[{"text":"a"}]}"#));
            }
            let last = r#"{"choices":[{"text":"","finish_reason":"length"}]}"#;
            let usage = format!(
                r#"{{"choices":[],"usage":{{"prompt_tokens":8,"completion_tokens":{told}}}}}"#
            );
            ended(script.then(event(last)).then(event(&usage)))
        });
        let mut options = options(&server.url());
        options.text = Some(Arc::new(Letters));
        let mut backend = HttpBackend::connect(options, MonotonicClock::start()).unwrap();
        // Counted on another thread: some answers later the notes must have it.
        let warned = (0..200).any(|id| {
            let fate = drive(&mut backend, request(id, 6));
            assert_eq!(fate.failed, None);
            assert_eq!(fate.finished.unwrap().1.output_tokens, told.max(6));
            std::thread::sleep(if lies { MS } else { MS / 10 });
            let notes = backend.info().notes.join("\n");
            notes.contains("WARNING: the server's token counts and those of --tokenizer disagree")
        });
        assert_eq!(warned, lies, "{told} told for six letters");
    }
}

#[test]
fn without_streaming_only_the_end_is_seen() {
    let server = Scripted::start(None, |r: &Received| {
        if r.method == "GET" {
            return models_page();
        }
        assert_eq!(r.field("stream"), Some(false.into()));
        let n = r.field("max_tokens").unwrap();
        let page = serde_json::json!({
            "choices": [{"message": {"content": "a b c"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": n}
        });
        let mut script = Script::json("200 OK", &page.to_string());
        script.0.insert(0, Act::Until(20 * MS));
        script
    })
    .unwrap();
    let mut options = options(&server.url());
    options.stream = false;
    options.api = ApiChoice::Chat;
    let mut backend = HttpBackend::connect(options, MonotonicClock::start()).unwrap();
    let fate = drive(&mut backend, request(0, 6));
    assert_eq!(fate.failed, None);
    assert_eq!(fate.tokens.len(), 1);
    assert_eq!(fate.tokens[0].1, 6);
    assert_eq!(fate.finished.unwrap().0, FinishReason::Length);
}

#[test]
fn many_streams_on_several_threads_all_end() {
    let server = server(|r| {
        let n = r.field("max_tokens").unwrap().as_u64().unwrap();
        Script::tokens(8, u32::try_from(n).unwrap(), 10 * MS, 2 * MS)
    });
    let mut options = options(&server.url());
    options.threads = 3;
    options.timeouts.first_token = Duration::from_secs(20);
    options.timeouts.between_tokens = Duration::from_secs(20);
    let mut backend = HttpBackend::connect(options, MonotonicClock::start()).unwrap();
    for id in 0..200 {
        backend.submit(request(id, 10)).unwrap();
    }
    let (mut tokens, mut finished, mut events) = (0, 0, Vec::new());
    while finished < 200 {
        events.clear();
        backend.poll(None, &mut events).unwrap();
        for event in &events {
            match event {
                costmark_core::Event::Tokens(t) => tokens += t.tokens,
                costmark_core::Event::Finished { .. } => finished += 1,
                costmark_core::Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
    assert_eq!(tokens, 2000);
}
