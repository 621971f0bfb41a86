"""Servers on this machine, and `costmark run` against them or in one process."""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

PATIENCE_S = 120


class Server:
    """A server on a free port of this machine, for the time of a `with`.

    `command` makes the command line from the port.
    """

    def __init__(self, command):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.command, self.url = list(map(str, command(port))), f"http://127.0.0.1:{port}"

    def __enter__(self):
        self.log = tempfile.NamedTemporaryFile(suffix=".log")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        begin = time.monotonic()
        while True:
            if self.process.poll() is not None or time.monotonic() - begin > PATIENCE_S:
                said = pathlib.Path(self.log.name).read_text(errors="replace")[-2000:]
                self.__exit__()
                sys.exit(f"{' '.join(self.command)} does not serve; it said:\n{said}")
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5) as page:
                    if page.status == 200:
                        return self
            except (urllib.error.URLError, OSError):
                pass  # It is still loading.
            time.sleep(0.1)

    def model(self):
        """The one model it serves."""
        with urllib.request.urlopen(self.url + "/v1/models", timeout=5) as page:
            return json.load(page)["data"][0]["id"]

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def costmark_command(costmark, arguments, folder):
    command = [costmark, "run", "--quiet", "--price", "1", "-o", folder, *arguments]
    return list(map(str, command))


def start_costmark(costmark, arguments, folder):
    """A `costmark run` with its records in `folder`, as a process."""
    command = costmark_command(costmark, arguments, folder)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_costmark(costmark, arguments):
    """The document of one `costmark run`."""
    with tempfile.TemporaryDirectory() as folder:
        command = costmark_command(costmark, arguments, f"{folder}/run")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return json.loads(pathlib.Path(folder, "run/run.json").read_text())


def revision(costmark):
    """What the program was built from, as its results state it."""
    with tempfile.TemporaryDirectory() as folder:
        command = costmark_command(
            costmark, ["--backend", "mock", "--mock", "virtual", "--concurrency", "1"],
            f"{folder}/run")
        subprocess.run(command, check=True, capture_output=True)
        tool = json.loads(pathlib.Path(folder, "run/run.json").read_text())["tool"]
    return f"{tool['git_revision']}{'-dirty' if tool['git_dirty'] else ''}, {tool['build_profile']}"


def figures(document):
    """{streams: figures} of a run: throughput, mean latencies and the blended price."""
    found = {}
    for level in document["levels"]:
        summary = level["summary"]
        if summary["requests"]["failed"]:
            sys.exit(f"requests failed: {summary['requests']}")
        latency, blended = summary["latency"], level["usd_per_mtok_blended"]
        found[level["load"]["concurrency"]] = {
            "output_tok_per_s": summary["output_tok_per_s"]["value"],
            "ttft_ms": latency["ttft_ms"]["mean"],
            "itl_ms": latency["tpot_ms"]["mean"],
            "usd_per_mtok_blended": blended and blended["value"],
        }
    return found
