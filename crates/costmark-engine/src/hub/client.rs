//! The requests: what a revision holds, where a file is, and its bytes from any position on.
//!
//! They are our own because `hf-hub`'s client can wait for ever: here no answer and no byte
//! is waited for longer than [`Client`]'s patience, and a download that ends early goes on
//! from what is on the disk.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::HubId;

/// The public hub.
const PUBLIC: &str = "https://huggingface.co";
/// Most bytes of a revision's description; large repositories list thousands of files.
const MAX_INFO_BYTES: u64 = 64 << 20;
/// Most redirects within one host when asking for a file's place.
const MAX_REDIRECTS: u32 = 5;
/// Bytes read at a time.
const PIECE: usize = 256 * 1024;

/// Why a request gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The hub said no.
    #[error("the hub answered {0}")]
    Status(u16),
    /// Nothing came for this long.
    #[error("the hub sent nothing for {} s", .0.as_secs_f64())]
    Stalled(Duration),
    /// The connection failed.
    #[error("{0}")]
    Network(String),
    /// The answer makes no sense.
    #[error("the hub's answer {0}")]
    Answer(String),
    /// The disk failed.
    #[error("{0}")]
    Disk(#[from] std::io::Error),
}

/// What a revision stands for.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    /// The commit.
    pub(super) sha: String,
    /// Its files.
    pub(super) siblings: Vec<Sibling>,
}

/// A file of a repository.
#[derive(Debug, Deserialize)]
pub(super) struct Sibling {
    /// Its path.
    pub(super) rfilename: String,
}

/// A file at a commit.
#[derive(Debug)]
pub(super) struct Remote {
    /// Where its bytes are.
    pub(super) url: String,
    /// The name its contents have in the cache.
    pub(super) etag: String,
    /// Its length.
    pub(super) bytes: u64,
}

/// Talks to one hub.
pub(super) struct Client {
    agent: Agent,
    /// The hub says more about a file in the answer that leads elsewhere than in the file's
    /// own; so that one is not followed.
    staying: Agent,
    endpoint: String,
    authorization: Option<String>,
    patience: Duration,
}

impl Client {
    /// `patience` bounds every wait: for a name, a connection, an answer, the next bytes.
    pub(super) fn new(endpoint: Option<&str>, token: Option<&str>, patience: Duration) -> Self {
        let config = || {
            Agent::config_builder()
                .user_agent(concat!("costmark/", env!("CARGO_PKG_VERSION")))
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .timeout_resolve(Some(patience))
                .timeout_connect(Some(patience))
                .timeout_per_read(Some(patience))
                .timeout_per_write(Some(patience))
        };
        Self {
            agent: config().build().into(),
            staying: config().max_redirects(0).build().into(),
            endpoint: endpoint.unwrap_or(PUBLIC).to_string(),
            authorization: token.map(|token| format!("Bearer {token}")),
            patience,
        }
    }

