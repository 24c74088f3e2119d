#!/usr/bin/env python3
"""Tells whether a dear model on one route moves the times of another route that scores nothing.

    benches/compare/beside.py FOREGATE FOREGATE_BENCHES     for example: target/dist/foregate target/dist/foregate-benches

Needs h2load (nghttp2) and what inference-sidecar/training/requirements-test.txt names. One gateway with both
routes. The model is a network that takes about MILLISECONDS a row, made here; it is offered OFFERED leads a second, more
than its thread can do, so that most pass unscored by policy. Meanwhile the other route is asked OTHERS times a second.
Each round measures the other route alone, beside the leads unscored (what their number costs without the model), and
beside the leads scored. GATEWAY_CPUS, LOAD_CPUS (lists for taskset) and THREADS place gateway and load; PRIORITY
(`renice -n 0 -p`, `chrt --idle -p 0`) is run on the threads of the model, which a lead has started before.
"""
import contextlib
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import dear
from rig import Load, free_port, gateway, metrics, running, threads

MILLISECONDS = float(os.environ.get("MILLISECONDS", "3"))
OFFERED = int(os.environ.get("OFFERED", "2000"))
OTHERS = int(os.environ.get("OTHERS", "1000"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = os.environ.get("SECONDS", "8")
THREADS = os.environ.get("THREADS", "2")
GATEWAY_CPUS, LOAD_CPUS = os.environ.get("GATEWAY_CPUS"), os.environ.get("LOAD_CPUS")
PRIORITY = os.environ.get("PRIORITY", "")
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
metadata: { name: other }
spec:
  parentRefs: [{ name: edge }]
  rules:
  - matches: [{ path: { value: /other } }]
    backendRefs: [{ group: foregate.dev, kind: Upstream, name: origin }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: scored }
spec:
  parentRefs: [{ name: edge }]
  rules:
  - matches: [{ path: { value: /scored } }]
    backendRefs: [{ group: foregate.dev, kind: Upstream, name: origin }]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: origin }
spec: { endpoints: ["127.0.0.1:%d"], maxIdlePerThread: 512 }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: all }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  insecure: { anonymous: true }
---
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: { name: dear }
spec: { bundle: { path: %s } }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: scored }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: scored }]
  enrich: [{ name: dear, model: dear, deadline: 10ms, onError: continue, default: 0.0, set: { header: x-lead-score } }]
"""


KINDS = {"alone": None, "beside leads, unscored": "other", "beside leads, scored": "scored"}


def policies(folder, bundle, origin):
    (folder / "policies").mkdir()
    (folder / "policies/policy.yaml").write_text(POLICIES % (origin, bundle))
    return folder / "policies"


def load(url, rate, clients, log, *words):
    """So many requests a second, whether or not the ones before were answered soon."""
    each = rate // clients
    return Load(url, "--h1", f"-c{clients}", f"--rps={each}", f"-D{SECONDS}", *words, cpu=LOAD_CPUS, log=log)


def measured(port, folder, beside):
    """Microseconds of the other route's requests; what is beside them comes a second earlier."""
    second = None
    if beside:
        words = [f"--data={folder / 'lead'}", "-Hcontent-type: application/json"]
        second = load(f"http://127.0.0.1:{port}/{beside}", OFFERED, 50, folder / "second", *words)
        time.sleep(0.5)
    first = load(f"http://127.0.0.1:{port}/other", OTHERS, 20, folder / "first")
    first.done()
    if second:
        second.done()
    return first.latencies()


def at(sorted_times, share):
    return sorted_times[min(len(sorted_times) - 1, int(len(sorted_times) * share))]


def scores(admin):
    """Counts of scores by their outcome."""
    return {it[1]: int(it[2]) for it in re.finditer(r'foregate_scores_total\{.*?outcome="(\w+)".*?\} (\d+)', metrics(admin))}


def main():
    foregate, benches = sys.argv[1:]
    origin, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        print(f"the model takes {dear.made(foregate, folder / 'bundle', MILLISECONDS):.2f} ms a row")
        stack.enter_context(running(benches, "origin", f"127.0.0.1:{origin}", port=origin, cpu=LOAD_CPUS))
        (folder / "lead").write_text('{"LastName":"Okafor","Company":"Northwind Freight","Visits":7}')
        context, port = gateway(foregate, policies(folder, folder / "bundle", origin), THREADS, GATEWAY_CPUS, admin)
        process = stack.enter_context(context)
        lead = urllib.request.Request(f"http://127.0.0.1:{port}/scored", (folder / "lead").read_bytes(), {"content-type": "application/json"})
        urllib.request.urlopen(lead).read()
        for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
            if PRIORITY and (task / "comm").read_text().strip() == "model":
                subprocess.run([*PRIORITY.split(), task.name], check=True, capture_output=True)
        rounds = {kind: [] for kind in KINDS}
        for _ in range(ROUNDS):
            for kind, beside in KINDS.items():
                before = threads(process)
                times = measured(port, folder, beside)
                spent = {name: (took - before.get(name, 0)) / 1e9 for name, took in threads(process).items()}
                rounds[kind].append(times)
                model = f", model threads {spent.get('model', 0.0):.1f} s of processor" if beside == "scored" else ""
                print(f"{kind:<24} {len(times):>6} answered, p50 {at(times, 0.5):>6}, p99 {at(times, 0.99):>6} us{model}", flush=True)
        print(f"leads: {scores(admin)}")
        for share in (0.5, 0.9, 0.99, 0.999):
            middle = {kind: statistics.median(at(times, share) for times in of) for kind, of in rounds.items()}
            alone, control, scored = middle.values()
            print(f"p{share * 100:g}: alone {alone:.0f} us, beside unscored leads {control:.0f} ({control / alone - 1:+.0%}), beside scored ones {scored:.0f} ({scored / alone - 1:+.0%}; {scored / control - 1:+.0%} to unscored)")


if __name__ == "__main__":
    main()
