//! Text of tokens as they come: a character may need several.

use std::sync::Arc;

use super::TextModel;

/// What a decoder writes for bytes that are no character yet.
const UNFINISHED: char = '\u{fffd}';

/// Turns token ids into text, token by token.
pub(crate) struct Detokenizer {
    model: Option<Arc<dyn TextModel>>,
    ids: Vec<u32>,
    /// Tokens whose text decides how the next ones join.
    context: usize,
    /// Tokens whose text has been given out.
    given: usize,
}

impl Detokenizer {
    pub(crate) fn new(model: Option<Arc<dyn TextModel>>) -> Self {
        Self {
            model,
            ids: Vec::new(),
            context: 0,
            given: 0,
        }
    }

    /// The text that `id` completes.
    pub(crate) fn push(&mut self, id: u32) -> String {
        let Some(model) = &self.model else {
            return format!(" {id}");
        };
        self.ids.push(id);
        let before = model.decode(&self.ids[self.context..self.given]);
        let now = model.decode(&self.ids[self.context..]);
        let (Ok(before), Ok(now)) = (before, now) else {
            return String::new();
        };
        if now.ends_with(UNFINISHED) {
            return String::new();
        }
        let new = now.get(before.len()..).unwrap_or("").to_owned();
        self.context = self.given;
        self.given = self.ids.len();
        new
    }

    /// The text of a token by itself, a space before it included; `None` where it is not whole
    /// characters, or no text at all.
    pub(crate) fn spell(&self, id: u32) -> Option<String> {
        let Some(model) = &self.model else {
            return Some(format!(" {id}"));
        };
        // Decoders drop the space before the first token of a text, so it is read as the second.
        let (one, two) = (model.decode(&[id]).ok()?, model.decode(&[id, id]).ok()?);
        let spelt = two.get(one.len()..)?;
        (!spelt.is_empty() && !spelt.contains(UNFINISHED)).then(|| spelt.to_owned())
    }

    /// What is left: characters that were never finished.
    pub(crate) fn rest(&mut self) -> String {
        let Some(model) = &self.model else {
            return String::new();
        };
        let before = model.decode(&self.ids[self.context..self.given]);
        let now = model.decode(&self.ids[self.context..]);
        self.context = self.given;
        self.given = self.ids.len();
        match (before, now) {
            (Ok(before), Ok(now)) => now.get(before.len()..).unwrap_or("").to_owned(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ids are bytes.
    struct Bytes;

    impl TextModel for Bytes {
        fn encode(&self, text: &str, _: bool) -> Result<Vec<u32>, String> {
            Ok(text.bytes().map(u32::from).collect())
        }

        fn decode(&self, ids: &[u32]) -> Result<String, String> {
            let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
    }

    proptest! {
        #[test]
        fn the_parts_are_the_whole(text in "[a-zé漢🦀 ]{0,20}") {
            let mut detokenizer = Detokenizer::new(Some(Arc::new(Bytes)));
            let mut parts = String::new();
            for byte in text.bytes() {
                let part = detokenizer.push(u32::from(byte));
                prop_assert!(!part.contains(UNFINISHED));
                parts += &part;
            }
            parts += &detokenizer.rest();
            prop_assert_eq!(parts, text);
        }
    }

    #[test]
    fn half_a_character_is_shown_at_the_end_only() {
        let mut detokenizer = Detokenizer::new(Some(Arc::new(Bytes)));
        assert_eq!(detokenizer.push(0xc3), "");
        assert_eq!(detokenizer.rest(), "\u{fffd}");
        assert_eq!(Detokenizer::new(None).push(7), " 7");
    }

    /// Words with a space before all but the first of a text.
    struct Words;

    impl TextModel for Words {
        fn encode(&self, _: &str, _: bool) -> Result<Vec<u32>, String> {
            Err("not asked".into())
        }

        fn decode(&self, ids: &[u32]) -> Result<String, String> {
            let words: Vec<&str> = ids.iter().map(|_| "word").collect();
            Ok(words.join(" "))
        }
    }

    #[test]
    fn a_token_is_spelt_with_its_space() {
        let words = Detokenizer::new(Some(Arc::new(Words)));
        assert_eq!(words.spell(3).as_deref(), Some(" word"));
        let bytes = Detokenizer::new(Some(Arc::new(Bytes)));
        assert_eq!(bytes.spell(0xc3), None);
        assert_eq!(bytes.spell(0x61).as_deref(), Some("a"));
    }
}
