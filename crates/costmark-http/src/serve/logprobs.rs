//! Log-probabilities in the two shapes the protocol has for them.

use costmark_core::TokenLogprobs;
use serde_json::{Map, Value, json};

use super::text::Detokenizer;

/// Log-probabilities of one token, and where in the answer's text it stands.
pub(crate) struct Told {
    pub(crate) logprobs: TokenLogprobs,
    /// Characters of the answer before it.
    pub(crate) text_offset: usize,
}

/// `logprobs` of a choice of `/v1/chat/completions`.
pub(crate) fn chat(told: &[Told], words: &Detokenizer) -> Value {
    let entry = |id: u32, logprob: f32| {
        let spelt = words.spell(id);
        let bytes = spelt.as_ref().map(String::as_bytes);
        json!({"token": name(id, spelt.as_deref()), "logprob": logprob, "bytes": bytes})
    };
    let content = told.iter().map(|Told { logprobs, .. }| {
        let mut token = entry(logprobs.token_id, logprobs.logprob);
        let top = logprobs.top.iter();
        token["top_logprobs"] = top.map(|&(id, logprob)| entry(id, logprob)).collect();
        token
    });
    json!({"content": content.collect::<Value>(), "refusal": null})
}

/// `logprobs` of a choice of `/v1/completions`. The chosen token is among the likeliest it
/// lists, even where it is not one of them.
pub(crate) fn completions(told: &[Told], words: &Detokenizer) -> Value {
    let name = |id: u32| name(id, words.spell(id).as_deref());
    let (mut tokens, mut chosen, mut likeliest, mut offsets) = (vec![], vec![], vec![], vec![]);
    for Told {
        logprobs,
        text_offset,
    } in told
    {
        tokens.push(name(logprobs.token_id));
        chosen.push(logprobs.logprob);
        offsets.push(*text_offset);
        let own = (logprobs.token_id, logprobs.logprob);
        let all = logprobs.top.iter().copied().chain([own]);
        let top: Map<String, Value> = all.map(|(id, p)| (name(id), p.into())).collect();
        likeliest.push(top);
    }
    json!({
        "tokens": tokens,
        "token_logprobs": chosen,
        "top_logprobs": likeliest,
        "text_offset": offsets,
    })
}

/// What a token is called: its text, or its id where it is no text by itself, since names must
/// tell tokens apart.
fn name(id: u32, spelt: Option<&str>) -> String {
    spelt.map_or_else(|| format!("token_id:{id}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::serve::TextModel;

    /// Letters, and one half of a character.
    struct Letters;

    impl TextModel for Letters {
        fn encode(&self, _: &str, _: bool) -> Result<Vec<u32>, String> {
            Err("not asked".into())
        }

        fn decode(&self, ids: &[u32]) -> Result<String, String> {
            let letter = |&id: &u32| char::from_u32(id).unwrap_or('\u{fffd}');
            Ok(ids.iter().map(letter).collect())
        }
    }

    const HALF: u32 = 0xd800;

    fn told() -> [Told; 2] {
        [(0xe9, vec![(0xe9, -0.5), (HALF, -1.5)]), (HALF, vec![])].map(|(token_id, top)| Told {
            logprobs: TokenLogprobs {
                request: 1,
                token_id,
                logprob: -0.5,
                top,
            },
            text_offset: 7,
        })
    }

    #[test]
    fn each_interface_has_its_shape() {
        let words = Detokenizer::new(Some(Arc::new(Letters)));
        assert_eq!(
            chat(&told(), &words),
            json!({"refusal": null, "content": [
                {"token": "é", "logprob": -0.5, "bytes": [0xc3, 0xa9], "top_logprobs": [
                    {"token": "é", "logprob": -0.5, "bytes": [0xc3, 0xa9]},
                    {"token": "token_id:55296", "logprob": -1.5, "bytes": null},
                ]},
                {"token": "token_id:55296", "logprob": -0.5, "bytes": null, "top_logprobs": []},
            ]})
        );
        assert_eq!(
            completions(&told(), &words),
            json!({
                "tokens": ["é", "token_id:55296"],
                "token_logprobs": [-0.5, -0.5],
                "top_logprobs": [{"é": -0.5, "token_id:55296": -1.5}, {"token_id:55296": -0.5}],
                "text_offset": [7, 7],
            })
        );
    }
}
