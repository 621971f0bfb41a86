"""Writes a GGUF file with seeded random f16 weights. Arguments: shape, file.

The layout is that of llama.cpp's converter; random rows need no permutation.
"""

import sys

import gguf
import numpy as np

SHAPES = {
    # https://huggingface.co/Qwen/Qwen3-0.6B: dimensions of its config.json
    "qwen3-0.6b": dict(
        arch="qwen3", vocab=151936, hidden=1024, mlp=3072, layers=28, heads=16, kv_heads=8,
        head_dim=128, context=40960, theta=1e6, eps=1e-6, tied=True, scale=0.02,
    ),
    # Small enough that serving it is quick, large enough that a step takes milliseconds.
    "peer-qwen3": dict(
        arch="qwen3", vocab=4096, hidden=512, mlp=1536, layers=8, heads=8, kv_heads=4,
        head_dim=64, context=4096, theta=1e6, eps=1e-6, tied=True, scale=0.02,
    ),
    # Small ones for comparing tokens: a width of one super-block, large weights.
    "tiny-llama": dict(
        arch="llama", vocab=256, hidden=256, mlp=512, layers=3, heads=4, kv_heads=2,
        head_dim=64, context=512, theta=1e4, eps=1e-5, tied=False, scale=None,
    ),
    "tiny-qwen2": dict(
        arch="qwen2", vocab=256, hidden=256, mlp=512, layers=3, heads=4, kv_heads=2,
        head_dim=64, context=512, theta=1e6, eps=1e-6, tied=False, scale=None,
    ),
    "tiny-qwen3": dict(
        arch="qwen3", vocab=256, hidden=256, mlp=512, layers=3, heads=4, kv_heads=2,
        head_dim=128, context=512, theta=1e6, eps=1e-6, tied=True, scale=None,
    ),
}


def write(shape, path, seed=1):
    s = SHAPES[shape]
    rng = np.random.default_rng(seed)
    w = gguf.GGUFWriter(path, s["arch"])
    w.add_name(shape)
    w.add_context_length(s["context"])
    w.add_embedding_length(s["hidden"])
    w.add_block_count(s["layers"])
    w.add_feed_forward_length(s["mlp"])
    w.add_head_count(s["heads"])
    w.add_head_count_kv(s["kv_heads"])
    w.add_key_length(s["head_dim"])
    w.add_value_length(s["head_dim"])
    w.add_rope_dimension_count(s["head_dim"])
    w.add_rope_freq_base(s["theta"])
    w.add_layer_norm_rms_eps(s["eps"])
    w.add_vocab_size(s["vocab"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    # Placeholder tokens: both sides are given ids.
    w.add_tokenizer_model("llama")
    w.add_token_list([f"<t{i}>" for i in range(s["vocab"])])
    w.add_token_scores([0.0] * s["vocab"])
    types = [gguf.TokenType.NORMAL] * s["vocab"]
    types[0], types[1], types[2] = (
        gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL,
    )
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)

    def matrix(name, rows, cols):
        scale = s["scale"] or (0.4 if name == "token_embd" else 2.0 / np.sqrt(cols))
        values = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(scale)
        w.add_tensor(f"{name}.weight", values.astype(np.float16))

    def norm(name, n):
        values = 1.0 if s["scale"] else 1.0 + 0.2 * rng.standard_normal(n)
        w.add_tensor(f"{name}.weight", np.broadcast_to(np.float32(values), n).astype(np.float32))

    q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    matrix("token_embd", s["vocab"], s["hidden"])
    norm("output_norm", s["hidden"])
    if not s["tied"]:
        matrix("output", s["vocab"], s["hidden"])
    for i in range(s["layers"]):
        b = f"blk.{i}"
        norm(f"{b}.attn_norm", s["hidden"])
        norm(f"{b}.ffn_norm", s["hidden"])
        for name, rows in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)]:
            matrix(f"{b}.{name}", rows, s["hidden"])
            if s["arch"] == "qwen2":
                bias = 0.3 * rng.standard_normal(rows, dtype=np.float32)
                w.add_tensor(f"{b}.{name}.bias", bias)
        if s["arch"] == "qwen3":
            norm(f"{b}.attn_q_norm", s["head_dim"])
            norm(f"{b}.attn_k_norm", s["head_dim"])
        matrix(f"{b}.attn_output", s["hidden"], q)
        matrix(f"{b}.ffn_gate", s["mlp"], s["hidden"])
        matrix(f"{b}.ffn_up", s["mlp"], s["hidden"])
        matrix(f"{b}.ffn_down", s["hidden"], s["mlp"])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2])
