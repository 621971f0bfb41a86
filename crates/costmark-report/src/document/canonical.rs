//! A form of JSON that is the same for equal content, and its hash.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// SHA-256, 64 hexadecimal digits, of the canonical form of `value`: JSON without white
/// space, the keys of every object in ascending order of their bytes.
///
/// # Panics
/// Never: wire types have string keys, and those always serialise.
#[must_use]
pub fn canonical_hash(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    let mut text = String::new();
    write(&value, &mut text);
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            text.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(&map[key], text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_form_does_not_depend_on_the_order_of_keys() {
        let mut text = String::new();
        write(
            &json!({"b": [1, {"z": null, "a": 2.5}], "a": "é\""}),
            &mut text,
        );
        assert_eq!(text, r#"{"a":"é\"","b":[1,{"a":2.5,"z":null}]}"#);
    }

    /// `printf '{"a":1,"b":2}' | sha256sum`
    #[test]
    fn the_hash_is_that_of_the_form() {
        assert_eq!(
            canonical_hash(&json!({"b": 2, "a": 1})),
            "43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777"
        );
    }
}
