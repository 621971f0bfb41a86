"""GGUF files as llama.cpp's converter lays them out, from the tiny checkpoints."""

import copy
import json

import gguf
import numpy as np
import torch

from common import write_golden

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    if name.startswith("model.layers."):
        _, _, layer, *middle, kind = name.split(".")
        return f"blk.{layer}.{NAMES['.'.join(middle)]}.{kind}"
    return {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }[name]


def interleave(weight, heads):
    """Rows of a query or key projection from rotary halves to rotary pairs: what was row i
    and row i + half of a head become neighbours."""
    rows, cols = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def llama3_factors(config):
    """Divisors of the rotary frequencies, as the converter stores them in `rope_freqs`."""
    rope = config.rope_parameters
    dim = config.hidden_size // config.num_attention_heads
    freqs = 1.0 / rope["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    original = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for freq in freqs:
        turns = original * freq / (2 * np.pi)
        if turns > high:
            factors.append(1.0)
        elif turns < low:
            factors.append(rope["factor"])
        else:
            smooth = (turns - low) / (high - low)
            factors.append(1.0 / ((1.0 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def stored(name, values, kind):
    """One tensor as the file holds it, and the f32 values a reader gets back."""
    if values.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
        return values, values, gguf.GGMLQuantizationType.F32
    blocks = gguf.quants.quantize(values, kind)
    return blocks, gguf.quants.dequantize(blocks, kind).reshape(values.shape), kind


def write(path, arch, model, kind, tokenizer=None):
    """Writes the file and returns a copy of the model with the file's own values."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_name(path.stem)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(
        gguf.LlamaFileType.MOSTLY_F16
        if kind == gguf.GGMLQuantizationType.F16
        else gguf.LlamaFileType.MOSTLY_Q8_0
    )
    add_vocabulary(writer, config, tokenizer)
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    state = model.state_dict()
    read_back = {}
    for name, tensor in state.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy().astype(np.float32)
        blocks, values, used = stored(name, values, kind)
        read_back[name] = torch.from_numpy(np.ascontiguousarray(values))
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads
            if name.endswith("k_proj.weight"):
                heads = config.num_key_value_heads
            blocks = interleave(blocks, heads)
        raw = used if used != gguf.GGMLQuantizationType.F32 else None
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(blocks), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    rounded = copy.deepcopy(model)
    rounded.load_state_dict(read_back, strict=False)
    rounded.tie_weights()
    return rounded.eval()


def add_vocabulary(writer, config, tokenizer):
    """A byte-level BPE vocabulary, or placeholder tokens: llama.cpp loads no file without."""
    if tokenizer is None:
        tokens = [f"<t{i}>" for i in range(config.vocab_size)]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * len(tokens))
        types = [gguf.TokenType.NORMAL] * len(tokens)
        types[0] = gguf.TokenType.UNKNOWN
        types[1] = types[2] = gguf.TokenType.CONTROL
        writer.add_token_types(types)
    else:
        vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda kv: kv[1])
        special = {t["content"] for t in tokenizer["added_tokens"]}
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([token for token, _ in vocab])
        writer.add_token_types(
            [
                gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL
                for token, _ in vocab
            ]
        )
        writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)


def write_gguf_files(out, made):
    folder = out / "gguf"
    folder.mkdir()
    tokenizer = json.loads((out / "qwen3" / "tokenizer.json").read_text())
    f16, q8_0 = gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0
    for stem, arch, family, kind, vocabulary in [
        ("llama-q8_0", "llama", "llama", q8_0, None),
        ("llama3-f16", "llama", "llama3", f16, None),
        ("qwen3-f16", "qwen3", "qwen3", f16, tokenizer),
    ]:
        model, prompts = made[family]
        rounded = write(folder / f"{stem}.gguf", arch, model, kind, vocabulary)
        margin = write_golden(folder / stem, prompts, rounded)
        print(f"{stem}.gguf: smallest margin {margin:.3f}")
