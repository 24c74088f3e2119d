"""Stand-ins for what a gateway meets: a CRM that does what the path says, an issuer of tokens, a collector of spans."""

import collections
import http.server
import json
import ssl
import threading

RELEASE = 120


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Two writes, head and body, must not wait for one another.
    disable_nagle_algorithm = True

    def do_GET(self):
        # Whoever asked may have left.
        try:
            self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except OSError:
            self.close_connection = True

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET

    def reply(self, status, document, **headers):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        # A client that left or spoke no HTTP: the gateway is what is looked at.
        pass


class Service:
    """A server on a free port of loopback, until it is stopped."""

    def __init__(self, handler, context=None):
        self.server = _Server(("127.0.0.1", 0), handler)
        self.server.service = self
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Crm(Service):
    """Does what the last part of a path says; what hangs, hangs until it is `released`."""

    class Handler(_Handler):
        def answer(self, body):
            crm = self.server.service
            match self.path.split("?")[0].rsplit("/", 1)[-1]:
                case "error":
                    self.reply(500, {})
                case "hang":
                    crm.hanging[self.path].release()
                    crm.released.wait(RELEASE)
                    self.reply(200, {})
                case "reset":
                    self.close_connection = True
                case "cut":
                    self.send_response(200)
                    self.send_header("Content-Length", "100")
                    self.end_headers()
                    self.wfile.write(b"some")
                    self.close_connection = True
                case "garbage":
                    self.wfile.write(b"nonsense\r\n\r\n")
                    self.close_connection = True
                case "events":
                    self.send_response(200)
                    self.send_header("Content-Type", "text/event-stream")
                    self.end_headers()
                    self.wfile.write(b"data: one\n\n")
                    self.wfile.flush()
                    crm.ended.wait(RELEASE)
                    self.close_connection = True
                case "org":
                    self.reply(200, {}, Sforce_Limit_Info=crm.usage)
                case _:
                    self.reply(200, {"ok": True})

    def __init__(self, context=None):
        self.released, self.ended, self.usage = threading.Event(), threading.Event(), "api-usage=10/100"
        self.hanging = collections.defaultdict(lambda: threading.Semaphore(0))
        super().__init__(self.Handler, context)

    def hangs(self, path):
        """Waits until one more request at this path hangs."""
        assert self.hanging[path].acquire(timeout=30), f"no request came to hang at {path}"


class Issuer(Service):
    """Keys, tokens for clients, and answers about opaque tokens: whatever begins with `good` is active."""

    class Handler(_Handler):
        def answer(self, body):
            issuer = self.server.service
            match self.path:
                case "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server":
                    self.reply(200, {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"})
                case "/keys":
                    self.reply(200, issuer.keys)
                case "/token":
                    self.reply(200, {"access_token": "granted", "token_type": "Bearer", "expires_in": 3600})
                case "/introspect":
                    active = b"token=good" in body
                    claims = {"active": True, "aud": "crm", "sub": "someone", "exp": 4_000_000_000, "iss": issuer.url}
                    self.reply(200, claims if active else {"active": False})
                case _:
                    self.reply(404, {})

    def __init__(self, keys):
        self.keys = keys
        super().__init__(self.Handler)
        self.url = f"http://127.0.0.1:{self.port}"


class Collector(Service):
    """Takes spans and logs by OTLP over HTTP, until it is told to refuse them."""

    class Handler(_Handler):
        def answer(self, body):
            refuses = self.server.service.refuses
            self.send_response(400 if refuses else 200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def __init__(self):
        self.refuses = False
        super().__init__(self.Handler)


class Cluster(Service):
    """As much of an API server as a controller needs: one GatewayClass, what it writes itself, watches that tell nothing, one fault."""

    CLASS = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "foregate", "uid": "1", "resourceVersion": "1", "generation": 1},
        "spec": {"controllerName": "foregate.dev/gateway-controller"},
    }

    class Handler(_Handler):
        def answer(self, body):
            cluster = self.server.service
            path, _, query = self.path.partition("?")
            if path.endswith("/stores") and not cluster.failed:
                cluster.failed = True
                self.reply(500, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "InternalError", "code": 500})
            elif "watch=true" in query:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.flush()
                cluster.released.wait(RELEASE)
                self.close_connection = True
            elif self.command == "GET" and path in cluster.written:
                self.reply(200, cluster.written[path])
            elif self.command == "GET" and path.rsplit("/", 2)[-2] in ("secrets", "leases"):
                self.reply(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})
            elif self.command == "GET":
                items = [cluster.CLASS] if path.endswith("/gatewayclasses") else []
                self.reply(200, {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
            else:
                document = json.loads(body)
                document.setdefault("metadata", {}).update(resourceVersion=str(len(cluster.written) + 2), uid="1")
                name = document["metadata"].get("name", "")
                cluster.written[f"{path}/{name}" if self.command == "POST" else path] = document
                self.reply(201 if self.command == "POST" else 200, document)

    def __init__(self):
        self.released, self.written, self.failed = threading.Event(), {}, False
        super().__init__(self.Handler)


def tls(certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
