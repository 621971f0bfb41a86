//! A tiny model and a way to call the real program.

#![allow(dead_code)] // Each test file uses its own part.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a configuration only: weights are made up.
const CONFIG: &str = r#"{
  "architectures": ["Qwen3ForCausalLM"],
  "model_type": "qwen3",
  "hidden_size": 64,
  "intermediate_size": 128,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 32,
  "vocab_size": 256,
  "max_position_embeddings": 256,
  "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0,
  "tie_word_embeddings": true,
  "attention_bias": false,
  "torch_dtype": "bfloat16",
  "eos_token_id": 255
}"#;

/// A place for one test: the tiny model, and room for results.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tiny")).unwrap();
        std::fs::write(dir.path().join("tiny/config.json"), CONFIG).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program, run in this place, without what the caller's environment might add.
    pub(crate) fn costmark(&self, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("costmark").unwrap();
        command
            .current_dir(self.path())
            .env_remove("HF_ENDPOINT")
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", self.path().join("hub"))
            .timeout(std::time::Duration::from_secs(120))
            .args(args);
        command
    }

    /// A measurement of the tiny model: small, quick, priced at a dollar an hour.
    pub(crate) fn run(&self, more: &[&str]) -> Command {
        let mut command = self.costmark(&["run", "--model", "tiny", "--weights", "synthetic:7"]);
        command
            .args(["--dtype", "f32", "--threads", "1", "--price", "1"])
            .args([
                "--input-len",
                "8..24",
                "--output-len",
                "8",
                "--requests",
                "6",
            ])
            .args(more);
        command
    }

    /// The `run.json` of a folder.
    pub(crate) fn document(&self, folder: &str) -> Value {
        let text = std::fs::read_to_string(self.path().join(folder).join("run.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The only folder under `runs/`.
    pub(crate) fn only_run(&self) -> PathBuf {
        let mut folders: Vec<_> = std::fs::read_dir(self.path().join("runs"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(folders.len(), 1, "{folders:?}");
        folders.remove(0)
    }
}

/// What a command that fails says.
pub(crate) fn stderr(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// What a command that succeeds prints.
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of a file of JSON lines; a last one that is cut off is left out.
pub(crate) fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

impl Place {
    /// The tiny model as a folder with real weights, up to this size.
    pub(crate) fn write_checkpoint(&self, name: &str, largest: f32) {
        let folder = self.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("config.json"), CONFIG).unwrap();
        let (hidden, mlp, q, kv, head) = (64, 128, 128, 64, 32);
        let mut shapes = vec![
            ("model.embed_tokens".to_string(), vec![256, hidden]),
            ("model.norm".to_string(), vec![hidden]),
        ];
        for layer in 0..2 {
            for (part, shape) in [
                ("self_attn.q_proj", vec![q, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, q]),
                ("self_attn.q_norm", vec![head]),
                ("self_attn.k_norm", vec![head]),
                ("mlp.gate_proj", vec![mlp, hidden]),
                ("mlp.up_proj", vec![mlp, hidden]),
                ("mlp.down_proj", vec![hidden, mlp]),
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
            ] {
                shapes.push((format!("model.layers.{layer}.{part}"), shape));
            }
        }
        // The format: length of the header, the header as JSON, the data.
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, shape) in shapes {
            let begin = data.len();
            for _ in 0..shape.iter().product::<usize>() {
                // A multiplicative hash of the position: all values differ.
                let hash = (data.len() as u32).wrapping_mul(2_654_435_761);
                let share = f64::from(hash) / f64::from(u32::MAX) * 2.0 - 1.0;
                data.extend_from_slice(&(largest * share as f32).to_le_bytes());
            }
            header.insert(
                format!("{name}.weight"),
                serde_json::json!({
                    "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]
                }),
            );
        }
        let header = Value::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(&data);
        std::fs::write(folder.join("model.safetensors"), file).unwrap();
    }
}
