"""AIPerf and `costmark run` on one server at the same time, compared over the same seconds.

At the same time, since then both meet the same steps of the server, whatever else the machine
does; over the same seconds, since AIPerf's load begins with all streams at once and ends as they
run dry, which costmark does not measure.
"""

import json
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
    """[(start, [instants of tokens])] in nanoseconds since 1970, by AIPerf's own records."""
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
        found.append((start_ns, instants))
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
        instants = [offset + line["first_token_ns"]]
        for gap in line.get("gaps_ns", []):
            gap_ns, times = (gap, 1) if isinstance(gap, int) else gap
            for _ in range(times):
                instants.append(instants[-1] + gap_ns)
        found.append((offset + line["sent_ns"], instants))
    return sorted(found)


def compare(ours, theirs):
    """Figures of both over the seconds in which both loads were steady: without the first and the
    last requests, which are more than there are streams."""
    begin = max(found[EDGE][0] for found in (ours, theirs))
    end = min(found[-EDGE][0] for found in (ours, theirs))
    return [over(found, begin, end) for found in (ours, theirs)]


def over(found, begin, end):
    started = [(start, at) for start, at in found if begin <= start < end and len(at) > 1]
    if len(started) < EDGE:
        sys.exit(f"only {len(started)} requests fell into the seconds that both measured; "
                 "ask for more")
    mean = lambda values: sum(values) / len(values)
    tokens = sum(begin < instant <= end for _, at in found for instant in at)
    return {
        "requests": len(started),
        "output_tok_per_s": 1e9 * tokens / (end - begin),
        "ttft_ms": mean([(at[0] - start) / 1e6 for start, at in started]),
        "ttft_p50_ms": statistics.median((at[0] - start) / 1e6 for start, at in started),
        "itl_ms": mean([(at[-1] - at[0]) / (len(at) - 1) / 1e6 for _, at in started]),
    }


def measure(costmark_run, aiperf, root, server, load):
    """Figures of costmark and of AIPerf. `costmark_run(folder)` is a load that goes on until it
    is interrupted; it is, once AIPerf is done."""
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
        return compare(of_costmark(folder / "run"), of_aiperf(folder))


def end(process, by):
    if process.poll() is None:
        process.send_signal(by)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
