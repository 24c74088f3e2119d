#!/usr/bin/env python3
"""Measures what sidecars cost whose connections the kernel redirects: latency a hop, and resident memory.

    benches/compare/interception.py FOREGATE        for example: target/dist/foregate

Needs root, and iproute2, nftables, openssl, setpriv and Python, nothing else. Two network namespaces with one link between
them stand for two pods. A client sends one small request after another on one connection that is kept:

    direct      client and server speak mutual TLS themselves; no sidecar
    ports       both speak plain HTTP, to the ports of their sidecars; mutual TLS between these
    redirected  both speak plain HTTP to one another; `foregate init` redirects to the sidecars, and mutual TLS is between these

ROUNDS rounds (9 where absent) of REQUESTS requests (3,000) are taken in turn; of each the median is taken, and of these the
median. What a hop adds is half of what redirected takes over direct: there are two sidecars. Client and server are the same
few lines of Python in all three, with OpenSSL in the first. Resident memory is VmRSS of the sidecars, when nothing was asked
of them yet and after all rounds.
"""
import json
import os
import pathlib
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS = int(os.environ.get("ROUNDS", "9"))
REQUESTS = int(os.environ.get("REQUESTS", "3000"))
UID = "1337"
HERE, THERE = "10.78.0.1", "10.78.0.2"
PLAIN, SECRET, PORTS = 8080, 8443, 15443
BODY = b"x" * 1024
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
REQUEST = b"GET /bench HTTP/1.1\r\nHost: server.test\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n"

GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: {name} }}
spec:
  gatewayClassName: foregate
  addresses: [{{ value: {address} }}]
  listeners: [{{ name: {name}, port: {port}, protocol: {protocol} }}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name} }}
spec:
  parentRefs: [{{ name: {name} }}]
  rules: [{{ backendRefs: [{{ group: foregate.dev, kind: Upstream, name: {name} }}] }}]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: {{ name: {name} }}
spec: {upstream}
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: {name} }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: {name} }}]
  authorize: [{{ name: {name}, allow: '{rule}' }}]
