"""What callers do: each request of the script, and the refusal that it must get."""

import concurrent.futures
import contextlib
import http.client
import json
import socket
import ssl
import subprocess

LEAD = {"Country": "US", "Title": "VP Operations"}


def lead(number):
    return {**LEAD, "Id": f"00Q5g00000a{number:04}", "Website_Visits__c": number % 20}


def batch(first, count):
    return {"allOrNone": False, "records": [{"attributes": {"type": "Lead"}, **lead(first + number)} for number in range(count)]}


class Caller:
    """Asks one gateway at one port; gives status and, of refusals, the reason."""

    def __init__(self, port):
        self.port = port

    def ask(self, path, method="GET", body=None, timeout=30, **headers):
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body, sent = json.dumps(body), {"content-type": "application/json", **sent}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Host": "edge.test", "Connection": "close", **sent})
            reply = connection.getresponse()
            return reply.status, _reason(reply.read())
        finally:
            connection.close()

    def many(self, count, path, at_once=8, body=None, **more):
        """So many of the same; `body` makes the body of each. Gives all answers."""
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda number: self.ask(path, body=body and body(number), **more), range(count)))

    @contextlib.contextmanager
    def open(self, path):
        """A request that is under way."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path, headers={"Host": "edge.test"})
        try:
            yield connection
        finally:
            connection.close()

    def raw(self, data, tls_name=None):
        """Bytes as they are; what comes back until the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), 30) as stream:
            if tls_name:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                stream = context.wrap_socket(stream, server_hostname=tls_name)
            said = b""
            with contextlib.suppress(OSError), stream:
                stream.sendall(data)
                while chunk := stream.recv(65536):
                    said += chunk
            return said

    def refused(self, data, tls_name=None):
        said = self.raw(data, tls_name)
        head, _, body = said.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]) if head else 0, _reason(body)

    def grpc(self, path, timeout):
        """A call of gRPC; gives its message."""
        words = ["--http2-prior-knowledge", "-s", "-i", "-X", "POST", "--data-binary", "@/dev/null", "-H", "content-type: application/grpc", "-H", "te: trailers", "-H", f"grpc-timeout: {timeout}", "-H", "Host: edge.test"]
        return subprocess.run(["curl", *words, f"http://127.0.0.1:{self.port}{path}"], capture_output=True, text=True, timeout=30, check=False).stdout


def _reason(body):
    with contextlib.suppress(ValueError, UnicodeDecodeError):
        document = json.loads(body)
        if isinstance(document, dict):
            return document.get("reason", "")
    return ""


def head(method="GET", path="/open/ok", host="edge.test", *lines):
    return "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "")).encode()


def message(method, path, document):
    body = json.dumps(document).encode()
    return head(method, path, "localhost", "Content-Type: application/json", f"Content-Length: {len(body)}") + body


def malformed(plain, secure):
    """Heads and bodies that are wrong in themselves."""
    yield "RequestMalformed", plain.refused(head().replace(b"Host: edge.test\r\n", b"Host: edge.test\r\nHost: two.test\r\n"))
    yield "PathMalformed", plain.refused(head(path="/open/%zz"))
    # What is refused before it is a request is told by its status alone.
    yield "", plain.refused(head("GET", "/open/ok", "edge.test", "x-long: " + "a" * 100_000))
    yield "ExpectationFailed", plain.refused(head("POST", "/open/ok", "edge.test", "Expect: miracles", "Content-Length: 0"))
    yield "MethodRefused", plain.refused(head("CONNECT", "edge.test:443"))
    yield "", plain.refused(b"GET /open/ok HTTP/1.1\r\nHost: edge.test\r\n")
    yield "BodyTimeout", plain.refused(head("POST", "/open/ok", "edge.test", "Content-Type: application/json", "Content-Length: 10") + b"{")
    yield "BodyMalformed", plain.refused(head("POST", "/open/ok", "edge.test", "Content-Type: application/json", "Transfer-Encoding: chunked") + b"zz\r\n")
    yield "BodyTooLarge", plain.ask("/open/ok", "POST", b'"' + b"a" * 70_000 + b'"', content_type="application/json")
    yield "BodyEncoded", plain.ask("/contract/ok", "POST", b"{}", content_type="application/json", content_encoding="br")
    yield "BodyMemoryExhausted", plain.ask("/memory/ok", "POST", b'"' + b"a" * (6 << 20) + b'"', content_type="application/json")
    yield "Misdirected", secure.refused(head(host="other.test"), "edge.test")
    yield "RouteNotFound", plain.ask("/none")


