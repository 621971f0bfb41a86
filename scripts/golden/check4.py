"""Has the older transformers write its config.json and compute the same logits.

Run through scripts/make-golden after make.py. Argument: the folder make.py wrote.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from common import greedy, read_golden


def to_version_4(config):
    """Version 5 keeps the rotary settings and the dtype in fields version 4 does not read.
    Gemma 3 has two bases, one per kind of layer."""
    rope = config.pop("rope_parameters", None) or {}
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
        # Every n-th layer sees everything.
        config["sliding_window_pattern"] = config["layer_types"].index("full_attention") + 1
    rope = dict(rope)
    config["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype", "float32")
    return config


def main():
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for golden in sorted(out.glob("*/golden.json")):
        folder = golden.parent
        with tempfile.TemporaryDirectory() as old:
            old = Path(old)
            for file in folder.glob("model*"):
                (old / file.name).write_bytes(file.read_bytes())
            new = json.loads((folder / "config.json").read_text())
            (old / "config.json").write_text(json.dumps(to_version_4(new)))
            # Read and written again: the defaults are those of version 4.
            AutoConfig.from_pretrained(old).save_pretrained(old)
            text = (old / "config.json").read_text()
            (folder / "config.transformers4.json").write_text(text)
            model = AutoModelForCausalLM.from_pretrained(
                old, torch_dtype=torch.float32, attn_implementation="eager"
            ).eval()
        worst = 0.0
        for prompt, ids, logits in read_golden(folder / "golden"):
            mine, my_ids = greedy(model, prompt)
            assert my_ids == ids, folder.name
            worst = max(worst, float((mine - logits).abs().max()))
        assert worst < 1e-4, f"{folder.name}: {worst}"
        print(f"{folder.name}: transformers {transformers.__version__} agrees to {worst:.1e}")


if __name__ == "__main__":
    main()
