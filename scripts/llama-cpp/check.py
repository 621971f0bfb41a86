"""Greedy tokens of llama.cpp and of the engine on files that llama-quantize wrote, and texts
tokenised by llama.cpp and by the tests' golden values.

Run through scripts/compare-llama-cpp --check. Arguments: cache folder, folder of
llama.cpp's binaries, repository.

Both sides quantise activations, but round and sum in another order, so a close call may
fall the other way: where the tokens differ, llama.cpp's best logit must be ahead of its
second by less than CLOSE standard deviations of the row. From there the engine goes on
with llama.cpp's token, so that every token is compared.
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
CLOSE = 0.25
# Of all tokens; random weights leave many calls close.
LEAST_EQUAL = 0.85


def theirs(file, prompt):
    """Greedy tokens, and how many standard deviations each was ahead of the second best."""
    model = llama_cpp.Llama(str(file), n_ctx=256, logits_all=False, verbose=False)
    model.eval(prompt)
    tokens, margins = [], []
    for _ in range(TOKENS):
        n = model.n_vocab()
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(model.ctx), shape=(n,))
        best = np.argsort(logits)[-2:]
        tokens.append(int(best[1]))
        margins.append(float((logits[best[1]] - logits[best[0]]) / logits.std()))
        model.eval(tokens[-1:])
    return tokens, margins


def ours(root, file, prompt, tokens):
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    command = [
        target / os.environ.get("PROFILE", "release") / "examples/gguf_greedy", file, ",".join(map(str, prompt)), tokens,
    ]
    run = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def texts(root):
    """How many golden texts llama.cpp tokenises in another way."""
    folder = root / "crates/costmark-engine/tests/golden/gguf"
    wrong = 0
    for stem in ["sentencepiece", "sentencepiece-bare"]:
        model = llama_cpp.Llama(str(folder / f"{stem}.gguf"), vocab_only=True, verbose=False)
        cases = json.loads((folder / f"{stem}.json").read_text())
        for case in cases:
            # Begin and end tokens as the file says, which is what add_bos stands for.
            ids = model.tokenize(case["text"].encode(), add_bos=True, special=True)
            if ids != case["ids"]:
                wrong += 1
                print(f"{stem}: {case['text']!r} is {case['ids']}, llama.cpp says {ids}")
        print(f"{stem}: {len(cases)} texts")
    return wrong


def main():
    cache, binaries, root = map(Path, sys.argv[1:4])
    wrong = texts(root)
    rng = np.random.default_rng(5)
    failed = equal = total = 0
    for shape in [name for name in SHAPES if name.startswith("tiny-")]:
        f16 = cache / f"{shape}-F16.gguf"
        write(shape, str(f16))
        for kind in ["F16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"]:
            file = cache / f"{shape}-{kind}.gguf"
            if kind != "F16":
                subprocess.run(
                    [binaries / "llama-quantize", f16, file, kind],
                    check=True, capture_output=True,
                )
            same = 0
            for length in [1, 9, 40]:
                prompt = rng.integers(3, SHAPES[shape]["vocab"], length).tolist()
                expected, margins = theirs(file, prompt)
                at = 0
                while at < TOKENS:
                    found = ours(root, file, prompt + expected[:at], TOKENS - at)
                    pairs = zip(expected[at:], found)
                    agreed = next((i for i, (a, b) in enumerate(pairs) if a != b), len(found))
                    same += agreed
                    at += agreed
                    if at < TOKENS and margins[at] > CLOSE:
                        failed += 1
                        print(f"{file.name}, prompt of {length}: token {at} is {found[agreed]}, "
                              f"llama.cpp says {expected[at]} by {margins[at]:.2f} deviations")
                    at += 1
            print(f"{file.name}: {same} of {3 * TOKENS} tokens equal")
            equal += same
            total += 3 * TOKENS
    print(f"{equal} of {total} tokens equal, {failed} differ clearly; {wrong} texts differ")
    sys.exit(wrong > 0 or failed > 0 or equal < LEAST_EQUAL * total)


if __name__ == "__main__":
    main()
