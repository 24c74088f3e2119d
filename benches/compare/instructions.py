#!/usr/bin/env python3
"""Counts instructions per request with callgrind.

    benches/compare/instructions.py FOREGATE VARIANT...     for example: target/dist/foregate plain jwt_es256_cached lead whole

Needs valgrind and Python, nothing else: origin, load, key and tokens are made here. The variants are those of
`peers.py --list` that are plain on both sides, with ES256 tokens known again or none. Every variant runs twice, with
different numbers of requests; the difference of the counts by the difference of the requests is the figure, so that
start and end are not part of it. It repeats to about 1 %. User space of all threads is counted, the kernel is not.

The profile of the longer run stays in PROFILES (a folder, /tmp/foregate-instructions where absent), for
`callgrind_annotate --inclusive=yes FILE`; build with line tables to read it. FLAGS are further flags of the gateway, as
FLAGS="--traces http://127.0.0.1:4318 --trace-sample 0.01".
"""
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import threading

import policies
from rig import LEAD, free_port, running
from variants import MORE, VARIANTS

RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: Sun, 22 Nov 2026 08:00:00 GMT\r\n"
    b"content-length: 1024\r\n\r\n" + b"x" * 1024
)
CONNECTIONS = 16
CALLERS = 100
RUNS = (2_000, 10_000)


def read_message(stream, buffer):
    """One message with a length; gives what came after it, or None at the end of the stream."""
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if not (more := stream.recv(65536)):
            return None
        buffer += more
    length = re.search(rb"content-length: *(\d+)", buffer[:end], re.I)
    whole = end + 4 + (int(length[1]) if length else 0)
    while len(buffer) < whole:
        if not (more := stream.recv(65536)):
            return None
        buffer += more
    return buffer[whole:]


def serve(stream):
    rest = b""
    while (rest := read_message(stream, rest)) is not None:
        stream.sendall(RESPONSE)


def origin(listener):
    while True:
        stream, _ = listener.accept()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(stream,), daemon=True).start()


def requests(variant, tokens):
    body = LEAD.read_bytes() if variant.model else b""
    head = f"{'POST' if body else 'GET'} {variant.path} HTTP/1.1\r\nHost: svc.local\r\n"
    if body:
        head += f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n"
    head += "User-Agent: lg/1\r\nAccept: */*\r\n"
    if not variant.jwt:
        return [head.encode() + b"\r\n" + body]
    return [head.encode() + b"Authorization: Bearer " + token + b"\r\n\r\n" + body for token in tokens]


def load(port, messages, count):
    """Sends so many requests; every one must be answered with 200."""
    failures = []

    def client(first):
        with socket.create_connection(("127.0.0.1", port)) as stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number in range(first, count, CONNECTIONS):
                stream.sendall(messages[number % len(messages)])
                answer = stream.recv(65536)
                if not answer.startswith(b"HTTP/1.1 200"):
                    return failures.append(answer[:600])
                if read_message(stream, answer) is None:
                    return failures.append(b"the connection ended")

    clients = [threading.Thread(target=client, args=(first,)) for first in range(CONNECTIONS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    if failures:
        sys.exit(f"a request failed: {failures[0].decode(errors='replace')}")


def counted(foregate, folder, messages, count, profile):
    """Instructions of one run."""
    port = free_port()
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", foregate, "run", folder]
    command += ["--bind", f"edge/http=127.0.0.1:{port}", "--threads", 1, "--access-log", "off", "--admin", "127.0.0.1:0"]
    command += shlex.split(os.environ.get("FLAGS", ""))
    with running(*command, port=port, log=f"{profile}.log", patience=120):
        load(port, messages, count)
    return int(re.search(r"^(?:totals|summary): (\d+)", profile.read_text(), re.M)[1])


def measurable(variant):
    """True for what the load of this script can send."""
    plain = (variant.tls, variant.upstream, variant.http2, variant.path) == ("none", "plain", False, "/")
    return plain and (variant.jwt, variant.cached) in (("", False), ("es256", True)) and variant.body in ("", "lead.json")


def main():
    known = {name: one for name, one in {**VARIANTS, **MORE}.items() if measurable(one)}
    if len(sys.argv) < 3 or any(name not in known for name in sys.argv[2:]):
        sys.exit(f"{__doc__}\n{', '.join(known)}")
    foregate, *names = sys.argv[1:]
    profiles = pathlib.Path(os.environ.get("PROFILES", "/tmp/foregate-instructions"))
    profiles.mkdir(parents=True, exist_ok=True)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    threading.Thread(target=origin, args=(listener,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        key = str(folder / "key.pem")
        run = lambda *words: subprocess.run([foregate, "token", *words], check=True, capture_output=True).stdout  # noqa: E731
        keys = run("--new-key", key).decode()
        claims = ["--issuer", "https://idp.test", "--audience", "crm", "--scope", "crm.read crm.write", "--ttl", "24h"]
        claims += ["--claim", "org=00D5g000007XyZa", "--claim", 'roles=["sales","support"]']
        tokens = [run("--key", key, *claims, "--subject", f"user-{n}").strip() for n in range(CALLERS)]
        for name in names:
            # Under callgrind every model is slow, and would be counted on its own thread.
            policies.write(folder / name, known[name], listener.getsockname()[1], model="placement: Inline", deadline="1s")
            (folder / name / "jwks.json").write_text(keys)
            messages, profile = requests(known[name], tokens), profiles / f"{name}.out"
            few, many = (counted(foregate, folder / name, messages, count, profile) for count in RUNS)
            print(f"{name}: {(many - few) / (RUNS[1] - RUNS[0]):,.0f} instructions per request", flush=True)


main()
