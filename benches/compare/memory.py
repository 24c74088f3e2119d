#!/usr/bin/env python3
"""Measures what connections cost: resident memory of the gateway, by the number of connections.

    benches/compare/memory.py FOREGATE [KIND]...     for example: target/dist/foregate idle half-head

Needs Python and openssl, nothing else. The kinds, all where none is named:

    idle       one request answered, then kept open (plain)      idle-tls   the same in TLS
    accepted   accepted, and not a byte came (plain)             hello      accepted, and no ClientHello came (TLS)
    half-head  the first bytes of a head (plain)                 half-tls   the first half of a ClientHello (TLS)

COUNT connections are opened (10,000 where absent), after as many as a tenth of them have come and gone, so that what the
process needs once is not counted. The figure is the growth of resident memory by the number of connections; the allocator gives
memory in pages, so it holds to about 0.2 KiB for 10,000.
"""
import os
import pathlib
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

import policies
from rig import free_port, running, settled
from variants import VARIANTS

COUNT = int(os.environ.get("COUNT", "10000"))
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: svc.local\r\nUser-Agent: lg/1\r\nAccept: */*\r\n\r\n"
KINDS = {"idle": "plain", "accepted": "plain", "half-head": "plain", "idle-tls": "tls", "hello": "tls", "half-tls": "tls"}


def serve(stream):
    while stream.recv(65536):
        stream.sendall(RESPONSE)


def origin(listener):
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=serve, args=(stream,), daemon=True).start()


def client_hello():
    """The first bytes that a TLS client sends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl._create_unverified_context().wrap_bio(incoming, outgoing, server_hostname="svc.local")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()


def opened(kind, port, context, hello):
    stream = socket.create_connection(("127.0.0.1", port))
    if kind == "idle-tls":
        stream = context.wrap_socket(stream, server_hostname="svc.local")
    if kind.startswith("idle"):
        stream.sendall(GET)
        answer = b""
        while not answer.endswith(b"ok"):
            if not (more := stream.recv(65536)):
                sys.exit("a connection ended")
            answer += more
    elif kind == "half-head":
        stream.sendall(GET[: len(GET) // 2])
    elif kind == "half-tls":
        stream.sendall(hello[: len(hello) // 2])
    return stream


def measured(foregate, kind, folder):
    port = free_port()
    command = [foregate, "run", folder / KINDS[kind], "--bind", f"edge/http=127.0.0.1:{port}", "--admin", "127.0.0.1:0"]
    command += ["--threads", 1, "--access-log", "off", "--head-timeout", "1h"]
    command += ["--max-connections", 2 * COUNT, "--client-connections", 2 * COUNT]
    context, hello = ssl._create_unverified_context(), client_hello()
    with running(*command, port=port, log=folder / f"{kind}.log") as process:
        for stream in [opened(kind, port, context, hello) for _ in range(COUNT // 10)]:
            stream.close()
        before = settled(process)
        streams = [opened(kind, port, context, hello) for _ in range(COUNT)]
        after = settled(process)
        each = (after - before) / len(streams)
        print(f"{kind:10} {each:6.2f} KiB a connection, {after / 1024:7.1f} MiB resident with {len(streams)}", flush=True)


def main():
    if len(sys.argv) < 2 or any(kind not in KINDS for kind in sys.argv[2:]):
        sys.exit(__doc__)
    foregate, kinds = sys.argv[1], sys.argv[2:] or list(KINDS)
    wanted = COUNT + COUNT // 10 + 1_000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted) if hard != resource.RLIM_INFINITY else hard))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    threading.Thread(target=origin, args=(listener,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in set(KINDS[kind] for kind in kinds):
            policies.write(folder / name, VARIANTS[name], listener.getsockname()[1])
        if (folder / "tls").exists():
            secrets = folder / "tls/secrets/bench"
            secrets.mkdir(parents=True)
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            command += ["-subj", "/CN=svc.local", "-addext", "subjectAltName=DNS:svc.local", "-days", "2"]
            command += ["-keyout", str(secrets / "tls.key"), "-out", str(secrets / "tls.crt")]
            subprocess.run(command, check=True, capture_output=True)
        for kind in kinds:
            measured(foregate, kind, folder)


main()
