//! Fetching from a hub, against a small server on this machine that speaks its paths.

// clippy lets tests unwrap, but not the helpers they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use costmark_engine::hub::HubOptions;
use costmark_engine::{Checkpoint, EngineError, OpenOptions, Progress, WeightChoice};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secretsecretsecret";

/// What the server has and how it behaves.
#[derive(Default)]
struct Site {
    /// Files of `owner/name`.
    files: BTreeMap<String, Vec<u8>>,
    /// Requests must carry this token.
    token: Option<String>,
    /// The next download of this file ends after so many bytes.
    cut: Option<(String, usize)>,
    /// Downloads of this file stop after so many bytes and leave the connection open: so
    /// many times.
    stall: Option<(String, usize, usize)>,
    /// Connections are accepted and nothing is ever said.
    silent: bool,
    held: Vec<TcpStream>,
    /// Every download of a file: name and first byte wanted. Questions for one byte, which
    /// ask for the length, are not counted.
    downloads: Vec<(String, usize)>,
}

struct Server {
    address: SocketAddr,
    site: Arc<Mutex<Site>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    cache: TempDir,
}

impl Server {
    fn start(site: Site) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let site = Arc::new(Mutex::new(site));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (site, stop) = (Arc::clone(&site), Arc::clone(&stop));
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // A client that goes away is its own test.
                    let _ = stream.and_then(|stream| answer(&stream, &site));
                }
            }
        });
        Self {
            address,
            site,
            stop,
            thread: Some(thread),
            cache: tempfile::tempdir().unwrap(),
        }
    }

    /// Serves the files of a golden checkpoint, and some that nobody should fetch.
    fn with_model(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name);
        let mut site = Site::default();
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let file = entry.file_name().into_string().unwrap();
            site.files
                .insert(file, std::fs::read(entry.path()).unwrap());
        }
        site.files.insert("pytorch_model.bin".into(), vec![0; 64]);
        site.files.insert("README.md".into(), b"hello".to_vec());
        Self::start(site)
    }

    fn options(&self) -> HubOptions {
        HubOptions {
            cache: self.cache.path().to_path_buf(),
            endpoint: Some(format!("http://{}", self.address)),
            token: None,
            offline: false,
            patience: Duration::from_millis(300),
        }
    }

    fn open(&self, model: &str, hub: HubOptions) -> Result<Checkpoint, EngineError> {
        let mut options = OpenOptions::new(model);
        options.hub = Some(hub);
        Checkpoint::open(&options)
    }

    fn downloads(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut self.site.lock().unwrap().downloads)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One request, one answer, connection closed.
fn answer(mut stream: &TcpStream, site: &Mutex<Site>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_string();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_string());
    }
    let mut site = site.lock().unwrap();
    if site.silent {
        site.held.push(stream.try_clone()?);
        return Ok(());
    }
    let plain = |status: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    };
    if let Some(token) = &site.token
        && headers.get("authorization") != Some(&format!("Bearer {token}"))
    {
        return stream.write_all(plain("401 Unauthorized").as_bytes());
    }
    let revisions = ["main", "v1", COMMIT];
    if let Some(revision) = path.strip_prefix("/api/models/owner/name/revision/")
        && revisions.contains(&revision)
    {
        let siblings: Vec<String> = site
            .files
            .keys()
            .map(|name| format!("{{\"rfilename\":\"{name}\"}}"))
            .collect();
        let body = format!(
            "{{\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}",
            siblings.join(",")
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        return stream.write_all(head.as_bytes());
    }
    let file = path
        .strip_prefix("/owner/name/resolve/")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(revision, _)| revisions.contains(revision))
        .map(|(_, file)| file.to_string());
    let Some((file, bytes)) = file.and_then(|file| {
        let bytes = site.files.get(&file)?.clone();
        Some((file, bytes))
    }) else {
        return stream.write_all(plain("404 Not Found").as_bytes());
    };
    let range = headers.get("range").map_or("bytes=0-", String::as_str);
    let (first, last) = range
        .trim_start_matches("bytes=")
        .split_once('-')
        .unwrap_or(("0", ""));
    let first: usize = first.parse().unwrap_or(0);
    let last: usize = last.parse().unwrap_or(bytes.len().saturating_sub(1));
    if first >= bytes.len() {
        return stream.write_all(plain("416 Range Not Satisfiable").as_bytes());
    }
    let mut part = &bytes[first..=last.min(bytes.len() - 1)];
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{}\r\n\
         ETag: \"etag-of-{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        part.len(),
        first + part.len() - 1,
        bytes.len(),
        file.replace('.', "-"),
    );
    if range != "bytes=0-0" {
        site.downloads.push((file.clone(), first));
        if let Some((_, len)) = site.cut.take_if(|(name, _)| *name == file) {
            part = &part[..len];
        }
        if let Some((name, len, times)) = &mut site.stall
            && *name == file
            && *times > 0
        {
            *times -= 1;
            part = &part[..*len];
            site.held.push(stream.try_clone()?);
        }
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(part)
}

