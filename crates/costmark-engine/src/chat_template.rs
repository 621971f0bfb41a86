//! How a model wants a conversation written down: the template beside its tokenizer. Read
//! here, applied elsewhere.

use std::path::Path;

use candle_core::quantized::gguf_file;
use serde_json::Value;

use crate::error::{EngineError, Result};
use crate::tokenizer::TokenizerSource;

/// A chat template (Jinja) and the tokens it may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplateSource {
    /// The template.
    pub template: String,
    /// Text of the token a sequence begins with; empty where there is none.
    pub bos_token: String,
    /// Text of the token it ends with; empty where there is none.
    pub eos_token: String,
}

impl TokenizerSource {
    /// The chat template, if the model has one.
    ///
    /// # Errors
    /// A file that should hold it cannot be read.
    pub fn chat_template(&self) -> Result<Option<ChatTemplateSource>> {
        match self {
            Self::Json(path) => beside(path),
            Self::Gguf(path) => within(path),
        }
    }
}

/// `tokenizer_config.json`, with the template in it or in a file of its own.
fn beside(tokenizer: &Path) -> Result<Option<ChatTemplateSource>> {
    let path = tokenizer.with_file_name("tokenizer_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| EngineError::file(path, format!("cannot read: {error}")))
    };
    let config: Value = serde_json::from_str(&read(&path)?)
        .map_err(|error| EngineError::file(&path, format!("not JSON: {error}")))?;
    let own_file = tokenizer.with_file_name("chat_template.jinja");
    let template = if own_file.is_file() {
        Some(read(&own_file)?)
    } else {
        named(&config["chat_template"])
    };
    Ok(template.map(|template| ChatTemplateSource {
        template,
        bos_token: token(&config["bos_token"]),
        eos_token: token(&config["eos_token"]),
    }))
}

/// One template, or the default one of several.
fn named(value: &Value) -> Option<String> {
    match value {
        Value::String(template) => Some(template.clone()),
        Value::Array(all) => all
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str())
            .map(str::to_owned),
        _ => None,
    }
}

/// A token is written as its text, or as an object that holds it.
fn token(value: &Value) -> String {
    let text = value.as_str().or_else(|| value["content"].as_str());
    text.unwrap_or_default().to_owned()
}

fn within(path: &Path) -> Result<Option<ChatTemplateSource>> {
    let fail = |error: &dyn std::fmt::Display| EngineError::file(path, format!("{error}"));
    let mut file = std::fs::File::open(path).map_err(|e| fail(&e))?;
    let content = gguf_file::Content::read(&mut file).map_err(|e| fail(&e))?;
    let Some(gguf_file::Value::String(template)) = content.metadata.get("tokenizer.chat_template")
    else {
        return Ok(None);
    };
    let tokens = match content.metadata.get("tokenizer.ggml.tokens") {
        Some(gguf_file::Value::Array(tokens)) => tokens.as_slice(),
        _ => &[],
    };
    let token = |key: &str| {
        let id = content.metadata.get(key).and_then(|id| id.to_u32().ok());
        match id.and_then(|id| tokens.get(id as usize)) {
            Some(gguf_file::Value::String(text)) => text.clone(),
            _ => String::new(),
        }
    };
    Ok(Some(ChatTemplateSource {
        template: template.clone(),
        bos_token: token("tokenizer.ggml.bos_token_id"),
        eos_token: token("tokenizer.ggml.eos_token_id"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wherever_a_template_stands() {
        let dir = tempfile::tempdir().unwrap();
        let source = TokenizerSource::Json(dir.path().join("tokenizer.json"));
        assert_eq!(source.chat_template().unwrap(), None);
        let config = dir.path().join("tokenizer_config.json");
        let write = |text: &str| std::fs::write(&config, text).unwrap();
        write(r#"{"eos_token":"</s>"}"#);
        assert_eq!(source.chat_template().unwrap(), None);
        write(r#"{"chat_template":"a","bos_token":{"content":"<s>"},"eos_token":"</s>"}"#);
        let found = source.chat_template().unwrap().unwrap();
        assert_eq!(found.template, "a");
        assert_eq!((&*found.bos_token, &*found.eos_token), ("<s>", "</s>"));
        write(
            r#"{"chat_template":[{"name":"tools","template":"t"},
                {"name":"default","template":"d"}],"bos_token":null}"#,
        );
        assert_eq!(source.chat_template().unwrap().unwrap().template, "d");
        std::fs::write(dir.path().join("chat_template.jinja"), "own").unwrap();
        assert_eq!(source.chat_template().unwrap().unwrap().template, "own");
        write("{");
        let error = source.chat_template().unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json"), "{error}");
    }
}
