"""costmark beside its peers: measures in alternating rounds and writes the tables.

Run through scripts/compare-peers.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import aiperf as aiperf_client
import processes
from processes import Server, figures, run_costmark, start_costmark

ENGINE, SERVE, LLAMA = "engine, in process", "costmark serve", "llama-server"
OURS, THEIRS = "costmark run", "AIPerf"
# Of the figures of `costmark serve`, what the in-process engine's throughput it must reach.
LEAST_SERVED = 0.97
# Two clients of one server agree within the larger of these.
WITHIN_SHARE, WITHIN_MS = 0.03, 1.0
# Requests per second of each client that arrives at random, well below what is served.
RATE = 1.2
# The synthetic file of scripts/llama-cpp/synthetic.py.
VOCABULARY = 4096


def load(streams, requests, inputs, outputs, *more):
    return ["--concurrency", ",".join(map(str, streams)), "--requests", requests,
            "--repeats", 1, "--input-len", inputs, "--output-len", outputs, *more]


def servers(args, number):
    """llama-server, `costmark serve` and the engine on one file; {(name, streams): figures}."""
    streams, context, threads = (1, 16), 160, len(os.sched_getaffinity(0))
    asked = load(streams, 48, 64, 64, "--seed", number)
    most = max(streams)
    limits = ["--max-context", context, "--max-sequences", most]
    llama = Server(lambda port: [
        args.llama_server, "--model", args.model, "--host", "127.0.0.1", "--port", port,
        "--threads", threads, "--parallel", most, "--ctx-size", context * most, "--metrics"])
    ours = Server(lambda port: [
        args.costmark, "serve", "--model", args.model, "--listen", f"127.0.0.1:{port}", *limits])
    found = {}
    for name, server in [(LLAMA, llama), (SERVE, ours)]:
        with server:
            found[name] = run_costmark(args.costmark, [*asked, "--endpoint", server.url])
    found[ENGINE] = run_costmark(args.costmark, [*asked, "--model", args.model, *limits])
    return flat({name: figures(document) for name, document in found.items()})


def served(args, number):
    """`costmark serve` and the engine, on the default model."""
    limits = ["--max-context", 128, "--max-sequences", 16]
    asked = load([16], 32, 16, 32, "--seed", number)
    found = {}

    def behind_http():
        server = Server(lambda port: [
            args.costmark, "serve", "--listen", f"127.0.0.1:{port}", *limits])
        with server:
            found[SERVE] = figures(run_costmark(args.costmark, [*asked, "--endpoint", server.url]))

    def in_process():
        found[ENGINE] = figures(run_costmark(args.costmark, [*asked, *limits]))

    # What the machine does meanwhile falls on either as often.
    turns = [behind_http, in_process] if number % 2 else [in_process, behind_http]
    for turn in turns:
        turn()
    return flat(found)


def aiperf(args, number):
    """AIPerf and costmark on one `costmark serve` with one compute thread, which leaves a core to
    the clients; {(name, streams of each): figures}."""
    found = {OURS: {}, THEIRS: {}}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "served.jsonl")
        server = Server(lambda port: [
            args.costmark, "serve", "--model", args.model, "--listen", f"127.0.0.1:{port}",
            "--threads", 1, "--max-context", 192, "--max-sequences", 8, "--log", log])
        with server:
            together(args, number, server, log, found)
    return flat(found)


def together(args, number, server, log, found):
    """Both clients on the server, one load after the other."""
    inputs, outputs = 64, (32, 96)
    # Enough that chance meetings of two prompts in a step, which decide how long each waits for
    # its first token, average out.
    for ours, theirs, requests, name in [
        (["--concurrency", 1], ["--concurrency", 1], 60, "1"),
        (["--concurrency", 4], ["--concurrency", 4], 200, "4"),
        (["--rate", RATE], ["--request-rate", RATE, "--arrival-pattern", "poisson"], 120,
         f"{RATE}/s"),
    ]:
        def without_end(folder):
            return start_costmark(args.costmark, [
                *ours, "--duration", "30m", "--repeats", 1,
                "--input-len", inputs, "--output-len", f"{outputs[0]}..{outputs[1]}",
                "--seed", number, "--endpoint", server.url], folder)

        load = aiperf_client.Load(theirs, requests, inputs, outputs, VOCABULARY, number)
        found[OURS][name], found[THEIRS][name] = aiperf_client.measure(
            without_end, args.aiperf, args.root, server, log, load)


def flat(found):
    return {f"{name}|{streams}": figures for name, by_streams in found.items()
            for streams, figures in by_streams.items()}


PARTS = {"servers": servers, "served": served, "aiperf": aiperf}


def median(rounds, key, figure):
    """Median over rounds, and all values; None where it was not measured."""
    values = [r["figures"][key].get(figure) for r in rounds]
    if any(value is None for value in values):
        return None
    return statistics.median(values), values


def shown(found):
    if found is None:
        return "–"
    middle, values = found
    if len(values) == 1:
        return f"{middle:.4g}"
    return f"{middle:.4g} ({min(values):.4g}–{max(values):.4g})"


COLUMNS = [("output_tok_per_s", "output tok/s"), ("ttft_ms", "TTFT ms"), ("itl_ms", "ITL ms"),
           ("usd_per_mtok_blended", "blended USD/Mtok at 1 USD/h")]


def keys(rounds):
    """(streams or rate, name), fewest streams first, rates after them."""
    pairs = [key.split("|") for key in rounds[0]["figures"]]
    order = lambda load: (load.endswith("/s"), float(load.removesuffix("/s")))
    return sorted(((load, name) for name, load in pairs), key=lambda pair: order(pair[0]))


def rows(rounds, columns):
    lines = ["| streams | | " + " | ".join(title for _, title in columns) + " |",
             "|---:|---|" + "---:|" * len(columns)]
    for streams, name in keys(rounds):
        cells = [shown(median(rounds, f"{name}|{streams}", figure)) for figure, _ in columns]
        lines.append(f"| {streams} | {name} | {' | '.join(cells)} |")
    return lines


def table_servers(rounds):
    return ["## One file, three that serve it", "",
            "Random f16 weights of a small Qwen3 shape (8 layers of 512, vocabulary 4096), 64 "
            "prompt and 64 output tokens per request, all threads; measured by `costmark run`, "
            "the servers through `--endpoint`. TTFT and ITL are means.", "",
            *rows(rounds, COLUMNS)], []


def table_served(rounds):
    lines = ["## What serving costs", "",
             "Random Q8_0 weights of the Qwen3-0.6B shape, 16 prompt and 32 output tokens per "
             "request, 16 streams; client, server and engine share the machine.", "",
             *rows(rounds, COLUMNS[:3])]
    key = f"{SERVE}|16", f"{ENGINE}|16"
    behind, inside = (median(rounds, k, "output_tok_per_s") for k in key)
    share = behind[0] / inside[0]
    each = [a / b for a, b in zip(behind[1], inside[1])]
    claim = (f"`costmark serve` reaches {100 * share:.1f} % of the engine's throughput (rounds: "
             + ", ".join(f"{100 * e:.1f} %" for e in each)
             + f"; at least {100 * LEAST_SERVED:.0f} % is asked for)")
    return lines, [(claim, share >= LEAST_SERVED)]


def table_aiperf(rounds):
    lines = ["## Two clients, one server", "",
             "`costmark serve` with one compute thread on a random f16 file of a small Qwen3 shape "
             "(8 layers of 512, vocabulary 4096), 64 prompt and 32 to 96 output tokens per "
             "request; both clients drive it at the same time with the same number of streams each "
             "(or as many requests per second, at random), and are compared over the same seconds, "
             "each by its own raw records and instants. TTFT is a mean, ITL is (last token − first "
             "token) ÷ (tokens − 1), mean over requests. *Server's own* are the same figures of the "
             "very same requests by the server's log (`--log`): from when it had read a request's "
             "head until the token was ready to be sent.", "",
             "Two clients' requests are not the same requests. With a fixed number of streams one "
             "waits for the step that runs when it comes, and a client that asks again as soon as it "
             "was answered comes at another time of the next step than one that takes longer; "
             "arrivals at random are each client's own draws. So of TTFT and ITL it is compared what "
             "a client measured beyond the server's own, request by request.", "",
             *rows(rounds, [COLUMNS[0], ("ttft_ms", "TTFT ms"),
                            ("server_ttft_ms", "server's own"), ("itl_ms", "ITL ms"),
                            ("server_itl_ms", "server's own")]), "",
             "| streams | compared | costmark run | AIPerf | apart | |",
             "|---:|---|---:|---:|---:|---|"]
    claims = []
    for streams in dict.fromkeys(s for s, _ in keys(rounds)):
        for figure, whole, title, unit in [
            ("output_tok_per_s", "output_tok_per_s", "throughput", "tok/s"),
            ("ttft_beyond_ms", "ttft_ms", "TTFT beyond the server's own", "ms"),
            ("itl_beyond_ms", "itl_ms", "ITL beyond the server's own", "ms"),
        ]:
            # Arrivals at random are each client's own draws, and so are the tokens they ask for.
            if unit != "ms" and streams.endswith("/s"):
                continue
            ours, theirs = (median(rounds, f"{name}|{streams}", figure)
                            for name in (OURS, THEIRS))
            off = ours[0] - theirs[0]
            share = off / median(rounds, f"{THEIRS}|{streams}", whole)[0]
            agree = abs(share) <= WITHIN_SHARE or unit == "ms" and abs(off) <= WITHIN_MS
            apart = f"{off:+.3g} {unit}, {100 * share:+.2f} %"
            lines.append(f"| {streams} | {title}, {unit} | {shown(ours)} | {shown(theirs)} | "
                         f"{apart} | {'agree' if agree else 'DISAGREE'} |")
            claims.append((f"{title} at {streams}: costmark and AIPerf agree within 3 % or 1 ms "
                           f"({apart})", agree))
    return lines, claims


TABLES = {"servers": table_servers, "served": table_served, "aiperf": table_aiperf}


def machine():
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}, {len(os.sched_getaffinity(0))} threads"


def page(all_rounds):
    """The generated page, and whether all that is claimed holds."""
    first, last = all_rounds[0], all_rounds[-1]
    commands = list(dict.fromkeys(r["command"] for r in all_rounds))
    revisions = list(dict.fromkeys(r["revision"] for r in all_rounds))
    loads = ", ".join(str(r.get("load_average", "not noted")) for r in all_rounds)
    lines = ["# costmark beside its peers", "",
             "| | |", "|---|---|",
             f"| machine | {', '.join(dict.fromkeys(r['machine'] for r in all_rounds))} |",
             f"| date | {first['at']} to {last['at']} UTC |",
             f"| command | {', '.join(f'`{command}`' for command in commands)} |",
             f"| revision | {', '.join(revisions)} |",
             "| peers | llama.cpp of llama-cpp-python 0.3.36, AIPerf 0.13.0 |", "",
             "Medians over rounds, in brackets the least and the most. Caveats: clients and server "
             "share the machine's cores, with whatever else ran there (load average as each round "
             f"began: {loads}), so absolute figures are those of that moment; weights are random, "
             "so what is said is about speed only. This "
             "page was written by `scripts/compare-peers`; nothing here is edited by hand.", ""]
    holds = True
    for part, make in TABLES.items():
        rounds = [r for r in all_rounds if r["part"] == part]
        if not rounds:
            continue
        table, claims = make(rounds)
        lines += [*table, "", f"Rounds: {len(rounds)}."]
        for claim, met in claims:
            holds &= met
            lines += [f"- {'holds' if met else 'MISSED'}: {claim}"]
        lines.append("")
    return "\n".join(lines), holds


def main():
    parser = argparse.ArgumentParser()
    for name in ["root", "model", "costmark", "llama-server", "aiperf"]:
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--parts", type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out")
    args = parser.parse_args()
    file = Path(args.out, "rounds.jsonl") if args.out else None
    kept = []
    if file and file.exists():
        kept = [json.loads(line) for line in file.read_text().splitlines()]
    command = "scripts/compare-peers -p " + shlex.quote(",".join(args.parts))
    for number in range(args.rounds):
        for part in args.parts:
            before = sum(1 for r in kept if r["part"] == part)
            load_average = round(os.getloadavg()[0], 1)
            at = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M}"
            measured = PARTS[part](args, before)
            record = {
                "part": part, "at": at, "machine": machine(), "load_average": load_average,
                "revision": processes.revision(args.costmark), "command": f"{command} -r {args.rounds}",
                "figures": measured,
            }
            kept.append(record)
            if file:
                with open(file, "a", encoding="utf-8") as out:
                    out.write(json.dumps(record) + "\n")
            print(f"{part}, round {number + 1} of {args.rounds}: {record['figures']}",
                  file=sys.stderr, flush=True)
    text, holds = page(kept)
    print(text)
    if args.out:
        Path(args.out, "README.md").write_text(text, encoding="utf-8")
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
