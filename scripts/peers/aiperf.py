"""AIPerf and `costmark run` on one `costmark serve` at the same time, compared over the same seconds,
and each with what the server wrote down of the same requests.

At the same time, since then both meet the same steps of the server, whatever else the machine
does; over the same seconds, since AIPerf's load begins with all streams at once and ends as they
run dry, which costmark does not measure.
"""

import json
import operator
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from typing import NamedTuple

PATIENCE_S = 600
# Requests at either end that are not compared.
EDGE = 8
# Share of requests in which AIPerf may have read tokens together.
MOST_JOINED = 0.05


class Asked(NamedTuple):
    """A request by its client's record."""
    # Nanoseconds since 1970.
    start: int
    # Of its tokens, the same.
    instants: list
    # What the server's log knows it by.
    id: str


class Load(NamedTuple):
    """What AIPerf is to do."""
    # Its own words for how many at a time or how often.
    pace: list
    requests: int
    # Random prompt tokens of each.
    inputs: int
    # Least and most output tokens.
    outputs: tuple
    vocabulary: int
    seed: int


def start(aiperf, root, folder, url, model, load):
    """AIPerf with this load, as a process."""
    draw = random.Random(load.seed)
    with open(folder / "requests.jsonl", "w", encoding="utf-8") as file:
        for _ in range(load.requests):
            body = {
                "model": model,
                # AIPerf takes no body without it; /v1/completions does not read it.
                "messages": [],
                "prompt": [draw.randrange(3, load.vocabulary) for _ in range(load.inputs)],
                "max_tokens": draw.randint(*load.outputs),
                "ignore_eos": True, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True},
            }
            file.write(json.dumps(body) + "\n")
    # It counts nothing here, since the server does, but AIPerf wants one.
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(root / "crates/costmark-engine/tests/golden/qwen3/tokenizer.json", tokenizer)
    (tokenizer / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}')
    command = [
        aiperf, "profile", "-m", model, "--url", url, "--endpoint-type", "completions",
        "--streaming", "--custom-dataset-type", "raw-payload",
        "--input-file", folder / "requests.jsonl", "--dataset-sampling-strategy", "sequential",
        "--tokenizer", tokenizer, "--use-server-token-count", *load.pace,
        "--request-count", load.requests, "--no-server-metrics", "--no-gpu-telemetry", "--ui", "none",
        "--export-level", "records", "--artifact-dir", folder / "out",
    ]
    log = open(folder / "aiperf.log", "wb")
    return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd=folder)


def of_aiperf(folder):
    """What was asked, in order, by AIPerf's own records."""
    file = folder / "out/profile_export.jsonl"
    if not file.exists():
        sys.exit("AIPerf failed:\n" + (folder / "aiperf.log").read_text(errors="replace")[-3000:])
    found, joined = [], 0
    for record in map(json.loads, file.read_text().splitlines()):
        if record.get("error"):
            sys.exit(f"AIPerf: {record['error']}")
        start_ns, metrics = record["metadata"]["request_start_ns"], record["metrics"]
        instants = [start_ns + 1e6 * metrics["time_to_first_token"]["value"]]
        for gap_ms in metrics.get("inter_chunk_latency", {"value": []})["value"]:
            instants.append(instants[-1] + 1e6 * gap_ms)
        # Events that it read together are one chunk to it. Which ones it does not tell; first and
        # last instant and the number of tokens are right, and more is not asked of it.
        missing = int(metrics["output_sequence_length"]["value"]) - len(instants)
        joined += missing != 0
        instants += [instants[-1]] * missing
        found.append(Asked(start_ns, instants, record["metadata"]["x_request_id"]))
    if joined > MOST_JOINED * len(found):
        sys.exit(f"AIPerf saw other chunks than tokens in {joined} of {len(found)} requests: its "
                 "gaps are not between tokens")
    return sorted(found)


