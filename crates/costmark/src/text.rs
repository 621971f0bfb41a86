//! The engine's tokenizer for those who must not know it.

use costmark_engine::Tokenizer;
use costmark_http::PromptText;
use costmark_http::serve::TextModel;

/// Words to make prompts of; more would only take longer to find.
const MOST_WORDS: usize = 2048;

/// A tokenizer with the words it holds as one token each.
pub(crate) struct EngineText {
    tokenizer: Tokenizer,
    words: std::sync::OnceLock<Vec<String>>,
}

impl EngineText {
    /// Around a tokenizer.
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        Self {
            tokenizer,
            words: std::sync::OnceLock::new(),
        }
    }

    /// Lower-case words that are one token with a space before them: however they are put
    /// together, each stays the token it is.
    fn words(&self) -> &[String] {
        self.words.get_or_init(|| {
            let is_word = |text: &str| {
                let word = text.trim_start();
                word.len() > 1 && word.bytes().all(|b| b.is_ascii_lowercase())
            };
            (0..self.tokenizer.vocab_size())
                .filter_map(|id| {
                    let text = self.tokenizer.decode(&[id]).ok()?;
                    let word = is_word(&text).then(|| text.trim_start().to_owned())?;
                    let alone = self.tokenizer.encode_plain(&format!(" {word}")).ok()?;
                    (alone.len() == 1).then_some(word)
                })
                .take(MOST_WORDS)
                .collect()
        })
    }
}

impl PromptText for EngineText {
    fn text(&self, ids: &[u32]) -> Option<String> {
        let words = self.words();
        if words.is_empty() {
            return None;
        }
        let text: Vec<&str> = ids
            .iter()
            .map(|&id| words[id as usize % words.len()].as_str())
            .collect();
        let text = text.join(" ");
        // Vocabularies differ in whether a text begins with a space of its own.
        [format!(" {text}"), text]
            .into_iter()
            .find(|text| self.count(text) as usize == ids.len())
    }

    fn count(&self, text: &str) -> u32 {
        let ids = self.tokenizer.encode_plain(text).unwrap_or_default();
        u32::try_from(ids.len()).unwrap_or(u32::MAX)
    }

    fn vocab_size(&self) -> u32 {
        self.tokenizer.vocab_size()
    }
}

impl TextModel for EngineText {
    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, String> {
        let ids = if special {
            self.tokenizer.encode(text)
        } else {
            self.tokenizer.encode_plain(text)
        };
        ids.map_err(|error| error.to_string())
    }

    fn decode(&self, ids: &[u32]) -> Result<String, String> {
        self.tokenizer
            .decode(ids)
            .map_err(|error| error.to_string())
    }
}
