//! Shapes of models people price, embedded from `configs/models/`.
//!
//! Each file is a Hugging Face `config.json`; its name is the model's name here, its
//! `_name_or_path` the hub id it stands for.

use std::path::Path;

use include_dir::{Dir, include_dir};
use serde::Deserialize;

use crate::config::{self, ModelConfig};
use crate::error::Result;

static MODELS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../configs/models");

#[derive(Deserialize)]
struct Named {
    _name_or_path: String,
}

/// Names of all built-in shapes, sorted.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = MODELS
        .files()
        .filter_map(|file| file.path().file_stem()?.to_str())
        .collect();
    names.sort_unstable();
    names
}

/// The shape with this name or hub id, upper or lower case.
///
/// # Errors
/// When the embedded file is malformed.
pub fn find(name: &str) -> Result<Option<ModelConfig>> {
    let wanted = name.to_lowercase();
    for file in MODELS.files() {
        let (Some(stem), Some(json)) = (
            file.path().file_stem().and_then(|stem| stem.to_str()),
            file.contents_utf8(),
        ) else {
            continue;
        };
        let matches = stem == wanted
            || serde_json::from_str::<Named>(json)
                .is_ok_and(|named| named._name_or_path.to_lowercase() == wanted);
        if matches {
            let path = Path::new("configs/models").join(file.path());
            return config::from_json(stem, &path, json, None).map(Some);
        }
    }
    Ok(None)
}

/// The built-in name most like `name`, if any is close.
#[must_use]
pub fn closest(name: &str) -> Option<&'static str> {
    let wanted = name.to_lowercase();
    names()
        .into_iter()
        .map(|known| (strsim::jaro_winkler(known, &wanted), known))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter counts as the hub's safetensors metadata give them, a tied embedding counted
    /// once.
    #[test]
    fn parameter_counts_are_the_published_ones() {
        let published: [(&str, u64); 18] = [
            ("llama-3.2-1b", 1_235_814_400),
            ("llama-3.2-3b", 3_212_749_824),
            ("llama-3.1-8b", 8_030_261_248),
            ("llama-3.1-70b", 70_553_706_496),
            ("qwen2.5-0.5b", 494_032_768),
            ("qwen2.5-1.5b", 1_543_714_304),
            ("qwen2.5-3b", 3_085_938_688),
            ("qwen2.5-7b", 7_615_616_512),
            ("qwen2.5-14b", 14_770_033_664),
            ("qwen2.5-32b", 32_763_876_352),
            ("qwen3-0.6b", 596_049_920),
            ("qwen3-1.7b", 1_720_574_976),
            ("qwen3-4b", 4_022_468_096),
            ("qwen3-8b", 8_190_735_360),
            ("qwen3-14b", 14_768_307_200),
            ("qwen3-32b", 32_762_123_264),
            ("mistral-7b-v0.3", 7_248_023_552),
            ("mistral-small-24b-2501", 23_572_403_200),
        ];
        let mut expected: Vec<&str> = published.iter().map(|(name, _)| *name).collect();
        expected.sort_unstable();
        assert_eq!(names(), expected);
        for (name, params) in published {
            let config = find(name).unwrap().unwrap();
            assert_eq!(config.shape.params(), params, "{name}");
            assert_eq!(config.sliding_window, None, "{name}");
            assert_eq!(config.name, name);
        }
    }

    /// Hidden size, MLP, layers, query heads, KV heads, vocabulary, context, epsilon of the
    /// norms and rotary base, read off published copies of each model's `config.json`.
    #[test]
    fn shapes_are_the_published_ones() {
        type Published = (u64, u64, u64, u64, u64, u64, u64, f64, f64);
        let published: [(&str, Published); 10] = [
            (
                "llama-3.1-8b",
                (4096, 14336, 32, 32, 8, 128_256, 131_072, 1e-5, 5e5),
            ),
            (
                "llama-3.2-3b",
                (3072, 8192, 28, 24, 8, 128_256, 131_072, 1e-5, 5e5),
            ),
            (
                "qwen2.5-3b",
                (2048, 11008, 36, 16, 2, 151_936, 32_768, 1e-6, 1e6),
            ),
            (
                "qwen2.5-7b",
                (3584, 18944, 28, 28, 4, 152_064, 131_072, 1e-6, 1e6),
            ),
            (
                "qwen2.5-14b",
                (5120, 13824, 48, 40, 8, 152_064, 131_072, 1e-5, 1e6),
            ),
            (
                "qwen2.5-32b",
                (5120, 27648, 64, 40, 8, 152_064, 131_072, 1e-5, 1e6),
            ),
            (
                "qwen3-4b",
                (2560, 9728, 36, 32, 8, 151_936, 40_960, 1e-6, 1e6),
            ),
            (
                "qwen3-8b",
                (4096, 12288, 36, 32, 8, 151_936, 40_960, 1e-6, 1e6),
            ),
            (
                "qwen3-14b",
                (5120, 17408, 40, 40, 8, 151_936, 40_960, 1e-6, 1e6),
            ),
            (
                "qwen3-32b",
                (5120, 25600, 64, 64, 8, 151_936, 40_960, 1e-6, 1e6),
            ),
        ];
        for (name, published) in published {
            let config = find(name).unwrap().unwrap();
            let s = config.shape;
            let ours = (
                s.hidden_size,
                s.intermediate_size,
                s.num_layers,
                s.num_heads,
                s.num_kv_heads,
                s.vocab_size,
                s.max_context,
                config.rms_norm_eps,
                config.rope.theta,
            );
            assert_eq!(ours, published, "{name}");
            assert_eq!(s.head_dim, 128, "{name}");
            assert_eq!(s.qkv_bias, name.starts_with("qwen2.5"), "{name}");
            assert_eq!(s.qk_norm, name.starts_with("qwen3"), "{name}");
        }
    }

    #[test]
    fn found_by_hub_id_and_in_any_case() {
        let by_name = find("QWEN3-0.6B").unwrap().unwrap();
        assert_eq!(find("Qwen/Qwen3-0.6B").unwrap().unwrap(), by_name);
        assert_eq!(find("qwen3-0.7b").unwrap(), None);
        assert_eq!(closest("qwen3-06b"), Some("qwen3-0.6b"));
        assert_eq!(closest("llama3.1-8b"), Some("llama-3.1-8b"));
        assert_eq!(closest("zzz"), None);
    }
}