---"""
IDENTITY = "HTTPS, tls: { options: { foregate.dev/identity: workload } }"
CLIENT = 'peer.id == "spiffe://bench.test/client"'
ANY = 'request.method == "GET"'


def to(port):
    return '{ endpoints: ["%s:%d"], tls: { mode: Mutual, peers: ["spiffe://bench.test/server"] } }' % (THERE, port)


def gateways(*all_of_them):
    words = ("name", "address", "port", "protocol", "upstream", "rule")
    return "".join(GATEWAY.format(**dict(zip(words, one))) for one in all_of_them)


CALLING = gateways(
    ("out", "127.0.0.1", 15001, "foregate.dev/Outbound", to(PLAIN), ANY),
    ("ports-out", "127.0.0.1", 15002, "HTTP", to(PORTS), ANY),
)
SERVING = gateways(
    ("in", "0.0.0.0", 15006, "foregate.dev/Inbound", "{ captured: Address }", CLIENT),
    ("ports-in", "0.0.0.0", PORTS, IDENTITY, '{ endpoints: ["127.0.0.1:%d"] }' % PLAIN, CLIENT),
)


def run(*words, **options):
    return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout


def serve(port, context):
    listener = socket.create_server(("0.0.0.0", port))

    def answer(stream):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            stream = context.wrap_socket(stream, server_side=True) if context else stream
            while stream.recv(65536):
                stream.sendall(RESPONSE)
        except OSError:
            pass

    while True:
        stream, _ = listener.accept()
        threading.Thread(target=answer, args=(stream,), daemon=True).start()


def context(folder, name, server):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(folder / name / "svid.pem", folder / name / "svid_key.pem")
    made.load_verify_locations(folder / name / "svid_bundle.pem")
    return made


def server(folder):
    threading.Thread(target=serve, args=(SECRET, context(folder, "server", True)), daemon=True).start()
    threading.Thread(target=serve, args=(PLAIN, None), daemon=True).start()
    threading.Event().wait()


def client(host, port, folder=None):
    stream = socket.create_connection((host, port), timeout=10)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if folder:
        stream = context(pathlib.Path(folder), "client", False).wrap_socket(stream)
    times = []
    for number in range(REQUESTS + REQUESTS // 10):
        began = time.perf_counter_ns()
        stream.sendall(REQUEST)
        answer = b""
        while not answer.endswith(BODY):
            part = stream.recv(65536)
            if not part or not b"HTTP/1.1 200 OK".startswith((answer or part)[:15]):
                sys.exit(f"no such answer: {answer + part!r}")
            answer += part
        times.append(time.perf_counter_ns() - began)
    # The first ones open connections further on.
    print(json.dumps(statistics.median(times[REQUESTS // 10 :]) / 1_000))


def certificates(folder):
    """An authority, and a workload certificate for either side."""
    authority = folder / "authority"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run("openssl", "req", "-x509", *key, "-keyout", f"{authority}.key", "-out", f"{authority}.pem", "-days", "30",
        "-subj", "/O=bench", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    for name in ("client", "server"):
        to = folder / name
        to.mkdir()
        extensions = folder / f"{name}.ext"
        extensions.write_text(
            f"subjectAltName=URI:spiffe://bench.test/{name}\nkeyUsage=critical,digitalSignature\n"
            "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n"
        )
        run("openssl", "req", *key, "-keyout", f"{to}/key.pem", "-out", f"{to}.csr", "-subj", "/")
        run("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", f"{to}/key.pem", "-out", f"{to}/svid_key.pem")
        run("openssl", "x509", "-req", "-in", f"{to}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
            "-out", f"{to}/svid.pem", "-days", "30", "-extfile", str(extensions))
        (to / "svid_bundle.pem").write_text(pathlib.Path(f"{authority}.pem").read_text())


def resident(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


class Pods:
    """Two namespaces and what runs in them, taken away at the end."""

    def __init__(self, binary):
        self.binary, self.running = binary, []
        self.names = [f"foregate-bench-{os.getpid()}-{side}" for side in ("client", "server")]

    def __enter__(self):
        one, other = self.names
        for name in self.names:
            run("ip", "netns", "add", name)
        run("ip", "-n", one, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other)
        for name, address in zip(self.names, (HERE, THERE)):
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                run("ip", "-n", name, "link", "set", link, "up")
            # What passes past the sidecars is measured beside what they are redirected to.
            run("ip", "netns", "exec", name, self.binary, "init", "--skip-inbound-ports", f"{SECRET},{PORTS}",
                "--skip-outbound-ports", f"{SECRET}")
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def start(self, name, words, **options):
        process = subprocess.Popen(["ip", "netns", "exec", name, *words], **options)
        self.running.append(process)
        return process

    def sidecar(self, name, folder, policies, identity):
        (folder / name).mkdir()
        (folder / name / "policies.yaml").write_text(policies)
        run("chown", "-R", UID, str(folder))
        become = ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups"]
        # By number: the folder that it lies in may be closed to that user.
        words = ["/proc/self/fd/0", "run", str(folder / name), "--identity", f"dir:{folder / identity}"]
        errors = open(folder / f"{name}.log", "w+")
        process = self.start(name, [*become, *words, "--threads", "1", "--access-log", "off"],
                             stdin=open(self.binary, "rb"), stdout=subprocess.DEVNULL, stderr=errors)
        until = time.monotonic() + 30
        log = folder / f"{name}.log"
        while log.read_text().count('"listening"') < 2:
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(log.read_text())
            time.sleep(0.05)
        return process

    def ask(self, host, port, *folder):
        words = [sys.executable, os.path.abspath(__file__), "client", host, str(port), *folder]
        asked = subprocess.run(["ip", "netns", "exec", self.names[0], *words], capture_output=True, text=True)
        if asked.returncode != 0:
            sys.exit(f"{host}:{port}: {asked.stderr}")
        return json.loads(asked.stdout)


def main(binary):
    binary = os.path.abspath(binary)
    with tempfile.TemporaryDirectory() as made, Pods(binary) as pods:
        folder = pathlib.Path(made)
        os.chmod(folder, 0o755)
        certificates(folder)
        one, other = pods.names
        pods.start(other, [sys.executable, os.path.abspath(__file__), "server", made])
        sidecars = [pods.sidecar(one, folder, CALLING, "client"), pods.sidecar(other, folder, SERVING, "server")]
        # So that memory of the start is given back.
        time.sleep(5)
        idle = [resident(sidecar) for sidecar in sidecars]
        ways = {
            "direct": (THERE, SECRET, made),
            "ports": ("127.0.0.1", 15002),
            "redirected": (THERE, PLAIN),
        }
        times = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                times[name].append(pods.ask(way[0], way[1], *way[2:]))
        p50 = {name: statistics.median(all_of_it) for name, all_of_it in times.items()}
        for name, value in p50.items():
            spread = f"{min(times[name]):.1f} to {max(times[name]):.1f}"
            print(f"{name:<12} {value:8.1f} us p50   (rounds: {spread})")
        print(f"a hop adds   {(p50['redirected'] - p50['direct']) / 2:8.1f} us over direct mutual TLS (goal: 60)")
        print(f"redirection  {(p50['redirected'] - p50['ports']) / 2:8.1f} us a hop over ports of the sidecar")
        for name, before, sidecar in zip(("calling", "serving"), idle, sidecars):
            print(f"{name:<12} {before:8.1f} MiB resident, idle; {resident(sidecar):.1f} after all rounds (goal: 25)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["server"]:
        server(pathlib.Path(sys.argv[2]))
    elif sys.argv[1:2] == ["client"]:
        client(sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
    elif len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        sys.exit(__doc__)
