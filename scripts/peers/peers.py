"""Measures llama.cpp's server, `costmark serve` and the engine in one process with costmark.

Arguments: costmark, llama-server, model (GGUF), folder for results or an empty word.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

STREAMS = (1, 16)
INPUT, OUTPUT = 64, 64
LOAD = [
    "--concurrency", ",".join(map(str, STREAMS)), "--requests", "64", "--repeats", "3",
    "--input-len", str(INPUT), "--output-len", str(OUTPUT), "--seed", "1", "--price", "1",
]
PATIENCE_S = 120


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server on this machine, for the time of a `with`."""

    def __init__(self, command, port, log):
        self.command, self.url, self.log = command, f"http://127.0.0.1:{port}", log

    def __enter__(self):
        self.out = open(self.log, "wb")
        self.process = subprocess.Popen(self.command, stdout=self.out, stderr=self.out)
        begin = time.monotonic()
        while True:
            if self.process.poll() is not None or time.monotonic() - begin > PATIENCE_S:
                self.__exit__()
                sys.exit(f"{self.command[0]} does not serve; it said, in {self.log}:\n"
                         + pathlib.Path(self.log).read_text(errors="replace")[-2000:])
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5) as page:
                    if page.status == 200:
                        return self
            except (urllib.error.URLError, OSError):
                pass  # It is still loading.
            time.sleep(0.1)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.out.close()


def measure(costmark, folder, more):
    command = [costmark, "run", *LOAD, "-o", str(folder), "--quiet", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads((folder / "run.json").read_text())


def row(document, streams):
    """Output tok/s, TTFT p50, ITL mean and blended price of one level: what run.json tells."""
    level = next(x for x in document["levels"] if x["load"].get("concurrency") == streams)
    summary = level["summary"]
    if summary["requests"]["failed"]:
        sys.exit(f"requests failed at {streams} streams: {summary['requests']}")
    blended = level["usd_per_mtok_blended"]
    return [
        summary["output_tok_per_s"], summary["ttft_p50_ms"], summary["itl_p50_ms"], blended,
    ]


def shown(interval):
    if interval is None:
        return "–"
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if low is None or high is None:
        return f"{value:.4g}"
    return f"{value:.4g} ({low:.4g}–{high:.4g})"


def main():
    costmark, llama_server, model, out = sys.argv[1:5]
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(out or scratch)
        threads = str(len(os.sched_getaffinity(0)))
        context = 2 * (INPUT + OUTPUT)
        runs = {}

        port = free_port()
        command = [
            llama_server, "--model", model, "--host", "127.0.0.1", "--port", str(port),
            "--threads", threads, "--parallel", str(max(STREAMS)),
            "--ctx-size", str(context * max(STREAMS)), "--metrics",
        ]
        with Server(command, port, folder / "llama-server.log") as server:
            runs["llama-server"] = measure(
                costmark, folder / "llama-server", ["--endpoint", server.url])

        port = free_port()
        command = [
            costmark, "serve", "--model", model, "--listen", f"127.0.0.1:{port}",
            "--max-context", str(context), "--max-sequences", str(max(STREAMS)),
        ]
        with Server(command, port, folder / "costmark-serve.log") as server:
            runs["costmark serve"] = measure(
                costmark, folder / "costmark-serve", ["--endpoint", server.url])

        runs["costmark engine, in process"] = measure(
            costmark, folder / "in-process",
            ["--model", model, "--max-context", str(context),
             "--max-sequences", str(max(STREAMS))])

        lines = [
            f"{pathlib.Path(model).name}: {INPUT} input and {OUTPUT} output tokens, "
            "medians over 3 repeats with 95 % t-intervals, all measured by costmark at 1 USD an hour",
            "",
            "| streams | what serves | output tok/s | TTFT p50 ms | ITL p50 ms | blended USD/Mtok |",
            "|---:|---|---:|---:|---:|---:|",
        ]
        figures = {}
        for streams in STREAMS:
            for name, document in runs.items():
                figures[name, streams] = values = row(document, streams)
                lines.append(f"| {streams} | {name} | {' | '.join(map(shown, values))} |")
        top = max(STREAMS)
        served = figures["costmark serve", top][0]["value"]
        inside = figures["costmark engine, in process", top][0]["value"]
        missed = served < 0.97 * inside
        lines += ["", f"`costmark serve` reaches {100 * served / inside:.1f} % of the engine in "
                      f"one process at {top} streams (at least 97 %: "
                      f"{'MISSED' if missed else 'met'})."]
        table = "\n".join(lines)
        print(table)
        if out:
            (folder / "table.md").write_text(table + "\n")
        sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
