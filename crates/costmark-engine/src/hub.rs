//! Models from the hub: `owner/name`, `owner/name@revision`, `owner/name:file.gguf`.
//!
//! Files land in the cache that other tools of the hub share, under the commit the
//! revision stood for when it was asked. A download that was cut off goes on where it
//! stopped. Only the configuration, tokenizer and safetensors (or the one GGUF file) are
//! fetched.
//!
//! Heeded from the environment: `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`,
//! `HF_ENDPOINT`, `HF_HUB_OFFLINE`.

mod id;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};

pub use self::id::HubId;
use crate::error::{EngineError, Result};
use crate::weights::progress::{Progress, ProgressFn};
use crate::weights::safetensors::index_files;

/// Attempts to fetch one file before giving up; each goes on where the last stopped.
const ATTEMPTS: u32 = 5;
const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Fetched where the repository has them.
const OPTIONAL: [&str; 3] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// How the hub is reached.
#[derive(Clone)]
pub struct HubOptions {
    /// Folder of the shared cache.
    pub cache: PathBuf,
    /// Base address; none for the public hub.
    pub endpoint: Option<String>,
    /// Sent with every request, shown nowhere.
    pub token: Option<String>,
    /// Use the cache only.
    pub offline: bool,
}

impl HubOptions {
    /// As the environment says.
    ///
    /// # Errors
    /// When there is neither `HF_HUB_CACHE`, `HF_HOME` nor a home folder.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok().filter(|v| !v.trim().is_empty()))
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let home = var("HF_HOME").map(PathBuf::from).or_else(|| {
            let caches = var("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
            caches.map(|caches| caches.join("huggingface"))
        });
        let cache = var("HF_HUB_CACHE")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| {
                EngineError::Hub("no folder to keep models in: set HF_HOME or HF_HUB_CACHE".into())
            })?;
        let token_file = var("HF_TOKEN_PATH")
            .map(PathBuf::from)
            .or_else(|| home.map(|home| home.join("token")));
        let token = var("HF_TOKEN")
            .or_else(|| std::fs::read_to_string(token_file?).ok())
            .map(|token| token.trim().to_string())
            .filter(|token| !token.is_empty());
        let yes = |value: String| {
            matches!(
                value.trim().to_lowercase().as_str(),
                "1" | "true" | "yes" | "on"
            )
        };
        Ok(Self {
            cache,
            endpoint: var("HF_ENDPOINT").map(|url| url.trim_end_matches('/').to_string()),
            token,
            offline: var("HF_HUB_OFFLINE").is_some_and(yes),
        })
    }
}

impl std::fmt::Debug for HubOptions {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .finish()
    }
}

/// How much of a model is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Only `config.json`, for synthetic weights.
    Config,
    /// Everything that is needed to run it.
    Everything,
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder with its files.
    pub folder: PathBuf,
    /// The GGUF file, if one was asked for.
    pub file: Option<PathBuf>,
    /// The commit.
    pub revision: String,
    /// The hub was not asked whether this is still the newest commit.
    pub from_cache_only: bool,
}

/// Brings a model into the cache, or finds it there.
///
/// # Errors
/// Says whether the model does not exist, needs a token or a licence accepted, is not
/// cached while offline, has no weights that can be loaded, or could not be fetched. No
/// message contains the token.
pub fn fetch(
    id: &HubId,
    wanted: Wanted,
    options: &HubOptions,
    progress: Option<&ProgressFn>,
) -> Result<Snapshot> {
    let hub = Hub {
        id,
        options,
        progress,
    };
    if options.offline {
        return hub.cached(wanted).ok_or_else(|| {
            EngineError::Hub(format!(
                "{id} is not complete in the cache {} and HF_HUB_OFFLINE forbids fetching it; \
                 run once without HF_HUB_OFFLINE",
                options.cache.display()
            ))
        });
    }
    hub.online(wanted)
}

struct Hub<'a> {
    id: &'a HubId,
    options: &'a HubOptions,
    progress: Option<&'a ProgressFn>,
}

