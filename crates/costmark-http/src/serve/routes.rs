//! Connections and paths.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use costmark_core::{BackendInfo, BackendKind, ErrorClass, RequestError};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

use super::ServeOptions;
use super::answer::{Answering, EventStream, Guard, Style, stopped};
use super::asked::{Asked, Terms};
use super::log::Entry;
use super::metrics::Metrics;
use super::pump::{Command, Orders, Piece};
use super::text::Detokenizer;
use crate::wire::REQUEST_ID;

type Page = Response<BoxBody<Bytes, Infallible>>;

/// What every connection knows.
pub(crate) struct Desk {
    options: ServeOptions,
    model: Arc<str>,
    max_context: u32,
    max_sequences: u32,
    vocab_size: Option<u64>,
    /// What serves computes a distribution.
    logprobs: bool,
    software: String,
    commands: Orders,
    metrics: Arc<Metrics>,
    next_id: AtomicU64,
    in_flight: Arc<AtomicUsize>,
    closed: AtomicBool,
}

/// Counts a request for as long as it lives.
struct Place {
    in_flight: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.metrics.change(|values| values.in_flight -= 1);
    }
}

impl Desk {
    pub(crate) fn new(
        info: &BackendInfo,
        options: &ServeOptions,
        commands: Orders,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            options: options.clone(),
            model: info.model.as_str().into(),
            max_context: info.max_context,
            max_sequences: info.max_sequences,
            vocab_size: info.shape.map(|shape| shape.vocab_size),
            logprobs: matches!(info.kind, BackendKind::Engine | BackendKind::Lockstep),
            software: info.software.clone(),
            commands,
            metrics,
            next_id: AtomicU64::new(1),
            in_flight: Arc::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Takes no further requests.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn enter(&self) -> Result<Place, Refusal> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the server is stopping",
            ));
        }
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.metrics.change(|values| values.in_flight += 1);
        let place = Place {
            in_flight: Arc::clone(&self.in_flight),
            metrics: Arc::clone(&self.metrics),
        };
        if before >= self.options.max_requests {
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "as many requests as are allowed are running or waiting",
            ));
        }
        Ok(place)
    }

    fn models(&self) -> Value {
        json!({"object": "list", "data": [{
            "id": &*self.model,
            "object": "model",
            "created": now_s(),
            "owned_by": "costmark",
            "max_model_len": self.max_context,
            "meta": {
                "n_vocab": self.vocab_size,
                "max_sequences": self.max_sequences,
                "version": env!("CARGO_PKG_VERSION"),
                "software": self.software,
                "purpose": "a target to measure and a demonstration, not a product",
            },
        }]})
    }

    async fn answer(&self, request: Request<Incoming>) -> Page {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let get = method == Method::GET;
        let answered = match path.as_str() {
            "/health" if get => Ok(if self.closed.load(Ordering::Relaxed) {
                json_page(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &json!({"status": "stopping"}),
                )
            } else {
                json_page(StatusCode::OK, &json!({"status": "ok"}))
            }),
            "/v1/models" if get => Ok(json_page(StatusCode::OK, &self.models())),
            "/metrics" if get => {
                let mut page = page(StatusCode::OK, self.metrics.page());
                let kind = HeaderValue::from_static("text/plain; version=0.0.4");
                page.headers_mut().insert(CONTENT_TYPE, kind);
                Ok(page)
            }
            "/v1/completions" if method == Method::POST => self.complete(request, false).await,
            "/v1/chat/completions" if method == Method::POST => self.complete(request, true).await,
            "/health" | "/v1/models" | "/metrics" | "/v1/completions" | "/v1/chat/completions" => {
                let words = format!("{path} does not take {method}");
                Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, words))
            }
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                format!(
                    "{path} is not served; /v1/completions, /v1/chat/completions, /v1/models, \
                     /health and /metrics are"
                ),
            )),
        };
        answered.unwrap_or_else(Refusal::page)
    }

    async fn complete(&self, request: Request<Incoming>, chat: bool) -> Result<Page, Refusal> {
        let name = request.headers().get(REQUEST_ID);
        let name = name.and_then(|name| name.to_str().ok()).map(str::to_owned);
        let mut entry = Entry::begin(self.options.log.clone(), name);
        let place = self.enter()?;
        let body = self.body(request).await?;
        let wrong = |words: String| Refusal::new(StatusCode::BAD_REQUEST, words);
        let asked: Asked = serde_json::from_slice(&body)
            .map_err(|error| wrong(format!("the body is no request: {error}")))?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let terms = Terms {
            model: &self.model,
            max_context: self.max_context,
            text: self.options.text.as_deref(),
            chat: self.options.chat.as_deref(),
            logprobs: self.logprobs,
        };
        let request = asked.request(id, chat, &terms).map_err(wrong)?;
        let style = Style {
            chat,
            model: Arc::clone(&self.model),
            created: now_s(),
            include_usage: asked.include_usage(),
            token_ids: asked.return_token_ids(),
            logprobs: request.logprobs.is_some(),
        };
        let prompt_tokens = request.prompt.len();
        let (sender, mut pieces) = unbounded_channel();
        let gone = |_| Refusal::from(stopped());
        self.commands
            .send(Command::Submit(request, sender))
            .map_err(gone)?;
        entry.submitted(id, prompt_tokens);
        let mut guard = Guard {
            id,
            commands: self.commands.clone(),
            ended: false,
        };
        let detokenizer = Detokenizer::new(self.options.text.clone());
        if asked.stream != Some(true) {
            let answering = Answering::new(style, guard, entry, pieces, detokenizer);
            let whole = answering.whole().await;
            drop(place);
            return Ok(json_page(StatusCode::OK, &whole?));
        }
        // A refusal has a status of its own as long as nothing was sent.
        let first = match pieces.recv().await {
            Some(Piece::Failed(error)) => {
                guard.ended = true;
                entry.failed();
                return Err(error.into());
            }
            Some(piece) => piece,
            None => {
                entry.failed();
                return Err(stopped().into());
            }
        };
        let answering = Answering::new(style, guard, entry, pieces, detokenizer);
        let stream = EventStream::new(answering, first).map_frame(move |frame| {
            _ = &place; // given back when the stream ends
            frame
        });
        let mut page = Response::new(BoxBody::new(stream));
        let kind = HeaderValue::from_static("text/event-stream");
        page.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(page)
    }

    async fn body(&self, request: Request<Incoming>) -> Result<Bytes, Refusal> {
        let limit = self.options.max_body_bytes;
        match Limited::new(request.into_body(), limit).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {limit} bytes"),
            )),
            Err(error) => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("the body cannot be read: {error}"),
            )),
        }
    }
}

