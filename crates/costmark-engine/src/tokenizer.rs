//! Text to token ids and back: `tokenizer.json`, or the vocabulary in a GGUF file.

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file;
use candle_core::quantized::tokenizer::TokenizerFromGguf;

use crate::error::{EngineError, Result};

/// Where a checkpoint's tokenizer is. Reading one takes up to a second, so it is read
/// only when text is needed; token ids are enough to benchmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSource {
    /// A `tokenizer.json`.
    Json(PathBuf),
    /// A GGUF file with a vocabulary.
    Gguf(PathBuf),
}

impl TokenizerSource {
    /// Reads the tokenizer.
    ///
    /// # Errors
    /// Names the file when it cannot be read or holds a kind of tokenizer that is not
    /// supported.
    pub fn load(&self) -> Result<Tokenizer> {
        match self {
            Self::Json(path) => {
                let inner = tokenizers::Tokenizer::from_file(path).map_err(|error| {
                    EngineError::file(path, format!("not a tokenizer: {error}"))
                })?;
                Ok(Tokenizer { inner })
            }
            Self::Gguf(path) => from_gguf(path),
        }
    }
}

/// Turns text into token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Token ids of `text`, with the special tokens the tokenizer puts around a text.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode(text, true)
            .map_err(|error| EngineError::Option(format!("cannot tokenise the text: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids; special tokens are left out.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, true)
            .map_err(|error| EngineError::Run(format!("cannot turn tokens into text: {error}")))
    }
}

/// Pre-tokenizers of byte-level BPE vocabularies that are built as they were trained; any
/// other name would be split in a different way without notice.
const PRE_TOKENIZERS: [&str; 8] = [
    "default",
    "gpt-2",
    "gpt2",
    "llama3",
    "llama-bpe",
    "llama-v3",
    "qwen2",
    "smaug-bpe",
];

fn from_gguf(path: &Path) -> Result<Tokenizer> {
    let fail = |message: String| EngineError::file(path, message);
    let advice = "give token ids (--prompt-ids), or put the model's tokenizer.json beside the file";
    let mut file = std::fs::File::open(path).map_err(|e| fail(format!("cannot read: {e}")))?;
    let mut content = gguf_file::Content::read(&mut file)
        .map_err(|error| fail(format!("the vocabulary cannot be read: {error}; {advice}")))?;
    let text = |content: &gguf_file::Content, key: &str| match content.metadata.get(key) {
        Some(gguf_file::Value::String(text)) => Some(text.clone()),
        _ => None,
    };
    match text(&content, "tokenizer.ggml.model").as_deref() {
        Some("gpt2") => {}
        Some(other) => {
            return Err(fail(format!(
                "the vocabulary is of kind `{other}`, only byte-level BPE (`gpt2`) is \
                 supported; {advice}"
            )));
        }
        None => return Err(fail(format!("has no vocabulary; {advice}"))),
    }
    let pre = text(&content, "tokenizer.ggml.pre").unwrap_or_else(|| "default".into());
    if !PRE_TOKENIZERS.contains(&pre.as_str()) {
        return Err(fail(format!(
            "the vocabulary is split by `{pre}`, supported are {}; {advice}",
            PRE_TOKENIZERS.join(", ")
        )));
    }
    if pre.starts_with("llama-") {
        // Other tools' names for the same splitting.
        content.metadata.insert(
            "tokenizer.ggml.pre".into(),
            gguf_file::Value::String("llama3".into()),
        );
    }
    let inner = tokenizers::Tokenizer::from_gguf(&content)
        .map_err(|error| fail(format!("the vocabulary cannot be used: {error}; {advice}")))?;
    Ok(Tokenizer { inner })
}
