"""Greedy tokens of llama.cpp and of the engine on files that llama-quantize wrote.

Run through scripts/compare-llama-cpp --check. Arguments: cache folder, folder of
llama.cpp's binaries, repository.

Both sides quantise activations, but round and sum in another order, so a close call may
fall the other way: tokens must agree up to the first one whose two best logits in
llama.cpp lie closer together than CLOSE.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import llama_cpp
import numpy as np
from synthetic import SHAPES, write

TOKENS = 32
# Of logits that span about ±8.
CLOSE = 0.3


def theirs(file, prompt):
    """Greedy tokens, and how far each was ahead of the second best."""
    model = llama_cpp.Llama(str(file), n_ctx=256, logits_all=False, verbose=False)
    model.eval(prompt)
    tokens, margins = [], []
    for _ in range(TOKENS):
        n = model.n_vocab()
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(model.ctx), shape=(n,))
        best = np.argsort(logits)[-2:]
        tokens.append(int(best[1]))
        margins.append(float(logits[best[1]] - logits[best[0]]))
        model.eval(tokens[-1:])
    return tokens, margins


def ours(root, file, prompt):
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    command = [
        target / "release/examples/gguf_greedy", file, ",".join(map(str, prompt)), TOKENS,
    ]
    run = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def main():
    cache, binaries, root = map(Path, sys.argv[1:4])
    rng = np.random.default_rng(5)
    failed = compared = 0
    for shape in [name for name in SHAPES if name.startswith("tiny-")]:
        f16 = cache / f"{shape}-f16.gguf"
        write(shape, str(f16))
        for kind in ["F16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"]:
            file = cache / f"{shape}-{kind}.gguf"
            if kind == "F16":
                file = f16
            else:
                subprocess.run(
                    [binaries / "llama-quantize", f16, file, kind],
                    check=True, capture_output=True,
                )
            agreed = 0
            for length in [1, 9, 40]:
                prompt = rng.integers(3, SHAPES[shape]["vocab"], length).tolist()
                expected, margins = theirs(file, prompt)
                found = ours(root, file, prompt)
                same = next((i for i in range(TOKENS) if expected[i] != found[i]), TOKENS)
                agreed += same
                compared += same
                if same < TOKENS and margins[same] > CLOSE:
                    failed += 1
                    print(f"{file.name}, prompt of {length}: token {same} is {found[same]}, "
                          f"llama.cpp says {expected[same]} by {margins[same]:.2f}")
            print(f"{file.name}: {agreed} of {3 * TOKENS} tokens equal before a close call")
    print(f"{compared} tokens equal, {failed} sequences differ")
    sys.exit(failed > 0 or compared < TOKENS)


if __name__ == "__main__":
    main()
