"""Processes, load and processor time, for the scripts beside it. Load is h2load's (nghttp2)."""

from __future__ import annotations

import contextlib
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
BUNDLES = (HERE / "../../inference-sidecar/bundles").resolve()
LEAD = HERE / "lead/lead.json"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(*command, port, cpu=None, log=None):
    """A process that listens on the port, on one processor where `cpu` names it; ended at the end."""
    words = ["taskset", "-c", str(cpu)] if cpu is not None else []
    with open(log or "/dev/null", "wb") as out:
        process = subprocess.Popen([*words, *map(str, command)], stdout=out, stderr=out)
    try:
        for _ in range(600):
            if process.poll() is not None:
                sys.exit(f"{command[0]} {command[1]} ended with {process.returncode}")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        else:
            sys.exit(f"{command[0]} does not listen")
        yield process
    finally:
        process.terminate()
        process.wait()


def gateway(foregate, policies, threads=1, cpu=None, admin=None):
    """The context of a gateway, and its port."""
    port = free_port()
    command = [foregate, "run", policies, "--bind", f"edge/http=127.0.0.1:{port}", "--threads", threads]
    command += ["--access-log", "off", "--admin", f"127.0.0.1:{admin or 0}"]
    return running(*command, port=port, cpu=cpu), port


def spent(process):
    """Nanoseconds that all threads of a process had a processor."""
    tasks = pathlib.Path(f"/proc/{process.pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())


def threads(process):
    """The same, thread by thread."""
    found = {}
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        found[name] = found.get(name, 0) + int((task / "schedstat").read_text().split()[0])
    return found


class Load:
    """A run of h2load: what is sent, and what came of it."""

    def __init__(self, url, *words, cpu=None, log=None):
        pin = ["taskset", "-c", str(cpu)] if cpu is not None else []
        self.log = log
        if log:
            pathlib.Path(log).unlink(missing_ok=True)  # h2load appends
        command = [*pin, "h2load", "--threads=1", *map(str, words), *([f"--log-file={log}"] if log else []), url]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def done(self):
        """Requests, all answered with 2xx, and bytes of their bodies; anything else ends the run of the script."""
        out, _ = self.process.communicate()
        if not (found := re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)):
            sys.exit(f"h2load: {out}")
        if int(found[2]) + int(found[3]) + int(found[4]) or re.search(r" [1-9]\d* (failed|errored|timeout)", out):
            sys.exit(f"a request failed: {out}")
        return int(found[1]), int(re.search(r"\((\d+)\) data", out)[1])

    def latencies(self):
        """Microseconds of each request, sorted."""
        return sorted(int(line.split()[2]) for line in pathlib.Path(self.log).read_text().splitlines())


def each(process, load):
    """Microseconds of processor that `process` spends on a request of the load, and bytes of an answer's body."""
    before = spent(process)
    count, size = load.done()
    return (spent(process) - before) / count / 1e3, size / count


def told(name, rounds, unit="us"):
    median = statistics.median(rounds)
    print(f"{name:<46} {median:9.2f} {unit}   ({', '.join(f'{one:.2f}' for one in rounds)})", flush=True)
    return median


def metrics(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()
