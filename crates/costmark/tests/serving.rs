//! `costmark serve` as a process with the real engine: who goes away frees memory, what asks
//! it to stop stops it.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml's leave covers #[test] functions.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Place;

/// Longest any test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(place: &Place) -> Self {
        // Room for an answer that takes longer than the client stays.
        let file = place.path().join("tiny/config.json");
        let config = std::fs::read_to_string(&file).unwrap();
        let config = config.replace("_embeddings\": 256", "_embeddings\": 4096");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_costmark"))
            .current_dir(place.path())
            .args(["serve", "--model", "tiny", "--weights", "synthetic"])
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
        let mut answer = String::new();
        let mut socket = self.send("GET", path, "");
        socket.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
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
