//! Over TLS the protocol is negotiated.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::{drive, options, request};
use costmark_core::MonotonicClock;
use costmark_http::HttpBackend;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};

type Versions = Arc<Mutex<Vec<Version>>>;

/// A server that offers `protocols`, on a thread that ends with the test's process; the versions
/// of what it was asked, and the certificate to trust.
fn start(protocols: &[&str]) -> (SocketAddr, Versions, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let versions = Versions::default();
    let kept = Arc::clone(&versions);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        runtime.block_on(async {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, kept) = (acceptor.clone(), Arc::clone(&kept));
                tokio::spawn(async move {
                    let Ok(socket) = acceptor.accept(socket).await else {
                        return;
                    };
                    let service = service_fn(move |request| answer(request, Arc::clone(&kept)));
                    _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
    });
    (address, versions, made.cert.pem())
}

async fn answer(
    request: Request<Incoming>,
    versions: Versions,
) -> Result<Response<Full<Bytes>>, Infallible> {
    versions.lock().unwrap().push(request.version());
    if request.method() == Method::GET {
        let page = Bytes::from_static(br#"{"data":[{"id":"m"}]}"#);
        return Ok(Response::new(Full::new(page)));
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let n = body["max_tokens"].as_u64().unwrap();
    let mut stream = "data: {\"choices\":[{\"text\":\" a\"}]}\n\n".repeat(n as usize);
    stream += &format!(
        "data: {{\"choices\":[{{\"text\":\"\",\"finish_reason\":\"length\"}}],\"usage\":\
         {{\"prompt_tokens\":8,\"completion_tokens\":{n}}}}}\n\ndata: [DONE]\n\n"
    );
    let mut response = Response::new(Full::new(stream.into()));
    let kind = hyper::header::HeaderValue::from_static("text/event-stream");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    Ok(response)
}

#[test]
fn tls_speaks_what_was_negotiated() {
    for (offered, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let (address, versions, pem) = start(offered);
        let file = certificate_file(&pem, address);
        let mut options = options(&format!("https://localhost:{}", address.port()));
        options.ca_file = Some(file.clone());
        let mut backend = HttpBackend::connect(options, MonotonicClock::start()).unwrap();
        std::fs::remove_file(file).unwrap();
        for id in 0..3 {
            let fate = drive(&mut backend, request(id, 7));
            assert_eq!(fate.failed, None, "{offered:?}");
            assert_eq!(fate.tokens.iter().map(|t| t.1).sum::<u32>(), 7);
        }
        let seen = versions.lock().unwrap().clone();
        assert!(seen.iter().all(|v| *v == version), "{offered:?}: {seen:?}");
    }
}

fn certificate_file(pem: &str, address: SocketAddr) -> std::path::PathBuf {
    let name = format!("costmark-h2-{}-{}.pem", std::process::id(), address.port());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, pem).unwrap();
    file
}