impl Hub<'_> {
    fn cache(&self) -> Cache {
        Cache::new(self.options.cache.clone())
    }

    fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.cache().repo(self.id.repo()).pointer_path(commit)
    }

    /// The commit the cache has for the revision, if every file is there.
    fn cached(&self, wanted: Wanted) -> Option<Snapshot> {
        let reference = self
            .options
            .cache
            .join(self.id.repo().folder_name())
            .join("refs")
            .join(&self.id.revision);
        let commit = match std::fs::read_to_string(reference) {
            Ok(commit) => commit.trim().to_string(),
            // The revision may be a commit itself.
            Err(_) => self.id.revision.clone(),
        };
        let folder = self.snapshot_folder(&commit);
        let has = |name: &str| folder.join(name).is_file();
        let complete = match (&self.id.file, wanted) {
            (Some(file), _) => has(file),
            (None, Wanted::Config) => has(CONFIG),
            (None, Wanted::Everything) => {
                has(CONFIG)
                    && crate::weights::safetensors::weight_files(&folder)
                        .is_ok_and(|files| files.iter().all(|file| has(file)))
            }
        };
        complete.then(|| Snapshot {
            file: self.id.file.as_ref().map(|file| folder.join(file)),
            folder,
            revision: commit,
            from_cache_only: true,
        })
    }

    fn online(&self, wanted: Wanted) -> Result<Snapshot> {
        let api = self.api()?;
        let info = match api.repo(self.id.repo()).info() {
            Ok(info) => info,
            Err(error) => {
                // Not reachable at all: what is cached will do, and says so.
                return match (http_status(&error), self.cached(wanted)) {
                    (None, Some(snapshot)) => Ok(snapshot),
                    _ => Err(self.explain(&error, None)),
                };
            }
        };
        let commit = info.sha;
        let is_commit = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        if !is_commit {
            return Err(EngineError::Hub(format!(
                "{}: the hub gave no commit",
                self.id
            )));
        }
        let available: Vec<&str> = info.siblings.iter().map(|s| s.rfilename.as_str()).collect();
        let repo = api.repo(self.id.repo_at(&commit));
        let folder = self.snapshot_folder(&commit);
        let get = |name: &str| self.get(&api, &repo, &folder, name);
        let file = if let Some(file) = &self.id.file {
            Some(get(file)?)
        } else {
            if !available.contains(&CONFIG) {
                return Err(self.no_weights(&available, "has no config.json"));
            }
            get(CONFIG)?;
            if wanted == Wanted::Everything {
                for name in OPTIONAL.into_iter().filter(|name| available.contains(name)) {
                    get(name)?;
                }
                for name in self.weights(&available, &get)? {
                    get(&name)?;
                }
            }
            None
        };
        self.remember(&commit)?;
        Ok(Snapshot {
            folder,
            file,
            revision: commit,
            from_cache_only: false,
        })
    }

    fn api(&self) -> Result<Api> {
        let mut builder = ApiBuilder::from_cache(self.cache())
            .with_token(self.options.token.clone())
            .with_progress(false)
            .with_user_agent("costmark", env!("CARGO_PKG_VERSION"));
        if let Some(endpoint) = &self.options.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        builder.build().map_err(|error| self.explain(&error, None))
    }

    /// Names of the safetensors files: those of the index, or the single one.
    fn weights(
        &self,
        available: &[&str],
        get: &impl Fn(&str) -> Result<PathBuf>,
    ) -> Result<Vec<String>> {
        if available.contains(&INDEX) {
            let path = get(INDEX)?;
            let json = std::fs::read_to_string(&path)
                .map_err(|error| EngineError::file(&path, format!("cannot read: {error}")))?;
            return index_files(&path, &json);
        }
        if available.contains(&SINGLE) {
            return Ok(vec![SINGLE.into()]);
        }
        Err(self.no_weights(available, "has no safetensors"))
    }

    fn no_weights(&self, available: &[&str], lack: &str) -> EngineError {
        let gguf: Vec<&str> = available
            .iter()
            .copied()
            .filter(|name| name.to_lowercase().ends_with(".gguf"))
            .collect();
        let advice = match gguf.first() {
            Some(first) => format!(
                "but {} GGUF files; name one, e.g. `{}:{first}`",
                gguf.len(),
                self.id
            ),
            None if available.iter().any(|name| name.ends_with(".bin")) => {
                "but Python pickles, which can run code and are not loaded; look for a \
                 safetensors conversion of the model"
                    .into()
            }
            None => "and nothing else that can be loaded".into(),
        };
        EngineError::Hub(format!("{} {lack}, {advice}", self.id))
    }

    /// Points the revision to the commit, for later runs offline.
    fn remember(&self, commit: &str) -> Result<()> {
        let fail = |error| {
            EngineError::file(
                &self.options.cache,
                format!("cannot write to the cache: {error}"),
            )
        };
        let cached = |revision: &str| self.cache().repo(self.id.repo_at(revision));
        cached(&self.id.revision).create_ref(commit).map_err(fail)?;
        if self.id.revision != commit {
            // Left by fetching at the exact commit; other tools do not keep such entries.
            let folder = self.options.cache.join(self.id.repo().folder_name());
            let _ = std::fs::remove_file(folder.join("refs").join(commit));
        }
        Ok(())
    }

    /// One file, from the cache or the hub.
    fn get(&self, api: &Api, repo: &ApiRepo, folder: &Path, name: &str) -> Result<PathBuf> {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
        let mut attempt = 1;
        loop {
            let total = Arc::new(AtomicU64::new(0));
            let watch = Watch {
                file: name.to_string(),
                done: 0,
                total: Arc::clone(&total),
                report: self.progress.cloned(),
            };
            let error = match repo.download_with_progress(name, watch) {
                Ok(path) => match self.check_len(&path, total.load(Ordering::Relaxed)) {
                    Ok(()) => return Ok(path),
                    Err(error) => error,
                },
                Err(error) => {
                    let status = http_status(&error);
                    if status == Some(416) {
                        // All bytes were there but the file was never put in its place, or
                        // it is not the file that was begun: start over.
                        self.drop_partial(api, repo, name);
                    } else if status.is_some_and(|status| (400..500).contains(&status))
                        || matches!(error, ApiError::LockAcquisition(_))
                    {
                        return Err(self.explain(&error, Some(name)));
                    }
                    self.explain(&error, Some(name))
                }
            };
            if attempt == ATTEMPTS {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(200 * u64::from(attempt)));
            attempt += 1;
        }
    }

    /// A file whose length is not what the hub said is thrown away.
    fn check_len(&self, path: &Path, expected: u64) -> Result<()> {
        let len = std::fs::metadata(path).map_or(0, |meta| meta.len());
        if len == expected {
            return Ok(());
        }
        if let Ok(blob) = path.canonicalize() {
            let _ = std::fs::remove_file(blob);
        }
        let _ = std::fs::remove_file(path);
        Err(EngineError::Hub(format!(
            "{}: `{}` came with {len} bytes instead of {expected}; run again",
            self.id,
            path.file_name().unwrap_or_default().to_string_lossy()
        )))
    }

    fn drop_partial(&self, api: &Api, repo: &ApiRepo, name: &str) {
        if let Ok(metadata) = api.metadata(&repo.url(name)) {
            let mut part = self.cache().repo(self.id.repo()).blob_path(metadata.etag());
            part.set_extension("part");
            let _ = std::fs::remove_file(part);
        }
    }

    /// The error in words, with the way out and without the token.
    fn explain(&self, error: &ApiError, file: Option<&str>) -> EngineError {
        let what = match file {
            Some(file) => format!("{}: `{file}`", self.id),
            None => self.id.to_string(),
        };
        let token = &self.options.token;
        let text = match (http_status(error), error) {
            (Some(status @ (401 | 403)), _) => {
                let advice = if token.is_some() {
                    "the token does not give access; check HF_TOKEN, and accept the model's \
                     licence on its page"
                } else {
                    "the model does not exist, or is private or gated: check the name, or set \
                     HF_TOKEN"
                };
                format!("access denied by the hub ({status}); {advice}")
            }
            (Some(404), _) => {
                "the hub has no such model, revision or file (404); check the name".into()
            }
            (Some(status), _) => format!("the hub answered {status}; try again later"),
            (None, ApiError::LockAcquisition(path)) => format!(
                "another process is fetching it; wait for it, or remove {} if there is none",
                path.display()
            ),
            (None, ApiError::IoError(error)) => format!(
                "cannot be fetched or kept in {}: {error}; check the network and the disk",
                self.options.cache.display()
            ),
            (None, other) => format!(
                "cannot be fetched: {other}; check the network and HF_ENDPOINT, or set \
                 HF_HUB_OFFLINE=1 to use the cache"
            ),
        };
        let message = format!("{what}: {text}");
        EngineError::Hub(match token {
            Some(token) => message.replace(token.as_str(), "…"),
            None => message,
        })
    }
}

