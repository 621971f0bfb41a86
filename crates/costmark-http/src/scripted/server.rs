//! The server that plays scripts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::script::{Act, Script};

const MAX_REQUEST_BYTES: usize = 64 << 20;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// `GET` or `POST`.
    pub method: String,
    /// The path.
    pub path: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Received {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A field of the JSON body.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<serde_json::Value> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        body.get(name).cloned()
    }
}

/// When a request was answered, as the server saw it.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// From its receipt to each token.
    pub tokens: Vec<Duration>,
    /// The client left before the script had ended.
    pub client_left: bool,
}

type Play = dyn Fn(&Received) -> Script + Send + Sync;

struct Stage {
    play: Box<Play>,
    truths: Mutex<Vec<Truth>>,
}

/// A running server on a loopback port of its own. Ends when dropped.
pub struct Scripted {
    address: SocketAddr,
    tls: bool,
    stage: Arc<Stage>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    /// Starts it. `play` chooses the script of each request.
    ///
    /// # Errors
    /// The system refuses a port or a thread.
    pub fn start(
        tls: Option<TlsAcceptor>,
        play: impl Fn(&Received) -> Script + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        crate::listen::prepare(&listener)?;
        let address = listener.local_addr()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let stage = Arc::new(Stage {
            play: Box::new(play),
            truths: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let on_stage = Arc::clone(&stage);
        let secure = tls.is_some();
        let thread = std::thread::Builder::new()
            .name("scripted-server".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::spawn(accept(listener, tls, on_stage));
                    _ = stopped.await;
                });
                runtime.shutdown_background();
            })?;
        Ok(Self {
            address,
            tls: secure,
            stage,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://localhost:{}", self.address.port())
    }

    /// What it recorded of requests whose script has ended, in the order they ended.
    #[must_use]
    pub fn truths(&self) -> Vec<Truth> {
        self.stage.lock().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            _ = thread.join(); // a panic has been printed
        }
    }
}

impl Stage {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Truth>> {
        self.truths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, stage: Arc<Stage>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others may close.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        _ = socket.set_nodelay(true);
        let (stage, tls) = (Arc::clone(&stage), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => converse(socket, &stage).await,
                Some(tls) => match tls.accept(socket).await {
                    Ok(socket) => converse(socket, &stage).await,
                    Err(error) => Err(error),
                },
            }
        });
    }
}

/// Plays the script of each request of a connection.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    stage: &Stage,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some((received, begin)) = read_request(&mut socket, &mut buffer).await? {
        let Script(acts) = (stage.play)(&received);
        let mut truth = Truth::default();
        let played = play(&mut socket, acts, begin, &mut truth).await;
        truth.client_left = played.is_err();
        stage.lock().push(truth);
        if !played? {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether the connection goes on.
async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    acts: Vec<Act>,
    begin: Instant,
    truth: &mut Truth,
) -> io::Result<bool> {
    for act in acts {
        match act {
            Act::Until(at) => {
                if begin.elapsed() < at {
                    tokio::time::sleep_until((begin + at).into()).await;
                }
            }
            Act::Write(bytes) => socket.write_all(&bytes).await?,
            Act::Token(bytes) => {
                truth.tokens.push(begin.elapsed());
                socket.write_all(&bytes).await?;
            }
            Act::Hang => {
                // Reads until the client closes, or sends what nobody answers.
                while socket.read(&mut [0; 1024]).await? > 0 {}
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Act::Cut => return Ok(false),
        }
    }
    socket.flush().await?;
    Ok(true)
}

/// The next request and when its last bytes left the socket; `None` when the client has closed.
async fn read_request<S: AsyncRead + Unpin>(
    socket: &mut S,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(Received, Instant)>> {
    let mut arrived = Instant::now();
    loop {
        if let Some((received, used)) = parse(buffer)? {
            buffer.drain(..used);
            return Ok(Some((received, arrived)));
        }
        if buffer.len() > MAX_REQUEST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
        arrived = Instant::now();
    }
}

/// A request and its length in bytes, once all of it is there.
fn parse(buffer: &[u8]) -> io::Result<Option<(Received, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let status = request
        .parse(buffer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let httparse::Status::Complete(head) = status else {
        return Ok(None);
    };
    let headers: Vec<(String, String)> = request
        .headers
        .iter()
        .map(|header| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_ascii_lowercase(), value)
        })
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse::<usize>().ok())
        .unwrap_or(0);
    let Some(body) = buffer.get(head..head.saturating_add(length)) else {
        return Ok(None);
    };
    let received = Received {
        method: request.method.unwrap_or_default().into(),
        path: request.path.unwrap_or_default().into(),
        headers,
        body: body.to_vec(),
    };
    Ok(Some((received, head + length)))
}
