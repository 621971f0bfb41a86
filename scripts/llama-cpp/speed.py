"""Runs llama.cpp's benchmarks and the engine in turn and prints medians and ratios.

Run through scripts/compare-llama-cpp. Arguments: cache folder, folder of llama.cpp's
binaries, repository, rounds.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

SEQUENCES = ["1", "4", "8", "16"]


def output(*command, stderr=subprocess.DEVNULL):
    return subprocess.run(
        list(map(str, command)), check=True, stdout=subprocess.PIPE, stderr=stderr, text=True
    ).stdout


def llama_cpp(binaries, file, threads):
    """{"pp512": tok/s, "tg 1": …, "tg 4": …}"""
    rates = {}
    bench = output(
        binaries / "llama-bench", "-m", file, "-p", 512, "-n", 64, "-t", threads,
        "-r", 1, "-ub", 512, "-o", "json",
    )
    for run in json.loads(bench):
        name = "pp512" if run["n_prompt"] else "tg 1"
        rates[name] = run["avg_ts"]
    batched = output(
        binaries / "llama-batched-bench", "-m", file, "-npp", 16, "-ntg", 64,
        "-npl", ",".join(SEQUENCES[1:]), "-t", threads, "-tb", threads, "-c", 2048,
        "--output-format", "jsonl",
        # Its results go through its log.
        stderr=subprocess.STDOUT,
    )
    for line in batched.splitlines():
        if line.startswith("{"):
            run = json.loads(line)
            rates[f"tg {run['pl']}"] = run["speed_tg"]
    return rates


def costmark(root, file):
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    run = json.loads(output(target / "release/examples/gguf_speed", file))
    return {"pp512": run["pp512"], **{f"tg {n}": run["tg"][n] for n in SEQUENCES}}


def main():
    cache, binaries, root = map(Path, sys.argv[1:4])
    rounds = int(sys.argv[4])
    threads = len(os.sched_getaffinity(0))
    print(f"{threads} threads, median of {rounds} alternating rounds, tokens per second")
    print(f"{'file':<8} {'test':<6} {'llama.cpp':>10} {'costmark':>10} {'ratio':>6}  spread")
    for kind in ["Q8_0", "Q4_K_M"]:
        file = cache / f"qwen3-0.6b-synthetic-{kind}.gguf"
        theirs, ours = [], []
        for _ in range(rounds):
            theirs.append(llama_cpp(binaries, file, threads))
            ours.append(costmark(root, file))
        for test in ["pp512"] + [f"tg {n}" for n in SEQUENCES]:
            a = [r[test] for r in theirs]
            b = [r[test] for r in ours]
            ma, mb = statistics.median(a), statistics.median(b)
            spread = f"{min(a):.1f}-{max(a):.1f} / {min(b):.1f}-{max(b):.1f}"
            print(f"{kind:<8} {test:<6} {ma:>10.1f} {mb:>10.1f} {mb / ma:>6.2f}  {spread}")


if __name__ == "__main__":
    main()