/// The HTTP status an error stands for. The library's error type hides it in its text.
fn http_status(error: &ApiError) -> Option<u16> {
    let ApiError::RequestError(error) = error else {
        return None;
    };
    let text = error.to_string();
    text.strip_prefix("http status: ")?.trim().parse().ok()
}

struct Watch {
    file: String,
    done: u64,
    total: Arc<AtomicU64>,
    report: Option<ProgressFn>,
}

impl hf_hub::api::Progress for Watch {
    fn init(&mut self, size: usize, _filename: &str) {
        self.done = 0;
        self.total.store(size as u64, Ordering::Relaxed);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        if let Some(report) = &self.report {
            report(Progress::Download {
                file: &self.file,
                done_bytes: self.done,
                total_bytes: self.total.load(Ordering::Relaxed),
            });
        }
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_heeded() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "from-file\n").unwrap();
        let home = home.path().to_str().unwrap();
        let options = |vars: &[(&str, &str)]| {
            HubOptions::from_vars(|name| {
                vars.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_string())
            })
            .unwrap()
        };
        let plain = options(&[("HF_HOME", home)]);
        assert_eq!(plain.cache, Path::new(home).join("hub"));
        assert_eq!(plain.token.as_deref(), Some("from-file"));
        assert_eq!(plain.endpoint, None);
        assert!(!plain.offline);
        let all = options(&[
            ("HF_HOME", home),
            ("HF_HUB_CACHE", "/elsewhere"),
            ("HF_TOKEN", " from-env "),
            ("HF_ENDPOINT", "http://localhost:1/"),
            ("HF_HUB_OFFLINE", "True"),
        ]);
        assert_eq!(all.cache, Path::new("/elsewhere"));
        assert_eq!(all.token.as_deref(), Some("from-env"));
        assert_eq!(all.endpoint.as_deref(), Some("http://localhost:1"));
        assert!(all.offline);
        assert!(!options(&[("HF_HOME", home), ("HF_HUB_OFFLINE", "0")]).offline);
    }
}
