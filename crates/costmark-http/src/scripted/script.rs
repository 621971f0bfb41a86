//! What a scripted server does with a request.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;

/// One thing to do. Instants count from the receipt of the request.
#[derive(Debug, Clone)]
pub enum Act {
    /// Wait until this long after the receipt.
    Until(Duration),
    /// Send these bytes.
    Write(Bytes),
    /// Send these bytes and record the instant, since they bring a token.
    Token(Bytes),
    /// Send nothing more until the client leaves.
    Hang,
    /// Close the connection at once.
    Cut,
}

/// What is done with one request, in order. The connection is kept open after it.
#[derive(Debug, Clone, Default)]
pub struct Script(pub Vec<Act>);

impl Script {
    /// An answer with this status and JSON body.
    #[must_use]
    pub fn json(status: &str, body: &str) -> Self {
        Self::page(status, "application/json", body)
    }

    /// An answer with this status and body.
    #[must_use]
    pub fn page(status: &str, content_type: &str, body: &str) -> Self {
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self(vec![Act::Write(head.into())])
    }

    /// The head of an event stream; what follows is for the caller to add.
    #[must_use]
    pub fn stream() -> Self {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        Self(vec![Act::Write(Bytes::from_static(head.as_bytes()))])
    }

    /// A whole stream: the first of `tokens` after `ttft`, each further one `itl` later, then
    /// the counts and the end mark.
    #[must_use]
    pub fn tokens(prompt_tokens: u32, tokens: u32, ttft: Duration, itl: Duration) -> Self {
        let mut script = Self::stream();
        let (middle, last) = (sse_token(" tok", None), sse_token(" tok", Some("length")));
        for i in 0..tokens {
            script.0.push(Act::Until(ttft + itl * i));
            let token = if i + 1 == tokens { &last } else { &middle };
            script.0.push(Act::Token(token.clone()));
        }
        script.end(prompt_tokens, tokens)
    }

    /// Adds the counts, the end mark and the end of the body.
    #[must_use]
    pub fn end(mut self, prompt_tokens: u32, completion_tokens: u32) -> Self {
        let usage = format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt_tokens},\
             \"completion_tokens\":{completion_tokens}}}}}\n\ndata: [DONE]\n\n"
        );
        let mut bytes = chunk(usage.as_bytes()).to_vec();
        bytes.extend_from_slice(b"0\r\n\r\n");
        self.0.push(Act::Write(bytes.into()));
        self
    }

    /// Adds an act.
    #[must_use]
    pub fn then(mut self, act: Act) -> Self {
        self.0.push(act);
        self
    }
}

/// Bytes as one chunk of a chunked body.
#[must_use]
pub fn chunk(data: &[u8]) -> Bytes {
    let mut head = String::new();
    // Writing to a string cannot fail.
    _ = write!(head, "{:x}\r\n", data.len());
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

/// The event of one token of a completion, as one chunk.
#[must_use]
pub fn sse_token(text: &str, finish_reason: Option<&str>) -> Bytes {
    let event = serde_json::json!({
        "id": "cmpl-0123456789abcdef0123456789abcdef",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "scripted",
        "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason}],
        "usage": null,
    });
    chunk(format!("data: {event}\n\n").as_bytes())
}

/// The list of models of a server that has one.
#[must_use]
pub fn models_page() -> Script {
    let page =
        r#"{"object":"list","data":[{"id":"scripted","object":"model","owned_by":"scripted"}]}"#;
    Script::json("200 OK", page)
}
