"""Processes, load and processor time, for the scripts beside it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUNDLES = ROOT / "inference-sidecar/bundles"
LEAD = HERE / "lead.json"
HZ = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def placed(cpu, urgent):
    """Called in a new process before its program: on these processors, ahead of all that is not measured."""
    if cpu is not None:
        os.sched_setaffinity(0, {int(one) for one in str(cpu).split(",")})
    if urgent:
        # Not `nice`: with autogroups it counts within a session only. The kernel leaves others a twentieth.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))


@contextlib.contextmanager
def running(*command, port, cpu=None, log=None, urgent=False, patience=60):
    """A process that listens on the port, on the processors that `cpu` names (`0` or `0,1`); ended at the end."""
    with open(log or "/dev/null", "wb") as out:
        begin = functools.partial(placed, cpu, urgent)
        process = subprocess.Popen([*map(str, command)], stdout=out, stderr=out, preexec_fn=begin)
    try:
        wait_for(process, port, command, log, patience)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(process, port, command, log, patience):
    """Waits until somebody listens on the port; where the process ends instead, the script does, too."""
    said = f": see {log}" if log else ""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if process.poll() is not None:
            sys.exit(f"{command[0]} {command[1]} ended with {process.returncode}{said}")
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), 1).close()
        time.sleep(0.0005)
    sys.exit(f"{command[0]} does not listen on port {port}{said}")


def gateway(foregate, policies, threads=1, cpu=None, admin=None):
    """The context of a gateway, and its port."""
    port = free_port()
    command = [foregate, "run", policies, "--bind", f"edge/http=127.0.0.1:{port}", "--threads", threads]
    command += ["--access-log", "off", "--admin", f"127.0.0.1:{admin or 0}"]
    return running(*command, port=port, cpu=cpu), port


def tree(pid):
    """A process and all that it started."""
    children = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def spent(*processes):
    """Nanoseconds that all threads of these processes, and of those they started, had a processor."""
    total = 0
    for pid in (pid for process in processes for pid in tree(process.pid)):
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(task.read_text().split()[0])
    return total


def resident(*processes):
    """KiB of memory, of which what several processes share is divided among them."""
    total = 0
    for pid in (pid for process in processes for pid in tree(process.pid)):
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss: +(\d+)", rollup, re.M)[1])
    return total


def settled(*processes):
    """The same once it no longer changes: what idle connections do not need is given back after a few seconds."""
    time.sleep(12)
    before, now = 0, resident(*processes)
    while abs(now - before) > 64:
        time.sleep(1)
        before, now = now, resident(*processes)
    return now


def threads(process):
    """Nanoseconds that each thread of a process had a processor, by its name."""
    found = {}
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        found[name] = found.get(name, 0) + int((task / "schedstat").read_text().split()[0])
    return found


def machine_busy():
    """Seconds that the processors of the machine worked, and seconds that were taken from it."""
    user, nice, system, _, _, irq, softirq, steal = map(int, pathlib.Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / HZ, steal / HZ


class Load:
    """A run of h2load (nghttp2): what is sent, and what came of it."""

    def __init__(self, url, *words, cpu=None, log=None):
        self.log = log
        if log:
            pathlib.Path(log).unlink(missing_ok=True)  # h2load appends
        command = ["h2load", "--threads=1", *map(str, words), *([f"--log-file={log}"] if log else []), url]
        begin = functools.partial(placed, cpu, False)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=begin)

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


class Driver:
    """A run of `foregate-benches load`: warms when it is made, runs when it is told to, ends at the end."""

    def __init__(self, benches, mode, port, *words, cpu=None, urgent=False):
        command = [benches, "load", mode, f"127.0.0.1:{port}", *map(str, words)]
        begin = functools.partial(placed, cpu, urgent)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=begin)
        self.warm = self.told()

    def told(self):
        """The next line that the load says."""
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"the load ended: {self.process.stderr.read().strip()}")

    def run(self):
        """Runs; connections stay open behind it."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.told()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        self.process.kill()
        self.process.wait()


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
