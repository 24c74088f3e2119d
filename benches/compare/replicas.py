#!/usr/bin/env python3
"""Measures how a gateway scales with its workers, and predicts with a queueing model how replicas of it do.

    benches/compare/replicas.py [--foregate FILE] [--benches FILE] [--rounds 3] [--seconds 3]

Measured: for 1 to N workers on as many processors, processor time a request and what follows of it, requests a second of
those processors; for one worker, times at fixed rates. The work is a token known again, limit, access rule and a scored lead
of 1 KiB. Load and origin have the processors that are left, or share them where none is.

Predicted: sigma and kappa of the universal scalability law are fitted to the workers; each of 2 to 16 replicas, offered 400
requests a second each as 800 to 6400 in all, is an M/M/c queue whose service time is the processor time that was
measured. A model: it knows no network, no upstream that slows down, no neighbours on the machine.
"""
import argparse
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import policies
import queueing
import variants
from rig import LEAD, ROOT, Driver, free_port, running, spent, told

WORK = variants.MORE["whole"]
REPLICAS = (2, 4, 8, 12, 16)
EACH = 400
RATES = (400, 800, 1600, 3200, 6400)


def parsed():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foregate", type=pathlib.Path, default=target / "dist/foregate")
    parser.add_argument("--benches", type=pathlib.Path, default=target / "dist/foregate-benches")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    for name in ("foregate", "benches"):
        if not getattr(args, name).is_file():
            sys.exit(f"{getattr(args, name)} is not there: build it (profile dist), or name it with --{name}")
    return args


def processors(workers):
    """Those of the gateway, and those of load and origin."""
    all_of_them = sorted(os.sched_getaffinity(0))
    mine, rest = all_of_them[:workers], all_of_them[workers:] or all_of_them
    return ",".join(map(str, mine)), ",".join(map(str, rest))


class Stand:
    """Origin, keys, tokens and policies."""

    def __init__(self, args, folder):
        self.args, self.folder = args, pathlib.Path(folder)
        self.materials = self.folder / "materials"
        subprocess.run([args.benches, "prepare", self.materials], check=True, stdout=subprocess.DEVNULL)
        shutil.copy(LEAD, self.materials / "lead.json")
        self.origin = free_port()

    def gateway(self, workers, cpus):
        port, place = free_port(), self.folder / f"policies-{workers}"
        policies.write(place, WORK, self.origin, self.materials)
        command = [self.args.foregate, "run", place, "--bind", f"edge/http=127.0.0.1:{port}", "--threads", workers]
        command += ["--access-log", "off", "--admin", "127.0.0.1:0"]
        return running(*command, port=port, cpu=cpus), port

    def load(self, mode, port, cpus, *words):
        words = [*variants.words(WORK, self.materials), "--seconds", self.args.seconds, *words]
        return Driver(self.args.benches, mode, port, *words, cpu=cpus)


def answered(driver):
    """What came of a run; it ends the script where a request failed."""
    result = driver.run()
    if result["errors"] or set(result["status"]) != {"200"}:
        sys.exit(f"a request failed: {result['status']} {result['errors']}")
    return result


def by_workers(stand, workers):
    """Microseconds of processor time a request, and requests a second that the processors of the workers have time for."""
    mine, rest = processors(workers)
    costs = []
    for _ in range(stand.args.rounds):
        context, port = stand.gateway(workers, mine)
        with context as process, stand.load("closed", port, rest) as driver:
            before = spent(process)
            result = answered(driver)
            costs.append((spent(process) - before) / 1e3 / result["requests"])
    cost = told(f"{workers} worker(s): processor time a request", costs)
    return cost, workers * 1e6 / cost


def by_rates(stand):
    """Measured p50 and p99 of one worker at each rate, in microseconds; those that it cannot take are left out."""
    mine, rest = processors(1)
    context, port = stand.gateway(1, mine)
    with context:
        for rate in RATES:
            with stand.load("open", port, rest, "--rate", rate) as driver:
                result = driver.run()
            if result["status"].get("200", 0) < 0.95 * rate * result["seconds"]:
                return
            yield rate, result["p50"], result["p99"]


def shown(microseconds):
    return "-" if math.isinf(microseconds) else f"{microseconds:.0f}"


def main():
    args = parsed()
    with tempfile.TemporaryDirectory() as folder:
        stand = Stand(args, folder)
        _, rest = processors(1)
        with running(args.benches, "origin", f"127.0.0.1:{stand.origin}", port=stand.origin, cpu=rest):
            costs = {n: by_workers(stand, n) for n in range(1, len(os.sched_getaffinity(0)) + 1)}
            rates = list(by_rates(stand))
    sigma, kappa = queueing.fitted([(n, capacity) for n, (_, capacity) in costs.items()])
    service = costs[1][0]
    print(f"\nmeasured: sigma {sigma:.3f}, kappa {kappa:.4f}\n\n| workers | us a request | requests a second | speed-up |\n|---|---|---|---|")
    for n, (cost, capacity) in costs.items():
        print(f"| {n} | {cost:.1f} | {capacity:,.0f} | {capacity / costs[1][1]:.2f} |")
    base = rates[0][1:] if rates else (0, 0)
    print("\n| one worker, requests a second | p50, p99 measured, us | wait, model, us |\n|---|---|---|")
    for rate, middle, late in rates:
        print(f"| {rate} | {middle:.0f}, {late:.0f} | {shown(queueing.wait(1, rate / 1e6, service, 0.99))} |")
    print("\n**Model**, not a measurement:\n\n| replicas of one worker | requests a second | busy | p99, us | until 1 ms of wait |\n|---|---|---|---|---|")
    for replicas in REPLICAS:
        rate = EACH / 1e6
        late = queueing.wait(1, rate, service, 0.99)
        most = next(r for r in range(1_000_000, 0, -50) if queueing.wait(1, r / 1e6, service, 0.99) <= 1_000)
        print(f"| {replicas} | {EACH * replicas} | {rate * service:.1%} | {base[1] + late:.0f} | {most * replicas:,} requests a second |")


main()
