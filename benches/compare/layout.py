#!/usr/bin/env python3
"""Finds which functions of the gateway run, and writes in which order the linker lays them out.

    benches/compare/layout.py FOREGATE BENCHES      for example: target/release/foregate target/release/foregate-benches

Needs valgrind, openssl and Python. The gateway runs under callgrind as a sidecar of which nothing is asked, and at the works
of `peers.py` that VARIANTS names. First come functions that only a start runs, then those that take part in requests as well,
then those that only requests need, what takes most before the rest, and at last whatever else ran: a sidecar touches the first
two, a busy gateway two that lie together. proxy/layout.ld is written anew; names are kept without the hash that a compiler
gives them, so that other versions fit, too.
"""
import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import interception
from rig import HERE, ROOT

VARIANTS = "plain,tls,tls_h2,h2c,mtls,mtls_h2,jwt_es256,jwt_es256_cached,body_64k,body_1m,stream_1k,stream_1m,post,grpc,whole"
# Part of all instructions of a run from which a function takes part in requests.
HOT = 1e-4
# What the compiler adds to a name.
HASH = re.compile(r"17h[0-9a-f]{16}E.*$")
HEAD = """\
/* The order of the program: what a start runs, what serves requests, then the rest. Written by
   benches/compare/layout.py; build.rs hands it to the linker. */
SECTIONS {
  .text : {
"""
TAIL = """\
    *(.text.startup .text.startup.*)
    *(.text .text.*)
  }
}
INSERT BEFORE .init;
"""


def costs(profile, program):
    """Instructions of each function of the program itself, without what it calls."""
    names, objects, found = {}, {}, collections.Counter()
    ours, function, called = False, None, False
    for line in profile.read_text(errors="replace").splitlines():
        if named := re.match(r"(c?)(fn|ob)=\((\d+)\)(?: (.*))?$", line):
            callee, kind, number, name = named.groups()
            known = names if kind == "fn" else objects
            if name:
                known[number] = name
            if kind == "ob" and not callee:
                ours = known[number] == program
            elif kind == "fn" and not callee:
                function = re.sub(r"'\d+$", "", known[number])
        elif line.startswith("calls="):
            called = True
        elif re.match(r"[+\-*\d]", line):
            # Behind a call stands what the callee took.
            if ours and not called and len(fields := line.split()) > 1:
                found[function] += int(fields[1])
            called = False
    return found


def idle(program, folder):
    """A sidecar that is asked nothing."""
    interception.certificates(folder)
    policies = folder / "policies"
    policies.mkdir()
    (policies / "policies.yaml").write_text(interception.CALLING + interception.SERVING.replace("0.0.0.0", "127.0.0.1"))
    log = folder / "log"
    words = [program, "run", policies, "--identity", f"dir:{folder / 'client'}", "--threads", "1", "--access-log", "off", "--admin", "127.0.0.1:0"]
    with open(log, "w") as out:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=out)
    until = time.monotonic() + 120
    while log.read_text().count('"listening"') < 4:
        if process.poll() is not None or time.monotonic() > until:
            sys.exit(log.read_text())
        time.sleep(0.1)
    time.sleep(10)
    process.terminate()
    process.wait(120)


def pattern(name):
    """The sections of a function; None for what has none of its own."""
    if HASH.search(name):
        return f".text.{HASH.sub('17h*', name)}"
    return f".text.{name}" if re.fullmatch(r"[A-Za-z_]\w*", name) else None


def main(foregate, benches):
    program = os.path.realpath(foregate)
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        watched = folder / "foregate"
        watched.write_text(
            f"#!/bin/sh\nexec valgrind --tool=callgrind --demangle=no --callgrind-out-file={folder}/out.%p {program} \"$@\"\n"
        )
        watched.chmod(0o755)
        idle(watched, folder)
        alone = list(folder.glob("out.*"))
        peers = [sys.executable, HERE / "peers.py", "--proxies", "foregate", "--foregate", watched, "--benches", benches, "--polite"]
        peers += ["--modes", "saturated,handshakes", "--rounds", "1", "--seconds", "4", "--out", folder / "peers", "--variants", VARIANTS]
        subprocess.run(peers, check=True, stdout=subprocess.DEVNULL)
        alone = {name for profile in alone for name in costs(profile, program)}
        runs = [costs(profile, program) for profile in folder.glob("out.*")]
    parts, every = collections.Counter(), set()
    for run in runs:
        whole = sum(run.values())
        every |= run.keys()
        for name, cost in run.items():
            # The start is in every run, and short beside the requests.
            if cost > HOT * whole:
                parts[name] += cost / whole
    hot = [name for name, _ in parts.most_common()]
    order = sorted(alone - parts.keys()) + [name for name in hot if name in alone] + hot + sorted(every - parts.keys())
    patterns = list(dict.fromkeys(filter(None, map(pattern, order))))
    lines = "".join(f"    *({one})\n" for one in patterns)
    (ROOT / "proxy/layout.ld").write_text(HEAD + lines + TAIL)
    print(f"{len(runs)} runs, {len(every)} functions, {len(parts)} of them in requests, {len(patterns)} names")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