def of_costmark(folder):
    """The same by costmark's raw lines. Its clock is set by the last sample of the machine, which
    is written as it is taken, within a second: it only decides which requests are compared."""
    telemetry = folder / "telemetry.jsonl"
    last = json.loads(telemetry.read_text().splitlines()[-1])
    offset = telemetry.stat().st_mtime_ns - last["at_ns"]
    found = []
    for line in map(json.loads, (folder / "requests.jsonl").read_text().splitlines()):
        if line["outcome"]["kind"] == "failed":
            sys.exit(f"costmark: {line['outcome']}")
        if "first_token_ns" not in line:
            continue
        events = [offset + line["first_token_ns"]]
        for gap in line.get("gaps_ns", []):
            gap_ns, times = (gap, 1) if isinstance(gap, int) else gap
            for _ in range(times):
                events.append(events[-1] + gap_ns)
        # Tokens that were read together are one event.
        tokens = line.get("event_tokens", [1] * len(events))
        instants = [at for at, count in zip(events, tokens, strict=True) for _ in range(count)]
        found.append(Asked(offset + line["sent_ns"], instants, str(line["id"])))
    return sorted(found)


def of_server(log, begin):
    """{id: line} of the lines that the server wrote since its log had `begin` bytes."""
    lines = log.read_bytes()[begin:].splitlines()
    return {line["request_id"]: line for line in map(json.loads, lines)}


def compare(ours, theirs, served):
    """Figures of both over the seconds in which both loads were steady: without the first and the
    last requests, which are more than there are streams."""
    begin = max(found[EDGE].start for found in (ours, theirs))
    end = min(found[-EDGE].start for found in (ours, theirs))
    return [over(found, served, begin, end) for found in (ours, theirs)]


def over(found, served, begin, end):
    started = [asked for asked in found if begin <= asked.start < end and len(asked.instants) > 1]
    if len(started) < EDGE:
        sys.exit(f"only {len(started)} requests fell into the seconds that both measured; "
                 "ask for more")
    missing = [asked.id for asked in started if asked.id not in served]
    if missing:
        sys.exit(f"the server's log does not know {len(missing)} of {len(started)} requests, "
                 f"the first of them {missing[0]}")
    wrong = [asked.id for asked in started
             if len(asked.instants) != served[asked.id]["output_tokens"]]
    if wrong:
        sys.exit(f"client and server count other tokens in {len(wrong)} of {len(started)} requests, "
                 f"the first of them {wrong[0]}")
    ttft = [(asked.instants[0] - asked.start) / 1e6 for asked in started]
    itl = [(asked.instants[-1] - asked.instants[0]) / (len(asked.instants) - 1) / 1e6
           for asked in started]
    lines = [served[asked.id] for asked in started]
    served_ttft = [line["first_token_ns"] / 1e6 for line in lines]
    served_itl = [(line["last_token_ns"] - line["first_token_ns"]) / (line["output_tokens"] - 1)
                  / 1e6 for line in lines]
    tokens = sum(begin < instant <= end for asked in found for instant in asked.instants)
    return {
        "requests": len(started),
        "output_tok_per_s": 1e9 * tokens / (end - begin),
        "ttft_ms": statistics.fmean(ttft),
        "ttft_p50_ms": statistics.median(ttft),
        "itl_ms": statistics.fmean(itl),
        "server_ttft_ms": statistics.fmean(served_ttft),
        "server_itl_ms": statistics.fmean(served_itl),
        "ttft_beyond_ms": statistics.fmean(map(operator.sub, ttft, served_ttft)),
        "itl_beyond_ms": statistics.fmean(map(operator.sub, itl, served_itl)),
    }


def measure(costmark_run, aiperf, root, server, log, load):
    """Figures of costmark and of AIPerf. `costmark_run(folder)` is a load that goes on until it
    is interrupted; it is, once AIPerf is done. `log` is what the server writes."""
    begin = log.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ours = costmark_run(folder / "run")
        try:
            theirs = start(aiperf, root, folder, server.url, server.model(), load)
            try:
                theirs.wait(PATIENCE_S)
            finally:
                end(theirs, signal.SIGTERM)
        finally:
            end(ours, signal.SIGINT)
        served = of_server(log, begin)
        return compare(of_costmark(folder / "run"), of_aiperf(folder), served)


def end(process, by):
    if process.poll() is None:
        process.send_signal(by)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
