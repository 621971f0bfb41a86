//! How a model on the hub is named: `owner/name[@revision][:file.gguf]`.

use std::path::{Component, Path};

use hf_hub::{Repo, RepoType};

/// A model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `owner/name`.
    pub repository: String,
    /// Branch, tag or commit; `main` unless stated.
    pub revision: String,
    /// A GGUF file in the repository.
    pub file: Option<String>,
}

impl HubId {
    /// Reads `owner/name[@revision][:file.gguf]`; none if the text is not of that form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (text, file) = match text.split_once(':') {
            Some((text, file)) => (text, Some(file)),
            None => (text, None),
        };
        let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
        let is_part = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        let (owner, name) = repository.split_once('/')?;
        let inside = |path: &str| {
            !path.is_empty()
                && Path::new(path)
                    .components()
                    .all(|c| matches!(c, Component::Normal(_)))
        };
        let valid = is_part(owner)
            && is_part(name)
            && inside(revision)
            && file.is_none_or(|file| inside(file) && file.to_lowercase().ends_with(".gguf"));
        valid.then(|| Self {
            repository: repository.to_string(),
            revision: revision.to_string(),
            file: file.map(str::to_string),
        })
    }

    pub(super) fn repo(&self) -> Repo {
        Repo::with_revision(
            self.repository.clone(),
            RepoType::Model,
            self.revision.clone(),
        )
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_recognised() {
        let parsed = |text: &str| HubId::parse(text).map(|id| id.to_string());
        for text in [
            "a/b",
            "Qwen/Qwen3-0.6B",
            "a/b@v1.0",
            "a/b@refs/pr/1",
            "a/b:x/y.gguf",
        ] {
            assert_eq!(parsed(text).as_deref(), Some(text));
        }
        assert_eq!(parsed("a/b@main").as_deref(), Some("a/b"));
        for text in [
            "a",
            "a/b/c",
            "/a",
            "../a",
            "a/..",
            "a/b@",
            "a/b@../c",
            "a/b:c.bin",
            "a/b:../c.gguf",
            "a/b c",
            "",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
