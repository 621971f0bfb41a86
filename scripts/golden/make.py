"""Makes the tiny checkpoints, their golden logits, a tokenizer and three GGUF files.

Run through scripts/make-golden. Argument: the folder to write into.
"""

import copy
import importlib.metadata
import platform
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import safetensors
import tokenizers
import torch
import transformers
from transformers import AutoModelForCausalLM

from common import CONTINUATION, greedy, smallest_margin, write_golden
from families import FAMILIES
from gguf_files import write_gguf_files
from tokenizer import make_tokenizer

# Prompts share their first tokens so that a prefix cache has something to find; one is a
# single token; one reaches past a block of 32 and of 64 tokens.
PROMPT_LENGTHS = [1, 19, 37, 70]
SHARED = 34
# A greedy choice closer than this could flip with the order of a summation.
MARGIN = 0.05
# A continuation that repeats itself proves little.
DISTINCT = 5


def randomise(model, rng):
    """Seeded weights large enough that a wrong rotation, mask or head order shows in the
    first digit of the logits. Norms and biases are random too."""
    gemma = "gemma" in model.config.model_type
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            x = rng.standard_normal(p.shape)
            if p.ndim == 1 and name.endswith("norm.weight"):
                # Gemma's norms multiply by 1 + weight. Those behind the blocks and the last
                # one are large, so that the blocks and not the embedding decide.
                large = "post_" in name or name == "model.norm.weight"
                shift = (1.5 if large else 0.0) if gemma else 1.0
                x = shift + 0.3 * x
            elif p.ndim == 1:
                x = 0.5 * x
            elif "embed_tokens" in name:
                # Gemma scales embeddings up; large ones would only repeat the last token.
                x = (0.12 if gemma else 0.4) * x
            else:
                x = 2.2 * x / np.sqrt(p.shape[1])
            p.copy_(torch.from_numpy(x.astype(np.float32)))


def prompts_for(rng, vocab):
    longest = rng.integers(3, vocab, max(PROMPT_LENGTHS)).tolist()
    prompts = []
    for n in PROMPT_LENGTHS:
        own = rng.integers(3, vocab, max(PROMPT_LENGTHS)).tolist()
        prompts.append((longest[: min(n, SHARED)] + own)[:n])
    prompts[-1] = longest
    return prompts


def good(model, prompts):
    for prompt in prompts:
        logits, ids = greedy(model, prompt)
        if smallest_margin(logits) < MARGIN or len(set(ids)) < DISTINCT:
            return False
    return True


def make_family(out, name, config, dtype, shard):
    folder = out / name
    folder.mkdir(parents=True)
    for attempt in range(1000):
        rng = np.random.default_rng([zlib.crc32(name.encode()), attempt])
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
        randomise(model, rng)
        # Rounded to what the file will hold, computed with in f32.
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.to(getattr(torch, dtype)).float())
        model.eval()
        prompts = prompts_for(rng, config.vocab_size)
        if good(model, prompts):
            break
    else:
        raise SystemExit(f"{name}: no seed gives continuations with a clear winner")
    shards = {"max_shard_size": shard} if shard else {}
    margin = write_golden(folder / "golden", prompts, model)
    copy.deepcopy(model).to(getattr(torch, dtype)).save_pretrained(folder, **shards)
    print(f"{name}: seed {attempt}, smallest margin {margin:.3f}")
    return model, prompts


def main():
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    made = {name: make_family(out, name, *spec) for name, spec in FAMILIES.items()}
    make_tokenizer(out / "qwen3", FAMILIES["qwen3"][0].vocab_size)
    write_gguf_files(out, made)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": np.__version__,
        "gguf": importlib.metadata.version("gguf"),
    }
    (out / "README.md").write_text(readme(versions))


def readme(versions):
    table = "\n".join(f"| {k} | {v} |" for k, v in versions.items())
    return f"""# Golden checkpoints

Made by `scripts/make-golden`; do not edit. Tiny checkpoints with seeded random weights and
the logits Hugging Face transformers computes for them on a CPU in f32 with eager attention
and without a KV cache.

Per folder: `config.json` as transformers 5 writes it, `config.transformers4.json` as
transformers 4 does, the weights, `golden.json` (prompts of {PROMPT_LENGTHS} tokens, the
three longer ones sharing up to {SHARED} first tokens; {CONTINUATION} greedy tokens each) and
`golden.safetensors` (`logits.N`: one row per greedy token of prompt N). In bf16 and f16
folders the logits belong to the rounded weights, computed with in f32.

Every greedy token is at least {MARGIN} ahead of the runner-up.

`gguf/` holds files written with the `gguf` package in the layout llama.cpp's converter uses
(query and key rows of the llama architecture interleaved), each with the golden logits of
its own, dequantised weights. `sentencepiece*.gguf` hold small SentencePiece vocabularies
(the second without any tensor), `sentencepiece*.json` texts and the token ids SentencePiece
{importlib.metadata.version("sentencepiece")} makes of them.

| made with | version |
|---|---|
{table}
"""


if __name__ == "__main__":
    main()