fn load_all(checkpoint: &mut Checkpoint) {
    for m in costmark_engine::weights::layout::matrices(&checkpoint.config.shape) {
        checkpoint
            .weights
            .linear(&m.name, m.out_features, m.in_features, m.bias)
            .unwrap();
    }
}

#[test]
fn a_model_is_fetched_once_and_then_used_offline() {
    let server = Server::with_model("qwen3");
    let mut checkpoint = server.open("owner/name", server.options()).unwrap();
    load_all(&mut checkpoint);
    assert_eq!(checkpoint.config.name, "owner/name");
    assert_eq!(checkpoint.revision.as_deref(), Some(COMMIT));
    assert_eq!(checkpoint.source, format!("owner/name at {COMMIT}"));
    assert!(checkpoint.tokenizer.is_some());
    let mut fetched: Vec<String> = server
        .downloads()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    fetched.sort();
    assert_eq!(
        fetched,
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
        ]
    );

    server.open("owner/name@v1", server.options()).unwrap();
    assert_eq!(server.downloads(), [], "the commit is in the cache");

    let mut offline = server.options();
    offline.offline = true;
    offline.endpoint = Some("http://127.0.0.1:9".into());
    let mut checkpoint = server.open("owner/name", offline.clone()).unwrap();
    load_all(&mut checkpoint);
    assert_eq!(checkpoint.revision.as_deref(), Some(COMMIT));
    server
        .open(&format!("owner/name@{COMMIT}"), offline.clone())
        .unwrap();
    let Err(error) = server.open("owner/other", offline) else {
        panic!("opened");
    };
    assert!(error.is_input());
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");

    // Not reachable is like offline, but says so.
    let mut unreachable = server.options();
    unreachable.endpoint = Some("http://127.0.0.1:9".into());
    let checkpoint = server.open("owner/name", unreachable).unwrap();
    assert!(
        checkpoint
            .notes
            .iter()
            .any(|note| note.contains("not asked")),
        "{:?}",
        checkpoint.notes
    );
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let server = Server::with_model("llama");
    server.site.lock().unwrap().cut = Some(("model.safetensors".into(), 10_000));
    let seen = Arc::new(Mutex::new((0, 0)));
    let mut options = OpenOptions::new("owner/name");
    options.hub = Some(server.options());
    options.progress = Some(Arc::new({
        let seen = Arc::clone(&seen);
        move |progress| {
            if let Progress::Download {
                file: "model.safetensors",
                done_bytes,
                total_bytes,
            } = progress
            {
                *seen.lock().unwrap() = (done_bytes, total_bytes);
            }
        }
    }));
    load_all(&mut Checkpoint::open(&options).unwrap());
    let weights: Vec<(String, usize)> = server
        .downloads()
        .into_iter()
        .filter(|(name, _)| name == "model.safetensors")
        .collect();
    assert_eq!(
        weights,
        [
            ("model.safetensors".to_string(), 0),
            ("model.safetensors".to_string(), 10_000)
        ]
    );
    let total = server.site.lock().unwrap().files["model.safetensors"].len() as u64;
    assert_eq!(*seen.lock().unwrap(), (total, total));
}

#[test]
fn a_stalled_download_goes_on_where_it_stopped() {
    let server = Server::with_model("llama");
    server.site.lock().unwrap().stall = Some(("model.safetensors".into(), 10_000, 2));
    load_all(&mut server.open("owner/name", server.options()).unwrap());
    let starts: Vec<usize> = server
        .downloads()
        .into_iter()
        .filter(|(name, _)| name == "model.safetensors")
        .map(|(_, first)| first)
        .collect();
    assert_eq!(starts, [0, 10_000, 20_000]);
}

