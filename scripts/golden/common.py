"""What both halves of make-golden share: prompts in, greedy continuations and logits out."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# Tokens generated after each prompt; logits are kept for each of them.
CONTINUATION = 13


def greedy(model, prompt, steps=CONTINUATION):
    """Logits (steps, vocabulary) f32 and greedy ids, the whole sequence computed anew for
    every token: no cache, so nothing a cache could get wrong."""
    ids = list(prompt)
    rows = []
    with torch.no_grad():
        for _ in range(steps):
            out = model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
            rows.append(out)
            ids.append(int(out.argmax()))
    return torch.stack(rows), ids[len(prompt):]


def smallest_margin(logits):
    """How far the best token is ahead of the second, at its closest."""
    top = logits.topk(2, dim=-1).values
    return float((top[:, 0] - top[:, 1]).min())


def write_golden(stem: Path, prompts, model):
    """`<stem>.json`: prompts and greedy ids. `<stem>.safetensors`: logits.<prompt>."""
    tensors, cases = {}, []
    for i, prompt in enumerate(prompts):
        logits, ids = greedy(model, prompt)
        tensors[f"logits.{i}"] = logits.contiguous()
        cases.append({"prompt": list(map(int, prompt)), "greedy": ids})
    save_file(tensors, str(stem.with_suffix(".safetensors")))
    text = ",\n  ".join(json.dumps(case) for case in cases)
    stem.with_suffix(".json").write_text(f"[\n  {text}\n]\n")
    return min(smallest_margin(t) for t in tensors.values())


def read_golden(stem: Path):
    cases = json.loads(stem.with_suffix(".json").read_text())
    logits = load_file(str(stem.with_suffix(".safetensors")))
    return [(c["prompt"], c["greedy"], logits[f"logits.{i}"]) for i, c in enumerate(cases)]
