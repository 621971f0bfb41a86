//! SentencePiece vocabularies of GGUF files (`tokenizer.ggml.model` = `llama`: Llama 2,
//! Mistral, and their kin).
//!
//! A text becomes tokens as llama.cpp and SentencePiece's BPE do it: spaces are written as
//! `▁` with one more in front, then of all neighbours whose union is a token, those with the
//! highest score are joined first, the leftmost among equals. Characters that no token holds
//! become tokens of their UTF-8 bytes. Control and user-defined tokens are recognised in the
//! text before anything is joined, the longest first.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use crate::weights::gguf::{Header, Value};

/// How a space is written within tokens.
const SPACE: &str = "\u{2581}";

/// What a token is for, by the format's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Text that neighbours may join to.
    Text,
    /// Found as it is, never by joining.
    UserDefined,
    /// Found as it is, and not shown when decoded.
    Control,
    /// One byte.
    Byte(u8),
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub(super) struct SentencePiece {
    tokens: Vec<(String, Kind)>,
    scores: Vec<f32>,
    ids: HashMap<String, u32>,
    /// Ids of control and user-defined tokens, the longest text first.
    whole: Vec<u32>,
    bytes: Box<[Option<u32>; 256]>,
    unknown: Option<u32>,
    /// Put before and behind a text.
    around: (Option<u32>, Option<u32>),
    space_in_front: bool,
}

impl SentencePiece {
    /// Reads the vocabulary from a file with these contents.
    ///
    /// # Errors
    /// What is missing or does not fit together.
    pub(super) fn read(header: &Header, file: &[u8]) -> Result<Self, String> {
        let array = |name: &str| header.array(file, &format!("tokenizer.ggml.{name}"));
        let texts = array("tokens")?.ok_or("has no `tokenizer.ggml.tokens`")?;
        let count = texts.len();
        let of_all = |name: &str| match array(name)? {
            Some(values) if values.len() != count => Err(format!(
                "`tokenizer.ggml.{name}` has {} entries for {count} tokens",
                values.len()
            )),
            values => Ok(values),
        };
        let scores = match of_all("scores")? {
            Some(values) => values.into_iter().map(score).collect::<Result<_, _>>()?,
            None => vec![0.0; count],
        };
        let kinds = of_all("token_type")?;
        let mut tokens = Vec::with_capacity(count);
        for (id, text) in texts.into_iter().enumerate() {
            let Value::Text(text) = text else {
                return Err("`tokenizer.ggml.tokens` are no texts".into());
            };
            let kind = match kinds.as_ref().map(|kinds| &kinds[id]) {
                Some(Value::Uint(2 | 3)) => Kind::Control,
                Some(Value::Uint(4)) => Kind::UserDefined,
                Some(Value::Uint(6)) => Kind::Byte(byte(&text)?),
                _ => Kind::Text,
            };
            tokens.push((text, kind));
        }
        let id = |name: &str| match header
            .metadata
            .get(&format!("tokenizer.ggml.{name}_token_id"))
        {
            Some(Value::Uint(id)) if (*id as usize) < count => Ok(Some(*id as u32)),
            // -1 stands for none, and so does its unsigned form.
            None | Some(Value::Negative(_)) => Ok(None),
            Some(Value::Uint(id)) if *id == u64::from(u32::MAX) => Ok(None),
            Some(other) => Err(format!("`tokenizer.ggml.{name}_token_id` is {other:?}")),
        };
        let added = |flag: &str, default: bool, token: &str| {
            let wanted = header.flag(&format!("tokenizer.ggml.{flag}"))?;
            match wanted.unwrap_or(default) {
                true => id(token),
                false => Ok(None),
            }
        };
        let unknown = id("unknown")?;
        let around = (
            added("add_bos_token", true, "bos")?,
            added("add_eos_token", false, "eos")?,
        );
        let space_in_front = header
            .flag("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(true);
        Self::new(tokens, scores, unknown, around, space_in_front)
    }

    fn new(
        tokens: Vec<(String, Kind)>,
        scores: Vec<f32>,
        unknown: Option<u32>,
        around: (Option<u32>, Option<u32>),
        space_in_front: bool,
    ) -> Result<Self, String> {
        let mut ids = HashMap::with_capacity(tokens.len());
        let mut bytes = Box::new([None; 256]);
        for (id, (text, kind)) in (0..).zip(&tokens) {
            if let Kind::Byte(value) = kind {
                bytes[usize::from(*value)] = Some(id);
            } else if let Some(other) = ids.insert(text.clone(), id) {
                return Err(format!("has the token `{text}` twice, as {other} and {id}"));
            }
        }
        let mut whole: Vec<u32> = (0..)
            .zip(&tokens)
            .filter(|(_, (text, kind))| {
                matches!(kind, Kind::Control | Kind::UserDefined) && !text.is_empty()
            })
            .map(|(id, _)| id)
            .collect();
        whole.sort_by_key(|&id| Reverse(tokens[id as usize].0.len()));
        Ok(Self {
            tokens,
            scores,
            ids,
            whole,
            bytes,
            unknown,
            around,
            space_in_front,
        })
    }

    /// Token ids of a text, with those that stand around one.
    ///
    /// # Errors
    /// When the vocabulary has no token for a part of the text.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut out: Vec<u32> = self.around.0.into_iter().collect();
        out.extend(self.encode_plain(text)?);
        out.extend(self.around.1);
        Ok(out)
    }

