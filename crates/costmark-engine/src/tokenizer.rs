//! Text to token ids and back: `tokenizer.json`, or the vocabulary in a GGUF file.

mod sentencepiece;

use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use self::sentencepiece::SentencePiece;
use crate::error::{EngineError, Result};
use crate::weights::gguf::Header;
use crate::weights::mmap::MappedFile;

/// Where a checkpoint's tokenizer is. Reading one takes up to a second, so it is read
/// only when text is needed; token ids are enough to benchmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSource {
    /// A `tokenizer.json`.
    Json(PathBuf),
    /// A GGUF file: its vocabulary if that is of a kind that is supported, else a
    /// `tokenizer.json` beside it.
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
            Self::Json(path) => from_json(path),
            Self::Gguf(path) => from_gguf(path),
        }
    }
}

/// Turns text into token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Inner,
}

#[derive(Debug, Clone)]
enum Inner {
    Library(Box<tokenizers::Tokenizer>),
    SentencePiece(Box<SentencePiece>),
}

impl Tokenizer {
    /// Token ids of `text`, with the special tokens the tokenizer puts around a text.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, true)
    }

    /// Token ids of `text` alone.
    ///
    /// # Errors
    /// When the tokenizer cannot represent the text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, false)
    }

    fn encode_with(&self, text: &str, around: bool) -> Result<Vec<u32>> {
        let ids = match &self.inner {
            Inner::Library(library) => library
                .encode(text, around)
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|error| error.to_string()),
            Inner::SentencePiece(vocabulary) if around => vocabulary.encode(text),
            Inner::SentencePiece(vocabulary) => vocabulary.encode_plain(text),
        };
        ids.map_err(|error| EngineError::Option(format!("cannot tokenise the text: {error}")))
    }

    /// Token ids are below this.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        let size = match &self.inner {
            Inner::Library(library) => library.get_vocab_size(true),
            Inner::SentencePiece(vocabulary) => vocabulary.size(),
        };
        u32::try_from(size).unwrap_or(u32::MAX)
    }

    /// The text of token ids; special tokens are left out.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = match &self.inner {
            Inner::Library(library) => library.decode(ids, true).map_err(|e| e.to_string()),
            Inner::SentencePiece(vocabulary) => vocabulary.decode(ids),
        };
        text.map_err(|error| EngineError::Run(format!("cannot turn tokens into text: {error}")))
    }
}

fn from_json(path: &Path) -> Result<Tokenizer> {
    let library = tokenizers::Tokenizer::from_file(path)
        .map_err(|error| EngineError::file(path, format!("not a tokenizer: {error}")))?;
    Ok(Tokenizer {
        inner: Inner::Library(Box::new(library)),
    })
}

/// Pre-tokenizers of byte-level BPE vocabularies that are built as they were trained; any
/// other name would be split in a different way without notice.
const PRE_TOKENIZERS: [&str; 7] = [
    "gpt-2",
    "gpt2",
    "llama3",
    "llama-bpe",
    "llama-v3",
    "qwen2",
    "smaug-bpe",
];

const ADVICE: &str =
    "give token ids (--prompt-ids), or put the model's tokenizer.json beside the file";

fn from_gguf(path: &Path) -> Result<Tokenizer> {
    let file = MappedFile::open(path)?;
    let header =
        Header::parse(file.bytes()).map_err(|error| EngineError::file(path, error.message))?;
    let unusable = |what: String| EngineError::file(path, format!("{what}; {ADVICE}"));
    let inner = match (header.text("tokenizer.ggml.model"), pre_tokenizer(&header)) {
        (Some("llama"), _) => {
            let vocabulary = SentencePiece::read(&header, file.bytes())
                .map_err(|error| unusable(format!("the vocabulary cannot be used: {error}")))?;
            Inner::SentencePiece(Box::new(vocabulary))
        }
        (Some("gpt2"), Ok(())) => {
            // All counts in the header were checked against the file.
            drop(file);
            Inner::Library(Box::new(byte_level(path).map_err(unusable)?))
        }
        (kind, split) => {
            let beside = path.with_file_name("tokenizer.json");
            if beside.is_file() {
                return from_json(&beside);
            }
            return Err(unusable(match (kind, split) {
                (Some("gpt2"), Err(split)) => split,
                (Some(kind), _) => format!(
                    "the vocabulary is of kind `{kind}`, supported are SentencePiece (`llama`) \
                     and byte-level BPE (`gpt2`)"
                ),
                (None, _) => "has no vocabulary".into(),
            }));
        }
    };
    Ok(Tokenizer { inner })
}

/// Whether byte-level texts are split in a way that is known.
fn pre_tokenizer(header: &Header) -> Result<(), String> {
    let pre = header
        .text("tokenizer.ggml.pre")
        .ok_or("the file does not say how texts are split (`tokenizer.ggml.pre`)")?;
    if PRE_TOKENIZERS.contains(&pre) {
        return Ok(());
    }
    Err(format!(
        "the vocabulary is split by `{pre}`, supported are {}",
        PRE_TOKENIZERS.join(", ")
    ))
}

/// Names of the splitting that came with Llama 3.
const LLAMA_3: [&str; 3] = ["llama3", "llama-bpe", "llama-v3"];

fn byte_level(path: &Path) -> Result<tokenizers::Tokenizer, String> {
    let file = std::fs::File::open(path).map_err(|e| format!("cannot read: {e}"))?;
    let mut content = gguf_file::Content::read(&mut BufReader::new(file))
        .map_err(|error| format!("the vocabulary cannot be read: {error}"))?;
    let metadata = &mut content.metadata;
    let pre = match metadata.get("tokenizer.ggml.pre") {
        Some(gguf_file::Value::String(pre)) => pre.clone(),
        _ => String::new(),
    };
    if LLAMA_3.contains(&pre.as_str()) {
        // Other tools' names for the same splitting, and what goes without saying with it.
        let yes = || gguf_file::Value::Bool(true);
        metadata.insert(
            "tokenizer.ggml.pre".into(),
            gguf_file::Value::String("llama3".into()),
        );
        for key in [
            "tokenizer.ggml.ignore_merges",
            "tokenizer.ggml.add_bos_token",
        ] {
            metadata.entry(key.into()).or_insert_with(yes);
        }
    }
    let mut tokenizer = tokenizers::Tokenizer::from_gguf(&content)
        .map_err(|error| format!("the vocabulary cannot be used: {error}"))?;
    if pre.starts_with("gpt") {
        // candle puts a space before the text, which belongs to none of these vocabularies.
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    }
    Ok(tokenizer)
}
