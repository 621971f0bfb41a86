//! How the hub is reached, as the environment says.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{EngineError, Result};

/// How long the hub may say nothing, unless `HF_HUB_DOWNLOAD_TIMEOUT` tells.
const PATIENCE: Duration = Duration::from_secs(30);

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
    /// How long to wait for a connection, an answer or the next bytes.
    pub patience: Duration,
}

impl HubOptions {
    /// As the environment says.
    ///
    /// # Errors
    /// When there is neither `HF_HUB_CACHE`, `HF_HOME` nor a home folder, or
    /// `HF_HUB_DOWNLOAD_TIMEOUT` is no time.
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
        let patience = match var("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => PATIENCE,
            Some(text) => text
                .trim()
                .parse()
                .ok()
                .filter(|&seconds: &f64| seconds > 0.0)
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .ok_or_else(|| {
                    EngineError::Hub(format!(
                        "HF_HUB_DOWNLOAD_TIMEOUT is `{text}`; it is a number of seconds, e.g. 30"
                    ))
                })?,
        };
        Ok(Self {
            cache,
            endpoint: var("HF_ENDPOINT").map(|url| url.trim_end_matches('/').to_string()),
            token,
            offline: var("HF_HUB_OFFLINE").is_some_and(yes),
            patience,
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
            .field("patience", &self.patience)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
        let patience =
            |text| options(&[("HF_HOME", home), ("HF_HUB_DOWNLOAD_TIMEOUT", text)]).patience;
        assert_eq!(patience("1.5"), Duration::from_millis(1500));
    }
}