/// An answer that is an error.
struct Refusal {
    status: StatusCode,
    words: String,
}

impl Refusal {
    fn new(status: StatusCode, words: impl Into<String>) -> Self {
        Self {
            status,
            words: words.into(),
        }
    }

    fn page(self) -> Page {
        let kind = if self.status.is_server_error() {
            "server_error"
        } else {
            "invalid_request_error"
        };
        let error = json!({"error": {"message": self.words, "type": kind,
            "code": self.status.as_u16()}});
        let mut page = json_page(self.status, &error);
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            page.headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        page
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        let status = match error.class {
            ErrorClass::Rejected => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.message)
    }
}

fn page(status: StatusCode, text: String) -> Page {
    let mut page = Response::new(BoxBody::new(Full::new(Bytes::from(text))));
    *page.status_mut() = status;
    page
}

fn json_page(status: StatusCode, value: &Value) -> Page {
    let mut page = page(status, value.to_string());
    let kind = HeaderValue::from_static("application/json");
    page.headers_mut().insert(CONTENT_TYPE, kind);
    page
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Takes connections until told to halt.
pub(crate) async fn accept(listener: StdListener, desk: Arc<Desk>, halted: oneshot::Receiver<()>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return; // The pump finds the channel closed and says so.
    };
    tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                // Out of descriptors, most likely: others may close.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            // A token is a packet: waiting to fill one would be measured as ITL.
            _ = socket.set_nodelay(true);
            let desk = Arc::clone(&desk);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let desk = Arc::clone(&desk);
                    async move { Ok::<_, Infallible>(desk.answer(request).await) }
                });
                // A client that goes away in the middle is no fault of ours.
                _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
        }
    });
    _ = halted.await;
    // Time for the last bytes to leave.
    tokio::time::sleep(Duration::from_millis(50)).await;
}
