#!/usr/bin/env python3
"""Runs Foregate and its peers at the same work, in turns, and says what each costs.

    benches/compare/peers.py [--modes saturated,..] [--variants plain,..] [--proxies foregate,..] [--rounds 3] [--publish]

Needs Python, and root for a place ahead of all that is not measured. Our programs are taken from target/dist or else
target/release. A peer that is missing is named with the command that installs it; the others run without it. Every
process is new in every round. The proxy has processor 0, load and origin have processor 1. What is counted is the time
that all threads of all of a proxy's processes had a processor, by requests.

Results go to target/bench (results.md, results.json, results.svg), also those of a run that was broken off; --publish writes
them into benches/README.md, too, and the figure beside it, where the run is whole and nothing in it failed. `--list` tells
variants and modes.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import http.client
import json
import os
import pathlib
import platform
import re
import resource
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time

import proxies
import report
import variants
from rig import HERE, LEAD, ROOT, Driver, free_port, machine_busy, resident, running, settled, spent
from variants import HANDSHAKES, IDLE, MORE, VARIANTS

PROXY_CPU, LOAD_CPU = 0, 1
# Where README.md, peers.svg and peers.json are.
PUBLISHED = ROOT / "benches"
FAILED = "failed:"
MODES = ("saturated", "open", "handshakes", "idle", "start", "size")
# Tokens that are sent once: more than any proxy verifies in a round.
TOKENS = 50_000
# Seconds after which keys and tokens are made anew.
FRESH = 8 * 3600
# What goes wrong with one proxy: it does not start, ends, or is refused what it needs. The others are measured all the same.
FAULTS = (RuntimeError, SystemExit, OSError)


class Run:
    """What all works share: programs, materials, the ports of the origin, and where files go."""

    def __init__(self, args, folder):
        self.args = args
        self.folder = folder
        self.benches = args.benches
        self.materials = folder / "materials"
        self.origin = {kind: free_port() for kind in ("plain", "mutual", "h2c", "grpc")}
        self.connections = 0
        self.urgent = not args.polite

    def prepare(self):
        """Keys, certificates, tokens; kept for a while, as many of them take long."""
        made = self.materials / "kib.bin"
        if not made.exists() or time.time() - made.stat().st_mtime > FRESH:
            shutil.rmtree(self.materials, ignore_errors=True)
            say("making keys, certificates and tokens")
            subprocess.run([self.benches, "prepare", self.materials, "--once", str(TOKENS)], check=True)
        shutil.copy(LEAD, self.materials / "lead.json")

    def serving(self, spin):
        """The origin; it sleeps where times are measured, and never where only cost is."""
        of = {kind: f"127.0.0.1:{port}" for kind, port in self.origin.items()}
        command = [self.benches, "origin", of["plain"], "--mutual", of["mutual"], "--h2c", of["h2c"], "--grpc", of["grpc"]]
        command += ["--materials", self.materials, *(["--spin"] if spin else [])]
        return running(*command, port=self.origin["plain"], cpu=LOAD_CPU, urgent=self.urgent)

    @contextlib.contextmanager
    def started(self, proxy, variant):
        """The processes of a proxy, its port, and the seconds that it took to listen."""
        port = free_port()
        with contextlib.ExitStack() as stack:
            processes, took = [], 0.0
            for number, (command, listens) in enumerate(proxy.commands(variant, port, self)):
                began = time.perf_counter()
                log = self.folder / f"{proxy.name}-{number}.log"
                one = running(*command, port=listens, cpu=PROXY_CPU, log=log, urgent=self.urgent)
                processes.append(stack.enter_context(one))
                took = time.perf_counter() - began
            yield processes, port, took

    def load(self, mode, port, variant, *words):
        words = [*variants.words(variant, self.materials), *words]
        if mode in ("closed", "handshakes"):
            words.append("--spin")
        return Driver(self.benches, mode, port, *words, cpu=LOAD_CPU, urgent=self.urgent)


class Results:
    """Rounds by mode, work and proxy, and reasons where there are none."""

    def __init__(self, shown):
        self.proxies = shown
        self.cells = {}

    def cell(self, mode, work, proxy):
        return self.cells.setdefault(mode, {}).setdefault(work, {}).setdefault(proxy, report.Cell())

    def add(self, mode, work, proxy, **measured):
        self.cell(mode, work, proxy).rounds.append(measured)

    def fail(self, mode, work, proxy, fault):
        """What was measured before does not count any more."""
        say(f"{mode} {work} {proxy}: failed: {fault}")
        cell = self.cell(mode, work, proxy)
        cell.rounds, cell.reason = [], f"{FAILED} {' '.join(str(fault).split())[:120]}"

    def failures(self):
        """Mode, work and proxy of each that failed."""
        return [f"{mode} {work} {proxy}" for mode, works in self.cells.items() for work, cells in works.items()
                for proxy, cell in cells.items() if cell.reason.startswith(FAILED)]

    def rows(self, mode):
        return list(self.cells.get(mode, {}).items())

    def as_json(self):
        def plain(cell):
            return {"reason": cell.reason} if cell.reason else {"median": cell.median, "marks": cell.marks(), "rounds": cell.rounds}

        return {mode: {work: {name: plain(cell) for name, cell in cells.items()} for work, cells in works.items()}
                for mode, works in self.cells.items()}


def say(text):
    print(text, file=sys.stderr, flush=True)


def quiet(patience):
    """Waits a while for the machine to have nothing else to do."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        before, _ = machine_busy()
        time.sleep(0.5)
        if machine_busy()[0] - before < 0.5 * report.OTHERS:
            return


