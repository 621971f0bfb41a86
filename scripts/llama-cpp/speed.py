"""Runs llama.cpp's benchmarks, the engine and candle's own quantised model in turn on the
same files, and prints medians, their spread and ratios, with the memory bandwidth measured
in between.

Run through scripts/compare-llama-cpp. Arguments: cache folder, folder of llama.cpp's
binaries, repository, rounds, kinds of file (comma separated), folder for results or "".
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

SEQUENCES = ["1", "4", "8", "16"]
TESTS = ["pp512"] + [f"tg {n}" for n in SEQUENCES]
PEERS = ["llama.cpp", "candle"]


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


def example(target, name, file):
    run = json.loads(output(target / "release/examples" / name, file))
    return {"pp512": run["pp512"], **{f"tg {n}": rate for n, rate in run["tg"].items()}}


def bandwidth(target):
    """GB/s read by all threads."""
    peaks = json.loads(output(target / "release/costmark", "probe", "--json"))["peaks"]
    return peaks["read_bytes_per_s"]["best"] / 1e9


def measure(cache, binaries, target, rounds, kinds, threads):
    readings, rates = [bandwidth(target)], []
    for kind in kinds:
        file = cache / f"qwen3-0.6b-synthetic-{kind}.gguf"
        bytes_read = file.stat().st_size
        for number in range(rounds):
            found = {
                "llama.cpp": llama_cpp(binaries, file, threads),
                "costmark": example(target, "gguf_speed", file),
                "candle": example(target, "gguf_candle", file),
            }
            readings.append(bandwidth(target))
            rates.append({"kind": kind, "round": number, "bytes": bytes_read, "tok_per_s": found,
                          "read_gb_per_s": readings[-1]})
            print(f"{kind}, round {number + 1} of {rounds}: read {readings[-1]:.1f} GB/s, {found}",
                  file=sys.stderr, flush=True)
    return readings, rates


def spread(values):
    return f"{min(values):.4g}–{max(values):.4g}"


def table(kinds, readings, rates, threads):
    rounds = max(r["round"] for r in rates) + 1
    lines = [
        f"{threads} threads, {cpu()}; read bandwidth {spread(readings)} GB/s (median "
        f"{statistics.median(readings):.1f}), measured between the rounds.",
        f"Medians of {rounds} alternating rounds, tokens per second; in brackets the least and "
        "the most. Ratios are engine over the other, of medians.",
        "",
        "| file | test | costmark | llama.cpp | candle | ÷ llama.cpp | ÷ candle | MBU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        of_kind = [r for r in rates if r["kind"] == kind]
        for test in TESTS:
            by = {
                name: [r["tok_per_s"][name][test] for r in of_kind if test in r["tok_per_s"][name]]
                for name in ["costmark", *PEERS]
            }
            median = {name: statistics.median(v) for name, v in by.items() if v}
            cells = [
                f"{median[name]:.1f} ({spread(by[name])})" if by[name] else "–"
                for name in ["costmark", *PEERS]
            ]
            ratios = [
                f"{median['costmark'] / median[name]:.2f}" if by[name] else "–" for name in PEERS
            ]
            # One token of one sequence reads the file once.
            mbu = "–"
            if test == "tg 1":
                share = [r["tok_per_s"]["costmark"][test] * r["bytes"] / 1e9 / r["read_gb_per_s"]
                         for r in of_kind]
                mbu = f"{100 * statistics.median(share):.0f} %"
            lines.append(f"| {kind} | {test} | {' | '.join(cells + ratios)} | {mbu} |")
    return "\n".join(lines) + "\n"


def cpu():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    cache, binaries, root = map(Path, sys.argv[1:4])
    rounds, kinds, folder = int(sys.argv[4]), sys.argv[5].split(","), sys.argv[6]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    threads = len(os.sched_getaffinity(0))
    begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
    readings, rates = measure(cache, binaries, target, rounds, kinds, threads)
    text = table(kinds, readings, rates, threads)
    print(text, end="")
    if folder:
        out = Path(folder)
        (out / "README.md").write_text(
            "# The engine beside llama.cpp and candle on the same GGUF files\n\n"
            "Written by `scripts/compare-llama-cpp`. Random weights of the Qwen3-0.6B shape: "
            "speed does not depend on their values. pp512: a prompt of 512 tokens; tg n: 64 "
            "tokens each by n sequences after 16. MBU counts the file's bytes once per token.\n\n"
            + text
        )
        git = output("git", "-C", root, "rev-parse", "HEAD").strip()
        raw = {"begun_at": begun, "revision": git, "threads": threads, "cpu": cpu(),
               "read_gb_per_s": readings, "rounds": rates}
        (out / "rounds.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