    /// Token ids of a text alone.
    ///
    /// # Errors
    /// When the vocabulary has no token for a part of the text.
    pub(super) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut out = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (plain, found) = self.next_whole(rest);
            if !plain.is_empty() {
                let space = if self.space_in_front { SPACE } else { "" };
                self.join(&format!("{space}{}", plain.replace(' ', SPACE)), &mut out)?;
            }
            rest = &rest[plain.len()..];
            if let Some(id) = found {
                out.push(id);
                rest = &rest[self.tokens[id as usize].0.len()..];
            }
        }
        Ok(out)
    }

    /// Tokens there are; ids are below it.
    pub(super) fn size(&self) -> usize {
        self.tokens.len()
    }

    /// The text before the first control or user-defined token, and that token.
    fn next_whole<'a>(&self, text: &'a str) -> (&'a str, Option<u32>) {
        let first = self
            .whole
            .iter()
            .filter_map(|&id| Some((text.find(&self.tokens[id as usize].0)?, id)))
            // The longest of those that begin at the same place, as they are sorted.
            .min_by_key(|(at, _)| *at);
        match first {
            Some((at, id)) => (&text[..at], Some(id)),
            None => (text, None),
        }
    }

    /// The tokens of a text without spaces.
    fn join(&self, text: &str, out: &mut Vec<u32>) -> Result<(), String> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (at, c))| Symbol {
                at,
                len: c.len_utf8(),
                before: i.checked_sub(1),
                after: Some(i + 1),
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.after = None;
        }
        let mut pairs = BinaryHeap::new();
        let pair = |symbols: &[Symbol], left: usize| -> Option<Pair> {
            let right = symbols[left].after?;
            let len = symbols[left].len + symbols[right].len;
            let id = *self.ids.get(&text[symbols[left].at..][..len])?;
            Some(Pair {
                score: self.scores[id as usize],
                left,
                right,
                len,
            })
        };
        pairs.extend((0..symbols.len()).filter_map(|left| pair(&symbols, left)));
        while let Some(Pair {
            left, right, len, ..
        }) = pairs.pop()
        {
            // One of the two may have been joined to another since.
            let now = (symbols[left].len, symbols[right].len);
            if now.0 == 0 || now.1 == 0 || now.0 + now.1 != len {
                continue;
            }
            symbols[left].len = len;
            symbols[left].after = symbols[right].after;
            symbols[right].len = 0;
            if let Some(after) = symbols[left].after {
                symbols[after].before = Some(left);
            }
            pairs.extend(pair(&symbols, left));
            pairs.extend(
                symbols[left]
                    .before
                    .and_then(|before| pair(&symbols, before)),
            );
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let part = &text[symbol.at..][..symbol.len];
            match self.ids.get(part) {
                Some(&id) => out.push(id),
                None => self.spell(part, out)?,
            }
        }
        Ok(())
    }

    /// The tokens of each byte, or the one that stands for what is unknown.
    fn spell(&self, part: &str, out: &mut Vec<u32>) -> Result<(), String> {
        let spelt: Option<Vec<u32>> = part.bytes().map(|b| self.bytes[usize::from(b)]).collect();
        match (spelt, self.unknown) {
            (Some(ids), _) => out.extend(ids),
            (None, Some(unknown)) => out.push(unknown),
            (None, None) => return Err(format!("the vocabulary has no token for `{part}`")),
        }
        Ok(())
    }

    /// The text of token ids without control tokens, and without the space put in front.
    ///
    /// # Errors
    /// When an id is outside the vocabulary.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, String> {
        let mut out = Vec::new();
        for &id in ids {
            let Some((text, kind)) = self.tokens.get(id as usize) else {
                return Err(format!(
                    "token {id} is outside the vocabulary of {}",
                    self.tokens.len()
                ));
            };
            match kind {
                Kind::Control => {}
                Kind::Byte(byte) => out.push(*byte),
                Kind::Text | Kind::UserDefined => {
                    out.extend_from_slice(text.replace(SPACE, " ").as_bytes());
                }
            }
        }
        // Bytes need not make up whole characters.
        let text = String::from_utf8_lossy(&out);
        let shown = match text.strip_prefix(' ') {
            Some(rest) if self.space_in_front => rest,
            _ => &text,
        };
        Ok(shown.to_string())
    }
}

fn score(value: Value) -> Result<f32, String> {
    match value {
        Value::Float(x) => Ok(x as f32),
        other => Err(format!("a score is {other:?}, expected a number")),
    }
}

/// The byte of `<0x0A>`.
fn byte(text: &str) -> Result<u8, String> {
    text.strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        .ok_or_else(|| format!("the byte token `{text}` is not written like `<0x0A>`"))
}

/// A stretch of the text that is one token, or may become part of one.
struct Symbol {
    at: usize,
    /// 0 once it has been joined to the one before.
    len: usize,
    before: Option<usize>,
    after: Option<usize>,
}

/// Two neighbours whose union is a token.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Of both, when they were found.
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = self.score.total_cmp(&other.score);
        by_score.then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}
