"""What runs in a pod of a test: an application that knows nothing of its sidecar, a client, and an ear on the wire.

    pod.py serve HTTP TCP PROBE   serves HTTP on the ports HTTP and PROBE, and on TCP a server that speaks first
    pod.py talk HOST PORT LINE    tells what a server says first, and what it answers to a line
    pod.py listen INTERFACE FILE  writes every byte that passes the interface to a file

Each tells `ready` once it listens.
"""
import http.server
import json
import os
import socket
import socketserver
import sys
import threading

ETH_P_ALL = 3
SLOW = threading.Event()


def ready():
    print(json.dumps({"ready": True}), flush=True)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Requests(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        size = int(self.headers.get("content-length", 0))
        body = self.rfile.read(size).decode()
        if self.path == "/slow":
            print(json.dumps({"slow": True}), flush=True)
            SLOW.wait(20)
        if self.path == "/go":
            SLOW.set()
        told = {"path": self.path, "host": self.headers["host"], "body": body, "mark": "answer-in-the-clear"}
        reply = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 greeting-in-the-clear\n")
        for line in self.rfile:
            self.wfile.write(b"250 " + line)


class Talkers(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


def serve(requests, lines, probe):
    servers = [Server(("::", int(port)), Requests) for port in (requests, probe)]
    servers.append(Talkers(("::", int(lines)), Lines))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ready()
    threading.Event().wait()


def talk(host, port, line):
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        stream = connection.makefile("rwb")
        first = stream.readline().decode().strip()
        stream.write(line.encode() + b"\n")
        stream.flush()
        print(json.dumps({"first": first, "answer": stream.readline().decode().strip()}), flush=True)


def listen(interface, path):
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    ear.bind((interface, 0))
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    ready()
    while True:
        os.write(file, ear.recv(65536))


if __name__ == "__main__":
    {"serve": serve, "talk": talk, "listen": listen}[sys.argv[1]](*sys.argv[2:])
