"""Rotel, a collector of OpenTelemetry, for one test: passes on by gRPC what it receives. Ends with whoever started it.

`rotel_peer.py PORT` tells {"grpc": PORT, "http": PORT} of its receivers, and becomes the collector; PORT is that of the
receiver behind it.
"""

import ctypes
import json
import os
import pathlib
import signal
import socket
import sys
import tempfile

import rotel

PR_SET_PDEATHSIG = 1


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main():
    ports = {"grpc": free_port(), "http": free_port()}
    print(json.dumps(ports), flush=True)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    agent = pathlib.Path(rotel.__file__).parent / "rotel-agent"
    words = [agent, "start", "--otlp-grpc-endpoint", f"127.0.0.1:{ports['grpc']}", "--otlp-http-endpoint", f"127.0.0.1:{ports['http']}"]
    words += ["--exporter", "otlp", "--otlp-exporter-endpoint", f"http://127.0.0.1:{sys.argv[1]}", "--otlp-exporter-compression", "none"]
    words += ["--pid-file", os.path.join(tempfile.gettempdir(), f"rotel-{os.getpid()}.pid")]
    # What it says of itself goes where errors go.
    os.dup2(2, 1)
    os.execv(agent, words)


main()