#[test]
fn a_download_that_never_moves_on_is_given_up_and_resumed_by_the_next_run() {
    let server = Server::with_model("llama");
    let stall = |after, times| {
        server.site.lock().unwrap().stall = Some(("model.safetensors".into(), after, times));
    };
    stall(0, usize::MAX);
    let Err(error) = server.open("owner/name", server.options()) else {
        panic!("opened");
    };
    let text = error.to_string();
    assert!(error.is_input(), "{text}");
    for part in [
        "model.safetensors",
        "nothing for 0.3 s",
        "run again",
        "HF_HUB_DOWNLOAD_TIMEOUT",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    stall(5_000, 1);
    server.site.lock().unwrap().cut = None;
    server.downloads();
    load_all(&mut server.open("owner/name", server.options()).unwrap());
    assert_eq!(
        server.downloads(),
        [
            ("model.safetensors".to_string(), 0),
            ("model.safetensors".to_string(), 5_000)
        ],
        "only what was missing is fetched"
    );
}

#[test]
fn a_hub_that_says_nothing_is_not_waited_for() {
    let server = Server::with_model("llama");
    server.site.lock().unwrap().silent = true;
    let Err(error) = server.open("owner/name", server.options()) else {
        panic!("opened");
    };
    assert!(error.to_string().contains("nothing for 0.3 s"), "{error}");

    // What is cached will do.
    server.site.lock().unwrap().silent = false;
    load_all(&mut server.open("owner/name", server.options()).unwrap());
    server.site.lock().unwrap().silent = true;
    let checkpoint = server.open("owner/name", server.options()).unwrap();
    assert!(
        checkpoint
            .notes
            .iter()
            .any(|note| note.contains("not asked")),
        "{:?}",
        checkpoint.notes
    );
}

#[test]
fn two_runs_do_not_write_into_the_same_file() {
    let server = Server::with_model("llama");
    let blobs = server.cache.path().join("models--owner--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let lock = std::fs::File::create(blobs.join("etag-of-config-json.lock")).unwrap();
    lock.lock().unwrap();
    let Err(error) = server.open("owner/name", server.options()) else {
        panic!("opened");
    };
    assert!(error.to_string().contains("another process"), "{error}");
    drop(lock);
    load_all(&mut server.open("owner/name", server.options()).unwrap());
}

/// The process ended between the last byte and putting the file in its place.
#[test]
fn a_finished_but_misplaced_download_is_fetched_again() {
    let server = Server::with_model("llama");
    let blobs = server.cache.path().join("models--owner--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let bytes = server.site.lock().unwrap().files["config.json"].clone();
    std::fs::write(blobs.join("etag-of-config-json.part"), bytes).unwrap();
    load_all(&mut server.open("owner/name", server.options()).unwrap());
}

#[test]
fn shards_come_by_the_index() {
    let server = Server::with_model("mistral");
    let mut checkpoint = server.open("owner/name", server.options()).unwrap();
    load_all(&mut checkpoint);
    let shards = server
        .downloads()
        .into_iter()
        .filter(|(name, _)| name.starts_with("model-0000"))
        .count();
    assert_eq!(shards, 2);
}

#[test]
fn a_gguf_file_of_a_repository() {
    let server = Server::with_model("gguf");
    let mut checkpoint = server
        .open("owner/name:llama-q8_0.gguf", server.options())
        .unwrap();
    load_all(&mut checkpoint);
    assert_eq!(server.downloads(), [("llama-q8_0.gguf".to_string(), 0)]);
    let Err(error) = server.open("owner/name", server.options()) else {
        panic!("opened");
    };
    assert!(
        error.to_string().contains("owner/name:llama-q8_0.gguf"),
        "{error}"
    );
}

#[test]
fn synthetic_weights_need_the_configuration_only() {
    let server = Server::with_model("llama");
    let mut options = OpenOptions::new("owner/name");
    options.hub = Some(server.options());
    options.weights = WeightChoice::Synthetic { seed: 0 };
    assert!(Checkpoint::open(&options).unwrap().synthetic);
    assert_eq!(server.downloads(), [("config.json".to_string(), 0)]);
}

#[test]
fn refusals_say_what_to_do_and_keep_the_token() {
    let server = Server::with_model("llama");
    server.site.lock().unwrap().token = Some("another".into());
    let says = |options: HubOptions, model: &str, parts: &[&str]| {
        let Err(error) = server.open(model, options) else {
            panic!("opened");
        };
        let text = error.to_string();
        assert!(error.is_input(), "{text}");
        assert!(!text.contains(TOKEN), "{text}");
        assert!(!format!("{error:?}").contains(TOKEN), "{error:?}");
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    };
    let mut with_token = server.options();
    with_token.token = Some(TOKEN.into());
    assert!(!format!("{with_token:?}").contains(TOKEN));
    says(server.options(), "owner/name", &["401", "set HF_TOKEN"]);
    says(with_token.clone(), "owner/name", &["401", "licence"]);
    server.site.lock().unwrap().token = Some(TOKEN.into());
    says(
        with_token.clone(),
        "owner/nothing",
        &["404", "owner/nothing"],
    );
    says(with_token.clone(), "owner/name@v9", &["404", "v9"]);
    says(with_token.clone(), "owner/name:x.gguf", &["404", "x.gguf"]);
    server.open("owner/name", with_token.clone()).unwrap();
    with_token.endpoint = Some("http://127.0.0.1:9".into());
    says(with_token, "owner/elsewhere", &["HF_ENDPOINT"]);
}
