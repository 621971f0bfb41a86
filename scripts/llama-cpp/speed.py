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

# Least ratio to llama.cpp, per kind and test.
TARGETS = {
    ("Q8_0", "tg 1"): 1.2, ("Q4_K_M", "tg 1"): 1.0, ("Q4_0", "tg 1"): 1.0,
    ("f16", "tg 1"): 1.0, ("BF16", "tg 1"): 1.0,
    ("Q8_0", "tg 4"): 1.5, ("Q8_0", "tg 8"): 1.8, ("Q8_0", "tg 16"): 2.0,
    ("Q8_0", "pp512"): 2.0, ("BF16", "pp512"): 2.0, ("f16", "pp512"): 2.0,
    ("Q4_K_M", "pp512"): 1.5, ("Q4_0", "pp512"): 1.5,
}
# Least share of the bandwidth at one sequence.
MBU_TARGETS = {"Q8_0": 0.8, "BF16": 0.8}
# Most times the reading of the file that loading may take; most memory over weights (while
# loading) and over weights and KV budget (in the end).
LOAD_TARGET, MEMORY_TARGET = 2.0, 1.2
# Least bytes of the file loaded per second, in GB.
LOAD_RATE_TARGET = 1.0


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
    """As above, and what else the example says of itself."""
    run = json.loads(output(target / "release/examples" / name, file))
    rates = {"pp512": run.pop("pp512")}
    rates.update({f"tg {n}": rate for n, rate in run.pop("tg").items()})
    return rates, run


def bandwidth(target):
    """GB/s read by all threads."""
    peaks = json.loads(output(target / "release/costmark", "probe", "--json"))["peaks"]
    return peaks["read_bytes_per_s"]["best"] / 1e9


def measure(cache, binaries, target, rounds, kinds, threads):
    """All rounds. The bandwidth is measured on both sides of the engine's own run."""
    rates = []
    for kind in kinds:
        file = cache / f"qwen3-0.6b-synthetic-{kind}.gguf"
        for number in range(rounds):
            found = {"llama.cpp": llama_cpp(binaries, file, threads)}
            before = bandwidth(target)
            found["costmark"], own = example(target, "gguf_speed", file)
            after = bandwidth(target)
            found["candle"], _ = example(target, "gguf_candle", file)
            rates.append({"kind": kind, "round": number, "bytes": file.stat().st_size,
                          "tok_per_s": found, "read_gb_per_s": [before, after], **own})
            print(f"{kind}, round {number + 1} of {rounds}: read {before:.1f} and {after:.1f} "
                  f"GB/s, {found}, {own}", file=sys.stderr, flush=True)
    return rates


def spread(values, digits=4):
    return f"{min(values):.{digits}g}–{max(values):.{digits}g}"


def rates_of(rounds, name, test):
    return [r["tok_per_s"][name][test] for r in rounds if test in r["tok_per_s"][name]]


def ratio(rounds, peer, test):
    """The ratio of medians, and the ratio of each round; None where the peer has no such test."""
    ours, theirs = rates_of(rounds, "costmark", test), rates_of(rounds, peer, test)
    if not ours or not theirs:
        return None
    each = [a / b for a, b in zip(ours, theirs)]
    return statistics.median(ours) / statistics.median(theirs), each


def utilisation(rounds):
    """Share of the bandwidth at one sequence, per round: one token reads the file once."""
    return [r["tok_per_s"]["costmark"]["tg 1"] * r["bytes"] / 1e9
            / statistics.mean(r["read_gb_per_s"]) for r in rounds]


