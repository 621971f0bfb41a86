//! LiteLLM's `model_prices_and_context_window.json`: one object per model, prices per token.

use serde_json::{Map, Value};

use crate::api::{ListPrice, LongContext};
use crate::cost::TOKENS_PER_MTOK;
use crate::error::BookError;
use crate::import::{Imported, Origin, Rejected};

/// Reads the prices of one provider (as LiteLLM names it in `litellm_provider`), or of all.
///
/// # Errors
/// When the text is not a JSON object of models. Models that can not be priced are returned, not
/// errors; what is not sold by the token (images, embeddings, speech) is passed over.
pub fn import_litellm(
    file: &str,
    text: &str,
    provider: Option<&str>,
    origin: &Origin,
) -> Result<Imported<ListPrice>, BookError> {
    let error = |problem: String| BookError::Book {
        file: file.to_owned(),
        problem,
    };
    let models: Map<String, Value> = serde_json::from_str(text).map_err(|e| {
        error(format!(
            "not LiteLLM's table of model prices, which is a JSON object of models: {e}"
        ))
    })?;
    let (mut prices, mut rejected) = (Vec::<ListPrice>::new(), Vec::new());
    for (n, (name, entry)) in models.iter().enumerate() {
        let Some(entry) = entry.as_object() else {
            rejected.push(Rejected {
                line: n + 1,
                name: name.clone(),
                reason: String::from("not an object"),
            });
            continue;
        };
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let seller = text("litellm_provider").unwrap_or_default();
        let by_token = matches!(text("mode"), Some("chat" | "completion" | "responses"));
        if name == "sample_spec" || !by_token || provider.is_some_and(|p| p != seller) {
            continue;
        }
        match list_price(name, seller, entry, origin) {
            Ok(price) => {
                let twice = prices
                    .iter()
                    .any(|p| p.reference().eq_ignore_ascii_case(&price.reference()));
                if twice {
                    rejected.push(Rejected {
                        line: n + 1,
                        name: name.clone(),
                        reason: String::from("the same model under another name"),
                    });
                } else {
                    prices.push(price);
                }
            }
            Err(reason) => rejected.push(Rejected {
                line: n + 1,
                name: name.clone(),
                reason,
            }),
        }
    }
    Ok(Imported { prices, rejected })
}

fn list_price(
    name: &str,
    seller: &str,
    entry: &Map<String, Value>,
    origin: &Origin,
) -> Result<ListPrice, String> {
    if seller.is_empty() || seller.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(String::from("litellm_provider is missing or not a name"));
    }
    // `deepinfra/openai/gpt-oss-20b` is the model `openai/gpt-oss-20b` of deepinfra.
    let model = name
        .strip_prefix(seller)
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(name);
    if model.is_empty() || model.contains(char::is_whitespace) {
        return Err(String::from("the name is empty or holds spaces"));
    }
    // 0 stands for "not charged" and for "not known": neither is a price.
    let per_mtok = |key: &str| -> Result<Option<f64>, String> {
        match entry.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(0.0) => Ok(None),
                Some(x) if x.is_finite() && x > 0.0 && (x * TOKENS_PER_MTOK).is_finite() => {
                    Ok(Some(round(x * TOKENS_PER_MTOK)))
                }
                _ => Err(format!("{key} is {value}, which is no price")),
            },
        }
    };
    let needed = |key: &str| per_mtok(key)?.ok_or_else(|| format!("{key} is missing or 0"));
    let (batch_input, batch_output) = (
        per_mtok("input_cost_per_token_batches")?,
        per_mtok("output_cost_per_token_batches")?,
    );
    let both = batch_input.is_some() && batch_output.is_some();
    Ok(ListPrice {
        provider: seller.to_owned(),
        model: model.to_owned(),
        input: needed("input_cost_per_token")?,
        cached_read: per_mtok("cache_read_input_token_cost")?,
        cache_write: per_mtok("cache_creation_input_token_cost")?,
        cache_write_1h: per_mtok("cache_creation_input_token_cost_above_1hr")?,
        output: needed("output_cost_per_token")?,
        batch_input: batch_input.filter(|_| both),
        batch_output: batch_output.filter(|_| both),
        long_context: long_context(entry, &per_mtok)?,
        retires: entry
            .get("deprecation_date")
            .and_then(Value::as_str)
            .and_then(|day| day.parse().ok()),
        as_of: origin.as_of,
        source: origin.source.clone(),
        suspect: None,
        note: None,
    })
}

/// The lowest tier of prompt length that has its own prices.
fn long_context(
    entry: &Map<String, Value>,
    per_mtok: &impl Fn(&str) -> Result<Option<f64>, String>,
) -> Result<Option<LongContext>, String> {
    let tier = entry
        .keys()
        .filter_map(|key| {
            key.strip_prefix("input_cost_per_token_above_")?
                .strip_suffix("k_tokens")?
                .parse::<u64>()
                .ok()
                .filter(|k| *k > 0 && *k < u64::MAX / 1000)
        })
        .min();
    let Some(k) = tier else {
        return Ok(None);
    };
    let at = |key: &str| per_mtok(&format!("{key}_above_{k}k_tokens"));
    match (at("input_cost_per_token")?, at("output_cost_per_token")?) {
        (Some(input), Some(output)) => Ok(Some(LongContext {
            over_tokens: k * 1000,
            input,
            cached_read: at("cache_read_input_token_cost")?,
            cache_write: at("cache_creation_input_token_cost")?,
            output,
        })),
        _ => Err(format!(
            "prompts above {k}k tokens have a price for input or output alone"
        )),
    }
}

/// Per-token prices are decimal fractions; a million times a float of one shows its last bits.
fn round(usd: f64) -> f64 {
    let rounded = (usd * 1e9).round() / 1e9;
    if rounded > 0.0 { rounded } else { usd }
}