    /// What `id`'s revision stands for.
    pub(super) fn info(&self, id: &HubId) -> Result<Info, FetchError> {
        let revision = id.revision.replace('/', "%2F");
        let url = format!(
            "{}/api/models/{}/revision/{revision}",
            self.endpoint, id.repository
        );
        let mut response = self.get(&self.agent, &url, None)?;
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_INFO_BYTES)
            .read_to_string()
            .map_err(|error| self.fail(error))?;
        serde_json::from_str(&text)
            .map_err(|error| FetchError::Answer(format!("does not describe the model: {error}")))
    }

    /// Where `file` of `id` at `commit` is.
    pub(super) fn locate(
        &self,
        id: &HubId,
        commit: &str,
        file: &str,
    ) -> Result<Remote, FetchError> {
        let mut url = format!(
            "{}/{}/resolve/{commit}/{file}",
            self.endpoint, id.repository
        );
        for _ in 0..MAX_REDIRECTS {
            let response = self.get(&self.staying, &url, Some(0..=0))?;
            let headers = response.headers();
            let target = response
                .status()
                .is_redirection()
                .then(|| text(headers, "location"))
                .flatten();
            if let Some(path) = target.filter(|target| target.starts_with('/')) {
                // Renamed repositories; the file's own facts come with the next answer.
                url = on_host(&url, path)?;
                continue;
            }
            let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
            let bytes = match text(headers, "x-linked-size").and_then(|n| n.parse().ok()) {
                Some(bytes) => Some(bytes),
                None if target.is_some() => {
                    let elsewhere = self.get(&self.agent, &url, Some(0..=0))?;
                    whole_len(elsewhere.headers())
                }
                None => whole_len(headers),
            };
            let missing =
                |what: &str| FetchError::Answer(format!("does not tell {what} of {file}"));
            return Ok(Remote {
                etag: file_name(etag.ok_or_else(|| missing("the identity"))?)?,
                bytes: bytes.ok_or_else(|| missing("the length"))?,
                url,
            });
        }
        Err(FetchError::Answer("leads in circles".into()))
    }

    /// Completes `part`, which holds the first bytes of `remote`, and tells how many it holds.
    pub(super) fn download(
        &self,
        remote: &Remote,
        part: &Path,
        mut report: impl FnMut(u64),
    ) -> Result<(), FetchError> {
        let mut file = File::options().create(true).append(true).open(part)?;
        let mut done = file.metadata()?.len();
        if done > remote.bytes {
            // Not the file that was begun.
            file.set_len(0)?;
            done = 0;
        }
        report(done);
        if done == remote.bytes {
            return Ok(());
        }
        let response = self.get(&self.agent, &remote.url, Some(done..=remote.bytes - 1))?;
        if response.status() != StatusCode::PARTIAL_CONTENT && done > 0 {
            // The whole file instead of the rest.
            file.set_len(0)?;
            done = 0;
        }
        let mut body = response.into_body().into_reader();
        let mut piece = vec![0; PIECE];
        while done < remote.bytes {
            let n = match body.read(&mut piece) {
                Ok(0) => return Err(FetchError::Network("the connection ended early".into())),
                Ok(n) => n,
                Err(error) => return Err(self.fail(error.into())),
            };
            let wanted = usize::try_from(remote.bytes - done).map_or(n, |left| left.min(n));
            file.write_all(&piece[..wanted])?;
            done += wanted as u64;
            report(done);
        }
        file.sync_all()?;
        Ok(())
    }

    fn get(
        &self,
        agent: &Agent,
        url: &str,
        bytes: Option<std::ops::RangeInclusive<u64>>,
    ) -> Result<Response<Body>, FetchError> {
        let mut request = agent.get(url);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(range) = bytes {
            let range = format!("bytes={}-{}", range.start(), range.end());
            request = request.header(header::RANGE, range);
        }
        request.call().map_err(|error| self.fail(error))
    }

    fn fail(&self, error: ureq::Error) -> FetchError {
        match error {
            ureq::Error::StatusCode(status) => FetchError::Status(status),
            ureq::Error::Timeout(_) => FetchError::Stalled(self.patience),
            other => FetchError::Network(other.to_string()),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The length behind the slash of `Content-Range`.
fn whole_len(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-range")?
        .rsplit('/')
        .next()?
        .parse()
        .ok()
}

/// `path` on the host of `url`.
fn on_host(url: &str, path: &str) -> Result<String, FetchError> {
    let wrong = |_| FetchError::Answer(format!("leads to `{path}`"));
    let mut parts = url.parse::<Uri>().map_err(wrong)?.into_parts();
    parts.path_and_query = Some(path.parse().map_err(wrong)?);
    let uri =
        Uri::from_parts(parts).map_err(|_| FetchError::Answer(format!("leads to `{path}`")))?;
    Ok(uri.to_string())
}

/// The entity tag without its quotes, where it can name a file.
fn file_name(etag: &str) -> Result<String, FetchError> {
    let name = etag.trim_start_matches("W/").replace('"', "");
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(FetchError::Answer(format!(
            "identifies the file as `{etag}`, which cannot name one"
        )));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_that_could_leave_the_cache_are_refused() {
        assert_eq!(file_name("\"0a-b_C\"").unwrap(), "0a-b_C");
        assert_eq!(file_name("W/\"abc\"").unwrap(), "abc");
        for etag in ["", "\"\"", "../x", "a/b", "a.lock", "."] {
            assert!(file_name(etag).is_err(), "{etag}");
        }
    }

    #[test]
    fn a_redirect_within_the_host_keeps_the_host() {
        let to = |path| on_host("https://hub.example:8/a/b?c=d", path).unwrap();
        assert_eq!(to("/x/y?z=1"), "https://hub.example:8/x/y?z=1");
    }
}
