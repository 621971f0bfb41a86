//! Models from the hub: `owner/name`, `owner/name@revision`, `owner/name:file.gguf`.
//!
//! Files land in the cache that other tools of the hub share, under the commit the
//! revision stood for when it was asked. A download that was cut off or stalled goes on
//! where it stopped. Only the configuration, tokenizer and safetensors (or the one GGUF
//! file) are fetched.
//!
//! Heeded from the environment: `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`,
//! `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT`.

mod client;
mod id;
mod options;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;

use self::client::{Client, FetchError, Remote};
pub use self::id::HubId;
pub use self::options::HubOptions;
use crate::error::{EngineError, Result};
use crate::weights::progress::{Progress, ProgressFn};
use crate::weights::safetensors::index_files;

/// Attempts in a row that bring no byte of a file before giving up on it.
const ATTEMPTS: u32 = 4;
/// Wait before the second attempt; it doubles from one to the next.
const PAUSE: Duration = Duration::from_millis(250);
const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Fetched where the repository has them.
const OPTIONAL: [&str; 3] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

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
        let options = self.options;
        let client = Client::new(
            options.endpoint.as_deref(),
            options.token.as_deref(),
            options.patience,
        );
        let info = match client.info(self.id) {
            Ok(info) => info,
            // Not reachable at all: what is cached will do, and says so.
            Err(error @ (FetchError::Network(_) | FetchError::Stalled(_))) => {
                return self
                    .cached(wanted)
                    .ok_or_else(|| self.explain(&error, None));
            }
            Err(error) => return Err(self.explain(&error, None)),
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
        let folder = self.snapshot_folder(&commit);
        let get = |name: &str| self.get(&client, &commit, &folder, name);
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
        self.cache()
            .repo(self.id.repo())
            .create_ref(commit)
            .map_err(|error| self.explain(&error.into(), None))
    }

    /// One file, from the cache or the hub.
    fn get(&self, client: &Client, commit: &str, folder: &Path, name: &str) -> Result<PathBuf> {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
        let explain = |error: FetchError| self.explain(&error, Some(name));
        let remote = patiently(|| 0, || client.locate(self.id, commit, name)).map_err(explain)?;
        let repository = self.options.cache.join(self.id.repo().folder_name());
        let blob = repository.join("blobs").join(&remote.etag);
        let disk = |error: std::io::Error| explain(error.into());
        for file in [&blob, &path] {
            std::fs::create_dir_all(file.parent().unwrap_or(folder)).map_err(disk)?;
        }
        let lock = self.lock(&blob.with_extension("lock"), name)?;
        if !blob.is_file() {
            self.fill(client, &remote, &blob, name).map_err(explain)?;
        }
        drop(lock);
        place(&blob, &path).map_err(disk)?;
        Ok(path)
    }

    /// Downloads into a file beside the blob, and moves it there when it is whole.
    fn fill(
        &self,
        client: &Client,
        remote: &Remote,
        blob: &Path,
        name: &str,
    ) -> Result<(), FetchError> {
        let part = blob.with_extension("part");
        let report = |done_bytes| {
            if let Some(report) = self.progress {
                report(Progress::Download {
                    file: name,
                    done_bytes,
                    total_bytes: remote.bytes,
                });
            }
        };
        patiently(
            || std::fs::metadata(&part).map_or(0, |meta| meta.len()),
            || client.download(remote, &part, report),
        )?;
        Ok(std::fs::rename(&part, blob)?)
    }

    /// Keeps other processes from fetching the same file.
    fn lock(&self, path: &Path, name: &str) -> Result<File> {
        let disk = |error: std::io::Error| self.explain(&error.into(), Some(name));
        let file = File::create(path).map_err(disk)?;
        let begun = std::time::Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if begun.elapsed() < self.options.patience => {
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(EngineError::Hub(format!(
                        "{}: `{name}`: another process is fetching it; wait for it, or remove {} \
                         if there is none",
                        self.id,
                        path.display()
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(disk(error)),
            }
        }
    }

    /// The error in words, with the way out and without the token.
    fn explain(&self, error: &FetchError, file: Option<&str>) -> EngineError {
        let what = match file {
            Some(file) => format!("{}: `{file}`", self.id),
            None => self.id.to_string(),
        };
        let token = &self.options.token;
        let text = match error {
            FetchError::Status(status @ (401 | 403)) => {
                let advice = if token.is_some() {
                    "the token does not give access; check HF_TOKEN, and accept the model's \
                     licence on its page"
                } else {
                    "the model does not exist, or is private or gated: check the name, or set \
                     HF_TOKEN"
                };
                format!("access denied by the hub ({status}); {advice}")
            }
            FetchError::Status(404) => {
                "the hub has no such model, revision or file (404); check the name".into()
            }
            FetchError::Status(_) | FetchError::Answer(_) => {
                format!("{error}; check HF_ENDPOINT, or try again later")
            }
            FetchError::Stalled(_) => format!(
                "{error}; run again, which goes on where it stopped, or let it wait longer with \
                 HF_HUB_DOWNLOAD_TIMEOUT (seconds)"
            ),
            FetchError::Network(_) => format!(
                "cannot be fetched: {error}; check the network and HF_ENDPOINT, or set \
                 HF_HUB_OFFLINE=1 to use the cache"
            ),
            FetchError::Disk(_) => format!(
                "cannot be kept in {}: {error}; check the disk, or set HF_HOME to another place",
                self.options.cache.display()
            ),
        };
        let message = format!("{what}: {text}");
        EngineError::Hub(match token {
            Some(token) => message.replace(token.as_str(), "…"),
            None => message,
        })
    }
}

/// Tries again after failures of the network and the hub, until [`ATTEMPTS`] in a row have
/// not moved `progress`.
fn patiently<T>(
    progress: impl Fn() -> u64,
    mut attempt: impl FnMut() -> Result<T, FetchError>,
) -> Result<T, FetchError> {
    let mut fruitless = 0;
    loop {
        let before = progress();
        let error = match attempt() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let may_pass = match error {
            FetchError::Network(_) | FetchError::Stalled(_) => true,
            FetchError::Status(status) => status >= 500 || matches!(status, 408 | 429),
            FetchError::Answer(_) | FetchError::Disk(_) => false,
        };
        fruitless = if progress() > before {
            1
        } else {
            fruitless + 1
        };
        if !may_pass || fruitless == ATTEMPTS {
            return Err(error);
        }
        std::thread::sleep(PAUSE * 2u32.pow(fruitless - 1));
    }
}

/// Makes the blob appear as a file of the snapshot: a link, as other tools of the hub make
/// it, or where there are none, the file itself.
fn place(blob: &Path, path: &Path) -> std::io::Result<()> {
    if path.is_file() {
        return Ok(());
    }
    // A link that leads nowhere.
    let _ = std::fs::remove_file(path);
    #[cfg(unix)]
    {
        // From `snapshots/<commit>/a/b` up to the repository's folder, then down.
        let repository = blob.parent().and_then(Path::parent).unwrap_or(blob);
        let depth = path
            .strip_prefix(repository)
            .map_or(0, |inside| inside.components().count().saturating_sub(1));
        let mut target: PathBuf = std::iter::repeat_n("..", depth).collect();
        target.push("blobs");
        target.push(blob.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(target, path)
    }
    #[cfg(not(unix))]
    std::fs::rename(blob, path)
}
