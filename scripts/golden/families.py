"""The tiny checkpoints: one entry per folder under tests/golden.

Dimensions are the smallest that keep every switch of the family in play: grouped queries,
a head width that is not hidden / heads where the family allows it, an MLP width that is not
a multiple of the hidden one, several layers.
"""

from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

BASE = dict(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
    attn_implementation="eager",
    use_cache=True,
)
# Widths that are whole blocks of the quantisations with 32 weights a block.
WIDE = {**BASE, "intermediate_size": 96}
# An odd number of heads, all or none of them sharing keys and values.
HALF = {**BASE, "hidden_size": 48, "num_attention_heads": 3}
del HALF["num_key_value_heads"]
# Only the lockstep backend runs these; they are kept even smaller.
SMALL = {**BASE, "hidden_size": 32, "intermediate_size": 48}

# Turns over the original context bracket all three pieces of the scaling within 70 tokens.
LLAMA3_ROPE = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)

# name -> (configuration, dtype of the file, largest shard)
FAMILIES = {
    "llama": (LlamaConfig(**WIDE, tie_word_embeddings=False), "float32", None),
    "llama3": (
        LlamaConfig(
            **BASE,
            tie_word_embeddings=True,
            rope_parameters={**LLAMA3_ROPE, "rope_theta": 10000.0},
        ),
        "float32",
        None,
    ),
    # Untied and in three files.
    "mistral": (
        MistralConfig(
            **{**BASE, "hidden_size": 48, "sliding_window": 11},
            tie_word_embeddings=False,
            head_dim=16,
        ),
        "float32",
        "90KB",
    ),
    "qwen2": (Qwen2Config(**BASE, tie_word_embeddings=False), "float32", None),
    # head_dim × heads = 64 while hidden = 48; a vocabulary that holds every byte.
    "qwen3": (
        Qwen3Config(
            **{**BASE, "hidden_size": 48, "vocab_size": 288},
            head_dim=16,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        "float32",
        None,
    ),
    "llama-bf16": (LlamaConfig(**HALF, num_key_value_heads=3, tie_word_embeddings=False), "bfloat16", None),
    "qwen2-f16": (Qwen2Config(**HALF, num_key_value_heads=1, tie_word_embeddings=True), "float16", None),
    "phi3": (Phi3Config(**SMALL, tie_word_embeddings=False), "float32", None),
    "gemma2": (
        Gemma2Config(
            **SMALL,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=256,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
        ),
        "float32",
        None,
    ),
    "gemma3": (
        # candle-transformers runs it with one key-value head only.
        Gemma3TextConfig(
            **{**SMALL, "num_key_value_heads": 1},
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=256,
            layer_types=["sliding_attention", "full_attention"],
        ),
        "float32",
        None,
    ),
}
