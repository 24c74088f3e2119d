"""A receiver of OTLP traces and logs, by gRPC (grpcio) and HTTP, for one test; ends when its standard input does.

`otlp_peer.py MODE [CERTIFICATE KEY]` tells {"grpc": PORT, "http": PORT}, then one line for each export that reaches it
({"export": "grpc" or "http", "signal": "traces" or "logs", "at": SECONDS, "headers": {..}, "resource": {..}}), and in
the mode `accept` one for each span and log record. Other modes: `unavailable` (UNAVAILABLE, 503), `refuse`
(INVALID_ARGUMENT, 400), `exhausted` (RESOURCE_EXHAUSTED, 400), `busy` (RESOURCE_EXHAUSTED with a RetryInfo, 429 with a
Retry-After, of two seconds, the first time), `partial` (one span or log record is not taken), `slow` (never answers).
With a certificate gRPC is in TLS.
"""

import gzip
import json
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

MODE = sys.argv[1]
SAY = threading.Lock()
# Turned away with these; two seconds, as a google.rpc.Status has them.
BUSY = iter([True] if MODE == "busy" else [])
RETRY_INFO = b"\x08\x08\x1a\x30\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x04\x0a\x02\x08\x02"


def say(told):
    with SAY:
        print(json.dumps(told), flush=True)


def value(any_value):
    match any_value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [value(one) for one in any_value.array_value.values]
        case "kvlist_value":
            return attributes(any_value.kvlist_value.values)
        case name:
            return getattr(any_value, name)


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def tell_span(span):
    say({
        "trace": span.trace_id.hex(), "span": span.span_id.hex(), "parent": span.parent_span_id.hex(),
        "name": span.name, "kind": span.kind, "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano, "attributes": attributes(span.attributes),
        "error": span.status.code == 2, "state": span.trace_state, "flags": span.flags,
    })


def tell_log(log):
    say({
        "log": value(log.body), "of_trace": log.trace_id.hex(), "of_span": log.span_id.hex(), "flags": log.flags,
        "severity": log.severity_number, "severity_text": log.severity_text, "time": log.time_unix_nano,
        "observed": log.observed_time_unix_nano, "event": log.event_name, "attributes": attributes(log.attributes),
    })


def tell(how, headers, request):
    """Tells of an export, and gives the answer."""
    logs = isinstance(request, logs_service_pb2.ExportLogsServiceRequest)
    for one in request.resource_logs if logs else request.resource_spans:
        signal = "logs" if logs else "traces"
        say({"export": how, "signal": signal, "at": time.monotonic(), "headers": headers, "resource": attributes(one.resource.attributes)})
        for scope in one.scope_logs if logs else one.scope_spans:
            for item in scope.log_records if logs else scope.spans:
                if MODE == "accept":
                    tell_log(item) if logs else tell_span(item)
    if logs:
        answer = logs_service_pb2.ExportLogsServiceResponse()
        if MODE == "partial":
            answer.partial_success.rejected_log_records = 1
    else:
        answer = trace_service_pb2.ExportTraceServiceResponse()
        if MODE == "partial":
            answer.partial_success.rejected_spans = 1
    return answer


def exported(request, context):
    answer = tell("grpc", dict(context.invocation_metadata()), request)
    if MODE == "unavailable":
        context.abort(grpc.StatusCode.UNAVAILABLE, "come again")
    if next(BUSY, False):
        context.set_trailing_metadata((("grpc-status-details-bin", RETRY_INFO),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "in two seconds")
    if MODE == "exhausted":
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "never again")
    if MODE == "refuse":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such tenant")
    if MODE == "slow":
        threading.Event().wait()
    return answer


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        return exported(request, context)


class Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def Export(self, request, context):
        return exported(request, context)


class Web(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        message = {
            "/v1/traces": trace_service_pb2.ExportTraceServiceRequest,
            "/v1/logs": logs_service_pb2.ExportLogsServiceRequest,
        }[self.path]
        headers = {name.lower(): text for name, text in self.headers.items()} | {":path": self.path}
        answer = tell("http", headers, message.FromString(body)).SerializeToString()
        if MODE == "slow":
            threading.Event().wait()
        busy = next(BUSY, False)
        self.send_response(429 if busy else {"unavailable": 503, "refuse": 400, "exhausted": 400}.get(MODE, 200))
        if busy:
            self.send_header("retry-after", "2")
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def main():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(Logs(), server)
    if len(sys.argv) > 2:
        chain, key = (open(file, "rb").read() for file in sys.argv[2:4])
        by_grpc = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    else:
        by_grpc = server.add_insecure_port("127.0.0.1:0")
    server.start()
    web = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    say({"grpc": by_grpc, "http": web.server_address[1]})
    sys.stdin.read()


main()
