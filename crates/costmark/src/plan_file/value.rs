//! From a value of a file to what would have been typed.

use std::error::Error;
use std::ops::Range;

use clap::Arg;
use clap::error::{ContextKind, ContextValue};
use toml::de::DeValue;

use super::takes_list;

/// A value as typed, and where it stands if that is known more closely than its key.
type Text = (String, Option<Range<usize>>);

/// The values of a key; none of a flag that takes none; nothing at all of one that is false.
pub(super) fn texts(flag: &Arg, value: &DeValue<'_>) -> Result<Option<Vec<Text>>, String> {
    if !flag.get_action().takes_values() {
        return match value {
            DeValue::Boolean(true) => Ok(Some(Vec::new())),
            DeValue::Boolean(false) => Ok(None),
            _ => Err("takes true or false".into()),
        };
    }
    match value {
        DeValue::Array(all) if takes_list(flag) => {
            if all.is_empty() {
                return Err("the list is empty; leave the key out for the default".into());
            }
            let texts = all
                .iter()
                .map(|value| Ok((scalar(value.get_ref())?, Some(value.span()))));
            texts.collect::<Result<Vec<_>, String>>().map(Some)
        }
        DeValue::Array(_) => Err("takes one value, not a list".into()),
        value => Ok(Some(vec![(scalar(value)?, None)])),
    }
}

fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|n| n.to_string())
            .map_err(|_| format!("{} is too large", number.as_str())),
        DeValue::Float(number) => Ok(number.as_str().to_string()),
        DeValue::Boolean(_) => Err("takes a number or text, not true or false".into()),
        other => Err(format!(
            "takes a number or text, not a {}",
            other.type_str()
        )),
    }
}

/// What clap says of a value, without the flag and the call around it.
pub(super) fn complaint(text: &str, error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        let why = source.to_string();
        return match why.contains(text) {
            true => why,
            false => format!("`{text}`: {why}"),
        };
    }
    let listed = |kind| match error.get(kind) {
        Some(ContextValue::Strings(all)) if !all.is_empty() => Some(all.join(", ")),
        Some(ContextValue::String(one)) => Some(one.clone()),
        _ => None,
    };
    let expected = listed(ContextKind::ValidValue);
    let hint = listed(ContextKind::SuggestedValue);
    format!(
        "`{text}`{}{}",
        expected.map_or(" cannot be read".into(), |all| format!(
            ": expected one of {all}"
        )),
        hint.map_or(String::new(), |near| format!(", did you mean `{near}`?"))
    )
}
