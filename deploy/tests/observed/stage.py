"""Processes: gateways, control plane, inference server, Redis, Prometheus; each ends with the test."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

from observed.rules import shortened
from support import DEPLOY, binary, debian

# For one fact; machines of tests are slow at times.
PATIENCE = 60


def free_port():
    """A port that nothing listens on, and nothing is given by chance while it is used in a moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, fact):
    """Looks at a fact until it is one, and gives it."""
    end = time.monotonic() + PATIENCE
    while not (found := fact()):
        assert time.monotonic() < end, f"it never came: {what() if callable(what) else what}"
        time.sleep(0.02)
    return found


class Process:
    """A program whose standard error is read line by line; standard output goes where `stdout` says."""

    def __init__(self, words, stdout=subprocess.DEVNULL, **options):
        self.lines, self._said = [], threading.Condition()
        self.child = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, **options)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stderr:
            with self._said:
                self.lines.append(line)
                self._said.notify_all()

    def said(self, fits):
        """The first line that fits, once it is there."""

        def found():
            assert self.child.poll() is None or any(map(fits, self.lines)), "".join(self.lines[-30:])
            return next(filter(fits, self.lines), None)

        with self._said:
            assert self._said.wait_for(found, PATIENCE), "".join(self.lines[-30:])
            return found()

    def event(self, name, **fields):
        """The first event of this name with these fields, once it is there."""

        def fits(line):
            if not line.startswith("{"):
                return False
            event = json.loads(line)
            return event.get("event.name") == name and all(event.get(key) == value for key, value in fields.items())

        return json.loads(self.said(fits))

    def port(self, name="listening", **fields):
        return int(self.event(name, **fields)["address"].rpartition(":")[2])

    def end(self, number=signal.SIGTERM):
        if self.child.stdout:
            # One that waits for its reader must not.
            self.child.stdout.close()
        if self.child.poll() is None:
            # One that was stopped would not hear of it.
            self.child.send_signal(signal.SIGCONT)
            self.child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(10)
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait(10)
        self.child.stderr.close()


class Redis(Process):
    def __init__(self, folder, port=None):
        self.port = port or free_port()
        words = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        super().__init__(words)
        until("Redis", self._answers)

    def _answers(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as stream:
            stream.sendall(b"PING\r\n")
            return stream.recv(16).startswith(b"+PONG")

    def command(self, *words):
        with socket.create_connection(("127.0.0.1", self.port), 5) as stream:
            parts = [f"*{len(words)}\r\n".encode()]
            parts += [f"${len(word.encode())}\r\n{word}\r\n".encode() for word in words]
            stream.sendall(b"".join(parts))
            return stream.recv(256)


def gateway(*words, admin=0, stdout=subprocess.DEVNULL):
    return Process([binary("foregate"), "run", "--admin", f"127.0.0.1:{admin}", "--threads", "1", *words], stdout=stdout, env={**os.environ, "NO_COLOR": "1"})


class Prometheus(Process):
    """Debian's, which scrapes several times a second; it records what is deployed, and alerts as deployed but for times."""

    def __init__(self, folder, targets):
        self.port = free_port()
        short = folder / "shortened.yaml"
        short.write_text(shortened())
        config = {
            "global": {"scrape_interval": "400ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"},
            "rule_files": [str(DEPLOY / "prometheus" / "recording.yaml"), str(short)],
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": places}]} for job, places in targets.items()],
        }
        file = folder / "prometheus.yaml"
        file.write_text(yaml.safe_dump(config))
        words = ["--config.file", file, "--storage.tsdb.path", folder / "prometheus", "--web.listen-address", f"127.0.0.1:{self.port}"]
        super().__init__([debian("prometheus"), *words, "--enable-feature=exemplar-storage", "--log.level=warn"])
        until(lambda: "".join(self.lines), self._ready)

    def _ready(self):
        # It says 503 until it is.
        with contextlib.suppress(OSError, AssertionError):
            return self._get("/-/ready")

    def _get(self, path, **fields):
        data = urllib.parse.urlencode(fields).encode() if fields else None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, 30) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{fields}: {error.read().decode()}") from error

    def ask(self, path, **fields):
        return json.loads(self._get(f"/api/v1/{path}", **fields))["data"]

    def values(self, expression):
        """Labels and numbers, without those that are none."""
        found = self.ask("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found if one["value"][1] != "NaN"]

    def fired(self):
        """Names and severities of alerts that fired since the beginning."""
        return {(labels["alertname"], labels["severity"]) for labels, _ in self.values('count_over_time(ALERTS{alertstate="firing"}[1h])')}

    def firing(self):
        """Those that do now."""
        return {(labels["alertname"], labels["severity"]) for labels, _ in self.values('ALERTS{alertstate="firing"}')}

    def until(self, expression):
        return until(expression, lambda: self.values(expression))

    def scraped(self):
        """Waits until everything that is up was scraped once more, from now on, and rules were evaluated."""
        now = time.time()
        until("another scrape", lambda: (found := self.values("min(timestamp(up == 1))")) and found[0][1] > now)
        until("rules", lambda: (found := self.values("min(timestamp(job:foregate_failed:ratio_rate5m))")) and found[0][1] > now)
