#!/usr/bin/env python3
"""Measures what is left of a backend's capacity when twice as much is asked of it, and who gets it.

    benches/compare/overload.py FOREGATE            for example: target/dist/foregate

Needs Python, nothing else. The backend works on PLACES requests at once, each for SERVICE seconds, and lets the others
wait: more than PLACES / SERVICE a second it cannot do. Load is open: requests come at their times whether or not those
before were answered. An answer counts (goodput) where it is a 200 within PATIENCE; who waits longer has gone, while the
backend still works for it. Three tenants send 0.6, 0.6 and 0.8 of the capacity at twice the rate; the weight of the first
is two. The same load straight at the backend stands beside it.

Told are, for each rate: goodput by the capacity, requests refused, and how long refusals took. The last line is how late
the load itself was: where that is much, the machine was too busy for the figures to mean anything.
"""
import asyncio
import collections
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

PLACES = 8
SERVICE = 0.02
CAPACITY = PLACES / SERVICE
PATIENCE = 1.0
WARM = 4.0
SECONDS = float(os.environ.get("SECONDS", "12"))
TENANTS = {"acme": 0.6, "globex": 0.6, "initech": 0.8}
DUE = {"acme": 0.5, "globex": 0.25, "initech": 0.25}
POLICIES = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners: [{ name: http, protocol: HTTP, port: 9100 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: all }
spec:
  parentRefs: [{ name: edge }]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: origin }] }]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: origin }
spec: { endpoints: ["127.0.0.1:%d"] }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: all }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  fairness: { key: 'request.headers["x-org"]', weights: { acme: 2 } }
  insecure: { anonymous: true }
"""


class Origin(asyncio.Protocol):
    """Works on a few requests at once; what came first is done first."""

    room = collections.deque()
    free = PLACES

    def connection_made(self, transport):
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            self.buffer = self.buffer[end + 4 :]
            if Origin.free:
                self.work()
            else:
                Origin.room.append(self)

    def work(self):
        Origin.free -= 1
        asyncio.get_running_loop().call_later(SERVICE, self.done)

    def done(self):
        Origin.free += 1
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")
        if Origin.room:
            Origin.room.popleft().work()


class Client(asyncio.Protocol):
    """One connection: one request at a time, and back among the idle ones."""

    def __init__(self, load):
        self.load, self.waiting = load, None

    def connection_made(self, transport):
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport, self.buffer = transport, b""

    def ask(self, tenant):
        self.waiting = (tenant, time.perf_counter())
        self.buffer = b""
        self.transport.write(b"GET / HTTP/1.1\r\nhost: svc.local\r\nx-org: %s\r\n\r\n" % tenant.encode())

    def data_received(self, data):
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        if not found or len(body) < length or not self.waiting:
            return
        tenant, since = self.waiting
        self.waiting = None
        self.load.answered(tenant, int(head[9:12]), time.perf_counter() - since)
        self.load.idle.append(self)

    def connection_lost(self, _):
        with contextlib.suppress(ValueError):
            self.load.idle.remove(self)
        if self.waiting:
            self.load.answered(self.waiting[0], 0, time.perf_counter() - self.waiting[1])


class Load:
    """Requests of all tenants at `rate` times the capacity."""

    def __init__(self, port):
        self.port, self.idle, self.open = port, [], []
        self.good, self.refused, self.other, self.late = collections.Counter(), [], collections.Counter(), 0.0
        self.counts = False

    def answered(self, tenant, status, took):
        if not self.counts:
            return
        if status == 200 and took <= PATIENCE:
            self.good[tenant] += 1
        elif status == 503:
            self.refused.append(took)
        else:
            self.other[status if status != 200 else "too late"] += 1

    async def ask(self, tenant):
        if self.idle:
            return self.idle.pop().ask(tenant)
        try:
            _, client = await asyncio.get_running_loop().create_connection(lambda: Client(self), "127.0.0.1", self.port)
        except OSError:
            return self.answered(tenant, 0, 0.0)
        self.open.append(client)
        client.ask(tenant)

    async def send(self, tenant, rate, until):
        at, tasks = time.perf_counter(), set()
        while at < until:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            if self.counts:
                self.late = max(self.late, time.perf_counter() - at)
            task = asyncio.ensure_future(self.ask(tenant))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            at += 1 / rate

    async def run(self, times):
        """Gives goodput by the capacity; what was in the middle of the run counts."""
        start = time.perf_counter()
        loop = asyncio.get_running_loop()
        loop.call_later(WARM, setattr, self, "counts", True)
        loop.call_later(WARM + SECONDS, setattr, self, "counts", False)
        until = start + WARM + SECONDS + 0.5
        share = {tenant: CAPACITY * part * times / 2 for tenant, part in TENANTS.items()}
        await asyncio.gather(*(self.send(tenant, rate, until) for tenant, rate in share.items()))
        for client in self.open:
            client.waiting = None
            client.transport.abort()
        # What the backend still has of this run is not the next one's.
        while Origin.free < PLACES or Origin.room:
            Origin.room.clear()
            await asyncio.sleep(SERVICE)
        return sum(self.good.values()) / SECONDS / CAPACITY


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def told(name, load, goodput):
    refused = sorted(load.refused)
    line = f"{name:28} goodput {goodput:5.2f} of capacity"
    if refused:
        p99, worst = refused[int(len(refused) * 0.99)], refused[-1]
        line += f", {len(refused)} refused, in {p99 * 1e3:.0f} ms (p99), {worst * 1e3:.0f} ms at most"
    if load.other:
        line += f", {dict(load.other)}"
    print(line, flush=True)


async def gateway(foregate, folder, port):
    command = [foregate, "run", folder, "--bind", f"edge/http=127.0.0.1:{port}", "--threads", "1"]
    process = subprocess.Popen([*command, "--access-log", "off", "--admin", "127.0.0.1:0"], stderr=subprocess.DEVNULL)
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"the gateway ended with {process.returncode}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        await asyncio.sleep(0.05)
    sys.exit("the gateway does not listen")


async def main(foregate):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Origin, "127.0.0.1", 0, backlog=1024)
    origin, late, peak = server.sockets[0].getsockname()[1], 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "policy.yaml").write_text(POLICIES % origin)
        port = free_port()
        process = await gateway(foregate, folder, port)
        try:
            for times in (0.8, 1.0, 1.2, 2.0):
                load = Load(port)
                goodput = await load.run(times)
                told(f"{times} of capacity", load, goodput)
                peak, late = max(peak, goodput), max(late, load.late)
        finally:
            process.terminate()
            process.wait()
    all_good = sum(load.good.values())
    shares = {tenant: round(load.good[tenant] / all_good / due, 3) for tenant, due in DUE.items()}
    print(f"at twice the capacity: {goodput / peak:.3f} of the peak; shares by what is due: {json.dumps(shares)}")
    load = Load(origin)
    told("2.0, no gateway between", load, await load.run(2.0))
    print(f"the load was late by {max(late, load.late) * 1e3:.0f} ms at most")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
