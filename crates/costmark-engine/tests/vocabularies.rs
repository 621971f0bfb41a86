//! Text to tokens and back with the vocabularies of GGUF files, against what the library
//! that made each vocabulary says.

// clippy lets tests unwrap, but not the helpers they share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;

use costmark_engine::{Checkpoint, OpenOptions, Tokenizer, TokenizerSource};
use support::golden_path;

#[derive(serde::Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

fn load(path: &Path) -> Tokenizer {
    TokenizerSource::Gguf(path.to_path_buf()).load().unwrap()
}

#[track_caller]
fn agrees(stem: &str) {
    let tokenizer = load(&golden_path(&format!("gguf/{stem}.gguf")));
    let json = std::fs::read_to_string(golden_path(&format!("gguf/{stem}.json"))).unwrap();
    let texts: Vec<Text> = serde_json::from_str(&json).unwrap();
    assert!(texts.len() > 10);
    for Text { text, ids, decoded } in texts {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), decoded, "{text:?}");
    }
}

#[test]
fn sentencepiece_with_a_space_in_front() {
    agrees("sentencepiece");
}

#[test]
fn sentencepiece_without_a_space_in_front() {
    agrees("sentencepiece-bare");
}

#[test]
fn a_model_file_says_where_its_vocabulary_is() {
    let path = golden_path("gguf/sentencepiece.gguf");
    let checkpoint = Checkpoint::open(&OpenOptions::new(path.to_str().unwrap())).unwrap();
    let tokenizer = checkpoint.tokenizer.unwrap().load().unwrap();
    let ids = tokenizer.encode("the price").unwrap();
    assert!(
        ids.iter()
            .all(|&id| u64::from(id) < checkpoint.config.shape.vocab_size),
        "{ids:?}"
    );
}

/// Replaces bytes of equal length in a copy of a golden file.
fn edited(name: &str, from: &[u8], to: &[u8]) -> tempfile::TempDir {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(golden_path(name)).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    bytes[at..at + from.len()].copy_from_slice(to);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.gguf"), bytes).unwrap();
    folder
}

/// A text of a GGUF file: its length and its bytes.
fn gguf_text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// The same vocabulary in a GGUF file and as the library stored it.
#[test]
fn byte_level_vocabularies_are_read_as_their_library_reads_them() {
    let own = load(&golden_path("gguf/qwen3-f16.gguf"));
    let library = TokenizerSource::Json(golden_path("qwen3/tokenizer.json"))
        .load()
        .unwrap();
    for text in [
        "",
        "the price",
        " the  price\n",
        "naïve 标记 🦀 1,234",
        "it's weights'",
    ] {
        let ids = own.encode(text).unwrap();
        assert_eq!(ids, library.encode(text).unwrap(), "{text:?}");
        assert_eq!(own.decode(&ids).unwrap(), text);
    }
}

#[test]
fn a_kind_that_is_not_known_gives_way_to_a_tokenizer_beside_it() {
    for (from, to) in [("gpt2", "bert"), ("gpt-2", "gpt-9")] {
        let folder = edited("gguf/qwen3-f16.gguf", &gguf_text(from), &gguf_text(to));
        let path = folder.path().join("x.gguf");
        let error = TokenizerSource::Gguf(path.clone()).load().unwrap_err();
        let text = error.to_string();
        for part in ["x.gguf", to, "--prompt-ids", "tokenizer.json"] {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
        assert!(error.is_input());
        let beside = golden_path("qwen3/tokenizer.json");
        std::fs::copy(beside, folder.path().join("tokenizer.json")).unwrap();
        let ids = load(&path).encode("the price").unwrap();
        let own = load(&golden_path("gguf/qwen3-f16.gguf"));
        assert_eq!(ids, own.encode("the price").unwrap());
    }
}

#[test]
fn vocabularies_that_do_not_fit_together_are_errors() {
    let says = |from: &str, to: &str, part: &str| {
        let folder = edited("gguf/sentencepiece.gguf", &gguf_text(from), &gguf_text(to));
        let path = folder.path().join("x.gguf");
        let text = TokenizerSource::Gguf(path).load().unwrap_err().to_string();
        assert!(text.contains(part), "`{part}` is not in: {text}");
    };
    says("<0x0A>", "<0xZZ>", "<0xZZ>");
    says(
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.tokenX",
        "tokenizer.ggml.tokens",
    );
    // One of two tokens now reads as the other.
    says("\u{2581}the", "\u{2581}are", "twice");
}
