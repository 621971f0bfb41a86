"""AIPerf under the load of `costmark run`, and its figures of the steady part of that load."""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile


def measure(aiperf, root, url, model, streams, requests, inputs, outputs, vocabulary, seed):
    """Figures of AIPerf's own records: `requests` requests of `inputs` random prompt tokens and
    a number of output tokens from the range `outputs`, `streams` at a time.

    AIPerf's load begins with all streams at once and ends as they run dry; costmark measures
    neither. So of AIPerf's requests the first two per stream and the last one per stream are
    run in addition and left out.
    """
    total = requests + 3 * streams
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        draw = random.Random(seed)
        with open(folder / "requests.jsonl", "w", encoding="utf-8") as file:
            for _ in range(total):
                body = {
                    "model": model,
                    # AIPerf takes no body without it; /v1/completions does not read it.
                    "messages": [],
                    "prompt": [draw.randrange(3, vocabulary) for _ in range(inputs)],
                    "max_tokens": draw.randint(*outputs),
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
            "--tokenizer", tokenizer, "--use-server-token-count", "--concurrency", streams,
            "--request-count", total, "--no-server-metrics", "--no-gpu-telemetry", "--ui", "none",
            "--export-level", "records", "--artifact-dir", folder / "out",
        ]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, cwd=folder,
            env={**os.environ, "AIPERF_LOG_LEVEL": "WARNING"})
        records = folder / "out/profile_export.jsonl"
        if done.returncode != 0 or not records.exists():
            sys.exit(f"AIPerf ended with {done.returncode}:\n{done.stdout[-2000:]}\n"
                     f"{done.stderr[-2000:]}")
        lines = [json.loads(line) for line in records.read_text().splitlines()]
    return steady(lines, streams, total)


def steady(records, streams, total):
    """Means over the requests between the first two and the last one per stream, and the
    tokens that arrived from the start of the first of these to the start of the first after
    them."""
    if len(records) != total or any(record.get("error") for record in records):
        failed = [record["error"] for record in records if record.get("error")]
        sys.exit(f"AIPerf: {len(records)} of {total} requests, errors: {failed[:3]}")
    records.sort(key=lambda record: record["metadata"]["request_start_ns"])
    starts = [record["metadata"]["request_start_ns"] for record in records]
    begin, end = starts[2 * streams], starts[total - streams]
    measured = records[2 * streams:total - streams]

    def mean(name):
        return sum(record["metrics"][name]["value"] for record in measured) / len(measured)

    tokens = 0
    for record in records:
        metrics = record["metrics"]
        at = record["metadata"]["request_start_ns"] + 1e6 * metrics["time_to_first_token"]["value"]
        for gap_ms in [0, *metrics["inter_chunk_latency"]["value"]]:
            at += 1e6 * gap_ms
            tokens += begin < at <= end
        if len(metrics["inter_chunk_latency"]["value"]) + 1 < metrics["output_sequence_length"]["value"]:
            sys.exit("AIPerf saw fewer chunks than tokens: gaps are not between tokens")
    return {
        "output_tok_per_s": 1e9 * tokens / (end - begin),
        "ttft_ms": mean("time_to_first_token"),
        "itl_ms": mean("inter_token_latency"),
    }