def unknown(caller, tokens, issuer, closed, key):
    """Who is nobody, or may not."""
    reader, aged = tokens.token(issuer, "--scope", "crm.read", "--claim", "age=5"), tokens.token(issuer, "--scope", "crm.read")
    bearer = lambda token: {"authorization": f"Bearer {token}"}
    yield "", caller.ask("/tokens/ok", **bearer(reader))
    yield "TokenMissing", caller.ask("/tokens/ok")
    yield "TokenInvalid", caller.ask("/tokens/ok", **bearer(reader[:-8] + "AAAAAAAA"))
    yield "AccessDenied", caller.ask("/tokens/ok", **bearer(tokens.token(issuer, "--scope", "other", "--claim", "age=5")))
    yield "RuleError", caller.ask("/tokens/ok", **bearer(aged))
    yield "KeysUnavailable", caller.ask("/keyless/ok", **bearer(tokens.token(closed)))
    yield "", caller.ask("/keys/ok", x_api_key=key)
    yield "KeyMissing", caller.ask("/keys/ok")
    yield "KeyInvalid", caller.ask("/keys/ok", x_api_key="nonsense")
    yield "CredentialsMissing", caller.ask("/either/ok")
    yield "", caller.ask("/asked/ok", **bearer("good-token"))
    yield "", caller.ask("/asked/ok", **bearer("good-token"))
    yield "TokenInvalid", caller.ask("/asked/ok", **bearer("bad-token"))
    yield "IntrospectionUnavailable", caller.ask("/unasked/ok", **bearer("good-token"))
    yield "AddressDenied", caller.ask("/inside/ok")
    yield "OriginDenied", caller.ask("/pages/ok", "OPTIONS", origin="https://evil.test", access_control_request_method="GET")
    yield "", caller.ask("/pages/ok", "OPTIONS", origin="https://app.test", access_control_request_method="GET")
    yield "", caller.ask("/watched/ok")


def too_much(caller, crm, turn):
    """Who comes too often, or again."""
    yield "RateLimited", caller.many(3, "/limited/ok", 1)[-1]
    yield "QuotaExceeded", caller.many(3, "/daily/ok", 1)[-1]
    with caller.open("/at-once/hang"):
        crm.hangs("/at-once/hang")
        yield "ConcurrencyLimited", caller.ask("/at-once/ok")
    once = lambda key, body, path="/once/ok", **more: caller.ask(path, "POST", body, idempotency_key=f"{turn}{key}" if key else "", **more)
    yield "", once("k1", {})
    yield "", once("k1", {})
    yield "IdempotencyKeyMissing", caller.ask("/once/ok", "POST", {})
    yield "IdempotencyKeyInvalid", once("", {})
    yield "IdempotencyKeyReused", once("k1", {"other": 1})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(once, "k2", {}, "/once/hang")
        crm.hangs("/once/hang")
        yield "IdempotencyConflict", once("k2", {}, "/once/hang")
        crm.released.set()
        first.result()
    crm.released.clear()
    once("k3", {}, "/once/reset")
    yield "IdempotencyAnswerGone", once("k3", {}, "/once/reset")
    org = lambda client: caller.ask("/org/org", x_client=client)
    if turn == "one":
        yield "", org("desk")
        crm.usage = "api-usage=60/100"
        org("desk")
        yield "OrgQuotaReserved", org("others")
        crm.usage = "api-usage=nonsense"
        org("desk")
    else:
        # From now on the gateway asks no more for a minute.
        crm.usage = "api-usage=100/100"
        org("desk")
        yield "OrgQuotaExhausted", org("desk")


def messages(caller):
    """What is not as it should be."""
    post = lambda body, content_type="application/json": caller.ask("/contract/ok", "POST", body, content_type=content_type)
    yield "", post(b'{"LastName":"a"}')
    yield "BodyInvalid", post(b'{"a":1,"a":2}')
    yield "SchemaViolation", post(b"{}")
    yield "MediaTypeUnsupported", post(b"a", "text/plain")
    yield "ParameterInvalid", caller.ask("/contract/ok?limit=few")
    yield "OperationUnknown", caller.ask("/contract/none")
    yield "ResponseInvalid", caller.ask("/contract/ok?limit=1")
    yield "BodyUnreadable", caller.ask("/reserved/ok", "POST", b"[1", content_type="application/json")
    yield "FieldReserved", caller.ask("/reserved/ok", "POST", {**lead(1), "Lead_Score__c": 1})


def services(caller, crm):
    """What services do."""
    yield "", caller.ask("/crm/ok")
    yield "", caller.ask("/crm/error")
    yield "UpstreamTimeout", caller.ask("/crm/hang")
    yield "UpstreamReset", caller.ask("/crm/reset", "POST", {})
    yield "UpstreamMalformed", caller.ask("/crm/garbage", "POST", {})
    yield "UpstreamUnreachable", caller.ask("/dead/ok")
    yield "UpstreamUntrusted", caller.ask("/untrusted/ok")
    yield "FaultInjected", caller.ask("/faulty/ok", x_outage="1")
    yield "", caller.ask("/granted/ok")
    yield "CredentialUnavailable", caller.ask("/not-granted/ok")
    yield "", caller.many(8, "/several/ok", 1)[-1]
    caller.ask("/checked/ok")
    # An answer that breaks off is none that could be read.
    caller.raw(head(path="/crm/cut"))
    answers = caller.grpc("/open/hang", "100m")
    yield "DeadlineExceeded", (504, "DeadlineExceeded" if "DeadlineExceeded" in answers else answers)
    with caller.open("/narrow/hang"), caller.open("/narrow/hang"):
        crm.hangs("/narrow/hang")
        yield "Overloaded", caller.many(40, "/narrow/ok", 4)[-1]