def refuses_strangers(port):
    """True where a client that shows no certificate gets no answer, or one that says so."""
    context = ssl._create_unverified_context()
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain, server_hostname=proxies.NAME) as stream:
            stream.sendall(b"GET / HTTP/1.1\r\nHost: svc.local\r\n\r\n")
            return not re.match(rb"HTTP/1.1 200", stream.recv(64))
    except OSError:
        return True


def known(materials, port):
    """A connection of the client that the load is, too."""
    context = ssl._create_unverified_context()
    context.load_cert_chain(materials / "client.crt", materials / "client.key")
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 30), server_hostname=proxies.NAME)


def proven(variant, port, run):
    """Sends what must be refused, and what must be changed: a peer that does not do the work is not measured."""
    if variant.tls == "mutual" and not refuses_strangers(port):
        return "serves a client without certificate"
    if variant.http2 or not (variant.jwt or variant.tls == "none"):
        return None

    body = LEAD.read_bytes() if variant.model else None

    def asked(headers, path="/"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        if variant.tls != "none":
            connection.sock = known(run.materials, port)
        head = {"Host": proxies.NAME, "Content-Type": "application/json", **headers}
        connection.request("POST" if body else "GET", path, body=body, headers=head)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def bearer(name):
        token = (run.materials / f"{variant.jwt}.{name}").read_text().splitlines()[0]
        return {"Authorization": f"Bearer {token}"}

    good = bearer("tokens") if variant.jwt else {}
    if variant.jwt:
        forged = {"Authorization": good["Authorization"][:-8] + "AAAAAAAA"}
        for what, headers, wanted in (("a good token", good, 200), ("no token", {}, 401), ("a forged token", forged, 401),
                                      ("another scope", bearer("other"), 403)):
            if (status := asked(headers)[0]) != wanted:
                return f"answers {status} to {what}, not {wanted}"
    if variant.model:
        status, mirrored = asked(good, "/mirror")
        head, _, body = mirrored.partition(b"\r\n\r\n")
        # In one chunk, or as it is.
        lead = json.loads(body[body.find(b"{") : body.rfind(b"}") + 1] or b"{}")
        if status != 200 or b"x-lead-score: " not in head.lower() or "Lead_Score__c" not in lead:
            return f"answers {status}, and the lead comes without a score: {mirrored[:400]}"
    return None


def faults(result):
    """What went wrong in a run of the load, in words."""
    other = {status: count for status, count in result["status"].items() if not status.startswith("2")}
    return f"{other or ''} {result['errors'] or ''}".strip()


@contextlib.contextmanager
def watched(*processes):
    """Measures what these processes and all others of the machine did; filled in at the end."""
    measured = {}
    before, (worked, stolen), own, began = spent(*processes[0]), machine_busy(), spent(*processes[1]), time.monotonic()
    yield measured
    after, (works, steals), owns, took = spent(*processes[0]), machine_busy(), spent(*processes[1]), time.monotonic() - began
    measured["spent"] = after - before
    measured["busy"] = round((after - before) / 1e9 / took, 3)
    others = works - worked - (after - before + owns - own) / 1e9
    measured["others"] = round(max(0.0, others / took), 3)
    measured["steal"] = round(max(0.0, (steals - stolen) / took), 3)


def cost(run, proxy, variant, mode, origin):
    """One round of a work: nanoseconds by requests, and what the load saw."""
    args = run.args
    seconds = ["--warm", 0.3 if variant.once else args.warm, "--seconds", args.seconds]
    if mode == "open":
        seconds += ["--rate", args.rate]
    if mode == "handshakes":
        variant = dataclasses.replace(variant, connections=16)
    with run.started(proxy, variant) as (processes, port, _):
        if fault := proven(variant, port, run):
            return {"fault": fault}
        quiet(args.patience)
        load = {"saturated": "closed"}.get(mode, mode)
        with run.load(load, port, variant, *seconds) as driver:
            with watched(processes, [driver.process, origin]) as measured:
                result = driver.run()
            if fault := faults(result):
                return {"fault": fault}
            if mode == "open":
                del measured["busy"]
            result |= measured | {"value": measured["spent"] / 1e3 / result["requests"], "resident": resident(*processes)}
    return result


def rounds(run, results, mode, works, chosen, spin=True):
    """All works in turns, the order of the proxies reversed in every other round."""
    with run.serving(spin) as origin:
        for number in range(run.args.rounds):
            for name, variant in works.items():
                for proxy in chosen if number % 2 == 0 else reversed(chosen):
                    cell = results.cell(mode, variant.title, proxy.name)
                    cell.reason = cell.reason or proxy.cannot(variant) or ""
                    if cell.reason:
                        continue
                    try:
                        result = cost(run, proxy, variant, mode, origin)
                    except FAULTS as error:
                        result = {"fault": str(error)}
                    if fault := result.pop("fault", None):
                        results.fail(mode, variant.title, proxy.name, fault)
                        continue
                    cell.rounds.append(result)
                    say(f"{mode} {number + 1} {name} {proxy.name}: {result['value']:.2f} us, {result['requests'] / result['seconds']:,.0f}/s, "
                        f"p50 {result['p50']:.0f} p99 {result['p99']:.0f} us, others {result['others']:.2f}")


def idle(run, results, chosen):
    """What a connection takes that was used once and is kept."""
    count = run.args.connections
    run.connections = count + 1_000
    with run.serving(False):
        for name in IDLE:
            variant = VARIANTS[name]
            for proxy in chosen:
                try:
                    more, held = kept(run, proxy, variant, count)
                except FAULTS as fault:
                    results.fail("idle", variant.title, proxy.name, fault)
                    continue
                results.add("idle", variant.title, proxy.name, value=more / max(1, held), held=held)
                say(f"idle {name} {proxy.name}: {more / max(1, held):.2f} KiB each of {held}")
    run.connections = 0


def kept(run, proxy, variant, count):
    """KiB that so many connections take, and how many there were."""
    with run.started(proxy, variant) as (processes, port, _):
        # As many as a tenth come and go first: what is needed once is not counted.
        with run.load("idle", port, dataclasses.replace(variant, connections=count // 10)):
            pass
        before = settled(*processes)
        with run.load("idle", port, dataclasses.replace(variant, connections=count)) as driver:
            held = driver.warm["requests"]
            return settled(*processes) - before, held


def start(run, results, chosen):
    """Time to listen, and memory then; once more with a model and its policies."""
    works = {"plain": VARIANTS["plain"], "with policies and a model": MORE["whole"]}
    for number in range(run.args.rounds * 3):
        for work, variant in works.items():
            for proxy in chosen:
                if (variant is MORE["whole"] and proxy.name != "foregate") or results.cell("start", work, proxy.name).reason:
                    continue
                try:
                    with run.started(proxy, variant) as (processes, _, took):
                        if number == 0:
                            time.sleep(1)
                            results.add("resident", work, proxy.name, value=resident(*processes) / 1024)
                except FAULTS as fault:
                    results.fail("start", work, proxy.name, fault)
                    results.fail("resident", work, proxy.name, fault)
                    continue
                results.add("start", work, proxy.name, value=took * 1e3)
    for work, cells in results.rows("start"):
        say(f"start {work}: " + ", ".join(f"{name} {cell.shown()} ms" for name, cell in cells.items()))


def loaded(binary):
    """Bytes of an ELF file that a process maps, without symbols and debugging."""
    data = binary.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        raise ValueError(f"{binary} is no program of 64 bits")
    offset, size, count = (int.from_bytes(data[at:at + wide], "little") for at, wide in ((32, 8), (54, 2), (56, 2)))
    headers = (data[offset + size * number:][:size] for number in range(count))
    return sum(int.from_bytes(one[32:40], "little") for one in headers if int.from_bytes(one[:4], "little") == 1)


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    system = re.search(r'PRETTY_NAME="(.*)"', pathlib.Path("/etc/os-release").read_text())
    return f"{os.cpu_count()} processors ({model[1] if model else platform.machine()}), {system[1]}, Linux {platform.release()}"


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default=",".join(MODES), help="of " + ", ".join(MODES))
    parser.add_argument("--variants", default=",".join(VARIANTS), help="of those that --list tells")
    parser.add_argument("--proxies", default=",".join(one.name for one in proxies.ALL))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warm", type=float, default=0.7)
    parser.add_argument("--rate", type=float, default=4000, help="requests a second where times are measured")
    parser.add_argument("--connections", type=int, default=5_000, help="that are idle")
    parser.add_argument("--patience", type=float, default=4, help="seconds to wait for a quiet machine before each round")
    parser.add_argument("--foregate", type=pathlib.Path, help="our program")
    parser.add_argument("--foregate-words", default="", help="more words for `foregate run`, as one text")
    parser.add_argument("--benches", type=pathlib.Path, help="foregate-benches")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target/bench")
    parser.add_argument("--polite", action="store_true", help="at the priority of everything else")
    parser.add_argument("--publish", action="store_true", help="into benches/README.md, too")
    parser.add_argument("--list", action="store_true", help="tell variants, modes and proxies, and end")
    return parser.parse_args()


def chosen_of(args):
    """The proxies that are there, and those that are not."""
    made = {one.name: one for one in proxies.ALL}
    wanted = named(args.proxies, made, "--proxies")
    found, missing = [], []
    for name in wanted:
        if name == "foregate":
            one = made[name](args.foregate, args.foregate_words.split())
        else:
            one = made[name](args.benches if name == "hyper" else None)
        (missing if one.missing() else found).append(one)
    return found, missing


def named(text, known, option):
    """Words with commas between them, all of which are known."""
    words = [word for word in text.split(",") if word]
    if unknown := [word for word in words if word not in known]:
        sys.exit(f"{option}: `{unknown[0]}` is none of {', '.join(known)}")
    return words


def raise_files(connections):
    """Lets this process and those it starts hold so many connections on both sides."""
    wanted, (_, most) = 2 * connections + 2_000, resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < wanted:
        sys.exit(f"--connections {connections} takes {wanted} open files, and `ulimit -Hn` is {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def measure(run, results, chosen, modes, works):
    if "saturated" in modes:
        rounds(run, results, "saturated", works, chosen)
    if "open" in modes:
        rounds(run, results, "open", {name: works[name] for name in works if name in ("plain", "tls", "lead")}, chosen, spin=False)
    if "handshakes" in modes:
        rounds(run, results, "handshakes", {name: VARIANTS[name] for name in HANDSHAKES}, chosen)
    if "idle" in modes:
        idle(run, results, chosen)
    if "start" in modes:
        start(run, results, chosen)
    if "size" in modes:
        for proxy in chosen:
            try:
                results.add("size", "text and data", proxy.name, value=loaded(proxy.binary.resolve()) / 2**20)
            except (OSError, ValueError) as fault:
                results.fail("size", "text and data", proxy.name, fault)


def write(out, results, about):
    """What there is, into a folder: also of a run that was broken off."""
    out.mkdir(parents=True, exist_ok=True)
    text = report.markdown(results, about)
    figure = report.svg(results.rows("saturated"), results.proxies, f"{report.SATURATED}: less is better", f"{about['date']}; {about['machine']}")
    data = json.dumps({"about": about, "results": results.as_json()}, indent=1)
    for name, content in (("results.md", text), ("results.svg", figure), ("results.json", data)):
        (out / name).write_text(content)
    print(text)


def publish(out, folder):
    """Puts what was written for a whole run in the place of what was published."""
    readme = folder / "README.md"
    text = f"![{report.SATURATED}](peers.svg)\n\n{(out / 'results.md').read_text()}"
    readme.write_text(report.placed(readme.read_text(), "peers", text))
    for name in ("svg", "json"):
        shutil.copyfile(out / f"results.{name}", folder / f"peers.{name}")


def conduct(run, results, about, chosen, modes, works):
    """Measures and writes; publishes where it is told to and everything was measured."""
    args = run.args
    try:
        measure(run, results, chosen, modes, works)
        about["whole"] = True
    finally:
        write(args.out, results, about)
    if args.publish and (failed := results.failures()):
        sys.exit(f"not published, as some failed: {'; '.join(failed)}")
    if args.publish:
        publish(args.out, PUBLISHED)


def command(words):
    """The words that this was started with; of a path the last part, as the rest tells of one machine only."""
    return shlex.join(["benches/compare/peers.py", *(re.sub(r"[^\s=]*/", "", word) for word in words)])


def profile(program):
    """The profile of cargo that a program was built with; empty where its place does not tell."""
    folder = program.resolve().parent.name
    return folder if folder in ("dist", "release", "debug") else ""


def main():
    args = parsed()
    works = {**VARIANTS, **MORE}
    if args.list:
        print("\n".join(f"{name:22} {one.title}" for name, one in works.items()))
        print(f"modes: {', '.join(MODES)}\nproxies: {', '.join(one.name for one in proxies.ALL)}")
        return
    args.benches = args.benches or proxies.Hyper().binary
    modes = named(args.modes, MODES, "--modes")
    works = {name: works[name] for name in named(args.variants, works, "--variants")}
    chosen, missing = chosen_of(args)
    for one in missing:
        say(one.missing())
    if not args.benches.exists():
        sys.exit(f"load and origin are missing: {proxies.Hyper.install}")
    if not chosen:
        sys.exit("no proxy is there")
    raise_files(args.connections)
    run = Run(args, (args.out / "run").resolve())
    run.folder.mkdir(parents=True, exist_ok=True)
    run.prepare()
    results = Results({one.name: one.title for one in chosen})
    about = {
        "date": datetime.date.today().strftime("%-d %B %Y"), "machine": machine(), "rounds": args.rounds, "seconds": args.seconds,
        "rate": args.rate, "connections": args.connections, "missing": [one.title for one in missing],
        "versions": ", ".join(f"{one.title} {one.version()}" for one in chosen), "command": command(sys.argv[1:]),
        "profiles": {one.title: profile(one.binary) for one in chosen if one.name in ("foregate", "hyper")}, "whole": False,
    }
    conduct(run, results, about, chosen, modes, works)


if __name__ == "__main__":
    main()