def table(kinds, rates, threads):
    readings = [reading for r in rates for reading in r["read_gb_per_s"]]
    rounds = max(r["round"] for r in rates) + 1
    lines = [
        f"{threads} threads, {cpu()}; read bandwidth {spread(readings, 3)} GB/s (median "
        f"{statistics.median(readings):.1f}), measured before and after each run of the engine.",
        f"Medians of {rounds} alternating rounds, tokens per second; in brackets the least and "
        "the most. Ratios are engine over the other, of medians, with those of single rounds.",
        "",
        "| file | test | costmark | llama.cpp | candle | ÷ llama.cpp | ÷ candle | MBU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        of_kind = [r for r in rates if r["kind"] == kind]
        for test in TESTS:
            cells = []
            for name in ["costmark", *PEERS]:
                values = rates_of(of_kind, name, test)
                cells.append(f"{statistics.median(values):.1f} ({spread(values)})"
                             if values else "–")
            for peer in PEERS:
                found = ratio(of_kind, peer, test)
                cells.append(f"{found[0]:.2f} ({spread(found[1], 3)})" if found else "–")
            share = [100 * u for u in utilisation(of_kind)]
            cells.append(f"{statistics.median(share):.0f} % ({min(share):.0f}–{max(share):.0f})"
                         if test == "tg 1" else "–")
            lines.append(f"| {kind} | {test} | {' | '.join(cells)} |")
    lines += [
        "",
        "| file | load, s | GB/s | reading the file, s | ratio | GB while loading | ÷ weights "
        "| GB in the end | ÷ weights and KV |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        of_kind = [r for r in rates if r["kind"] == kind]
        load, read, size, peak, held, weights, kv = (
            statistics.median(r[key] for r in of_kind)
            for key in ["load_s", "read_s", "bytes", "load_peak_bytes", "held_bytes",
                        "weight_bytes", "kv_bytes"]
        )
        lines.append(f"| {kind} | {load:.2f} | {size / load / 1e9:.2f} | {read:.2f} "
                     f"| {load / read:.2f} | {peak / 1e9:.2f} "
                     f"| {peak / weights:.2f} | {held / 1e9:.2f} "
                     f"| {held / (weights + kv):.2f} |")
    return "\n".join(lines) + "\n"


def verdicts(kinds, rates):
    """One line per target, and whether all are met."""
    lines, all_met = [], True

    def judge(what, value, target, met, single):
        nonlocal all_met
        all_met &= met
        lines.append(f"- {'met' if met else 'missed'}: {what}: {value:.2f}, wanted {target} "
                     f"(single rounds {spread(single, 3)})")

    for kind in kinds:
        of_kind = [r for r in rates if r["kind"] == kind]
        for test in TESTS:
            target, found = TARGETS.get((kind, test)), ratio(of_kind, "llama.cpp", test)
            if target and found:
                judge(f"{kind} {test} over llama.cpp", found[0], f"≥ {target}",
                      found[0] >= target, found[1])
        if kind in MBU_TARGETS:
            share = utilisation(of_kind)
            judge(f"{kind} MBU of one sequence", statistics.median(share),
                  f"≥ {MBU_TARGETS[kind]}", statistics.median(share) >= MBU_TARGETS[kind], share)
        loaded = [r["bytes"] / r["load_s"] / 1e9 for r in of_kind]
        judge(f"{kind} GB loaded per second", statistics.median(loaded),
              f"≥ {LOAD_RATE_TARGET}", statistics.median(loaded) >= LOAD_RATE_TARGET, loaded)
        for what, each, target in [
            ("load over reading the file", [r["load_s"] / r["read_s"] for r in of_kind],
             LOAD_TARGET),
            ("memory while loading over weights",
             [r["load_peak_bytes"] / r["weight_bytes"] for r in of_kind], MEMORY_TARGET),
            ("memory in the end over weights and KV",
             [r["held_bytes"] / (r["weight_bytes"] + r["kv_bytes"]) for r in of_kind],
             MEMORY_TARGET),
        ]:
            judge(f"{kind} {what}", statistics.median(each), f"≤ {target}",
                  statistics.median(each) <= target, each)
    return "\n".join(lines) + "\n", all_met


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
    rates = measure(cache, binaries, target, rounds, kinds, threads)
    judged, all_met = verdicts(kinds, rates)
    text = f"{table(kinds, rates, threads)}\n## Targets\n\n{judged}"
    print(text, end="")
    if folder:
        out = Path(folder)
        (out / "README.md").write_text(
            "# The engine beside llama.cpp and candle on the same GGUF files\n\n"
            "Written by `scripts/compare-llama-cpp`. Random weights of the Qwen3-0.6B shape: "
            "speed does not depend on their values. pp512: a prompt of 512 tokens; tg n: 64 "
            "tokens each by n sequences after 16. MBU counts the file's bytes once per token, over "
            "the mean of the bandwidths read before and after. Load: from opening the file to weights "
            "laid out for the products, the file in the system's cache. Reading: the whole file with "
            "read(2) out of that cache into one buffer of 1 MiB, on one thread.\n\n"
            + text
        )
        git = output("git", "-C", root, "rev-parse", "HEAD").strip()
        raw = {"begun_at": begun, "revision": git, "threads": threads, "cpu": cpu(),
               "rounds": rates}
        (out / "rounds.json").write_text(json.dumps(raw, indent=1) + "\n")
    sys.exit(0 if all_met else 1)


if __name__ == "__main__":
    main()
