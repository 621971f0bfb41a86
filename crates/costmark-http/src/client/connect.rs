//! Connections: name, socket, TLS, protocol; each step with its own class of failure.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use costmark_core::{ErrorClass, MonotonicClock, RequestError};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::HttpOptions;
use super::arrival::{Arrival, Receiver, Stamp, Stamped};
use super::endpoint::Endpoint;
use super::error::{ConnectError, failure};

/// Larger buffers make long prompts slower and cost memory per stream; smaller ones split
/// the largest events.
const READ_BUFFER_BYTES: usize = 64 << 10;

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

type Socket = TokioIo<Box<dyn Duplex>>;
type Connection = http1::Connection<Socket, Full<Bytes>>;

/// A connection a request can be sent on.
pub(crate) enum Line {
    H1(H1),
    H2(H2),
}

/// One request at a time. Whoever waits for the answer also drives the connection, which
/// saves a switch between tasks per token.
pub(crate) struct H1 {
    pub(crate) sender: http1::SendRequest<Full<Bytes>>,
    connection: Option<Pin<Box<Connection>>>,
    pub(crate) stamp: Stamp,
}

/// Many requests at a time; a task of its own drives the connection.
#[derive(Clone)]
pub(crate) struct H2 {
    pub(crate) sender: http2::SendRequest<Full<Bytes>>,
    pub(crate) stamp: Stamp,
}

impl Line {
    /// When what was read last came.
    pub(crate) fn arrival(&self) -> Arrival {
        match self {
            Self::H1(line) => line.stamp.get(),
            Self::H2(line) => line.stamp.get(),
        }
    }

    /// Moves bytes; an error is the connection's end.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> Result<(), hyper::Error> {
        if let Self::H1(line) = self
            && let Some(connection) = &mut line.connection
            && let Poll::Ready(ended) = connection.as_mut().poll(cx)
        {
            line.connection = None;
            return ended;
        }
        Ok(())
    }

    /// Whether another request can be sent now.
    pub(crate) fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        if self.drive(cx).is_err() {
            return false;
        }
        match self {
            Self::H1(line) => {
                line.connection.is_some()
                    && matches!(line.sender.poll_ready(cx), Poll::Ready(Ok(())))
            }
            Self::H2(line) => matches!(line.sender.poll_ready(cx), Poll::Ready(Ok(()))),
        }
    }
}

/// Spawns HTTP/2's own tasks beside ours.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Opens connections to one endpoint.
pub(crate) struct Connector {
    endpoint: Endpoint,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    http2: bool,
    clock: MonotonicClock,
    /// Shared by all sockets of the thread.
    receiver: Option<Rc<RefCell<Receiver>>>,
    /// What the name resolved to; asked once, since resolving takes threads and time.
    addresses: RefCell<Vec<SocketAddr>>,
}

impl Connector {
    pub(crate) fn new(
        options: &HttpOptions,
        tls: Option<&Arc<ClientConfig>>,
        clock: MonotonicClock,
    ) -> Result<Self, ConnectError> {
        let endpoint = options.endpoint.clone();
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from(endpoint.host_name().to_owned()).map_err(|_| {
                    ConnectError::Input(format!("{} is no host name", endpoint.host_name()))
                })?;
                Some((TlsConnector::from(Arc::clone(config)), name))
            }
        };
        Ok(Self {
            endpoint,
            tls,
            http2: options.http2,
            clock,
            receiver: Receiver::new().map(RefCell::new).map(Rc::new),
            addresses: RefCell::default(),
        })
    }

    pub(crate) async fn connect(&self) -> Result<Line, RequestError> {
        let stamp = Stamp::default();
        let socket = self.socket().await?;
        let receiver = self.receiver.clone();
        let socket = Stamped::new(socket, self.clock, Rc::clone(&stamp), receiver);
        let Some((tls, name)) = &self.tls else {
            return handshake(Box::new(socket), self.http2, stamp).await;
        };
        let socket = tls.connect(name.clone(), socket).await.map_err(|error| {
            let words = format!("no TLS connection to {}: {error}", self.endpoint);
            failure(ErrorClass::Tls, words)
        })?;
        let http2 = self.http2 || socket.get_ref().1.alpn_protocol() == Some(b"h2");
        handshake(Box::new(socket), http2, stamp).await
    }

    async fn socket(&self) -> Result<TcpStream, RequestError> {
        let mut last = None;
        for address in self.resolve().await? {
            match TcpStream::connect(address).await {
                Ok(socket) => {
                    // Requests are one write; waiting to fill a packet only delays them.
                    _ = socket.set_nodelay(true);
                    return Ok(socket);
                }
                Err(error) => last = Some(error),
            }
        }
        let why = last.map_or_else(|| "it has no address".into(), |error| error.to_string());
        let words = format!("no connection to {}: {why}", self.endpoint);
        Err(failure(ErrorClass::Connect, words))
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, RequestError> {
        let known = self.addresses.borrow().clone();
        if !known.is_empty() {
            return Ok(known);
        }
        let host = (self.endpoint.host_name(), self.endpoint.port);
        let found: Vec<_> = lookup_host(host)
            .await
            .map_err(|error| {
                let words = format!("the name `{}` cannot be resolved: {error}", host.0);
                failure(ErrorClass::Dns, words)
            })?
            .collect();
        self.addresses.borrow_mut().clone_from(&found);
        Ok(found)
    }
}

async fn handshake(
    socket: Box<dyn Duplex>,
    http2: bool,
    stamp: Stamp,
) -> Result<Line, RequestError> {
    let refused = |error: hyper::Error| {
        let words = format!("the server does not speak HTTP as expected: {error}");
        failure(ErrorClass::Connect, words)
    };
    let socket = TokioIo::new(socket);
    if http2 {
        let (sender, connection) = http2::Builder::new(Local)
            .handshake(socket)
            .await
            .map_err(refused)?;
        tokio::task::spawn_local(async move {
            // Its end shows in the requests that are on it.
            _ = connection.await;
        });
        return Ok(Line::H2(H2 { sender, stamp }));
    }
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BUFFER_BYTES)
        .handshake(socket)
        .await
        .map_err(refused)?;
    Ok(Line::H1(H1 {
        sender,
        connection: Some(Box::pin(connection)),
        stamp,
    }))
}

/// TLS as browsers do it: the system's authorities, or those of `ca_file` instead. Where the
/// system has none, Mozilla's.
pub(crate) fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, ConnectError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let wrong = |why: &dyn std::fmt::Display| {
            ConnectError::Input(format!(
                "{}: no certificates in PEM form: {why}",
                path.display()
            ))
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| wrong(&e))? {
            let certificate = certificate.map_err(|e| wrong(&e))?;
            roots.add(certificate).map_err(|e| wrong(&e))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"the file holds none"));
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::Run(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
