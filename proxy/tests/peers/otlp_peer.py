"""A receiver of OTLP traces, by gRPC (grpcio) and HTTP, for one test; ends when its standard input does.

`otlp_peer.py MODE [CERTIFICATE KEY]` tells {"grpc": PORT, "http": PORT}, then one line for each export that reaches it
({"export": "grpc" or "http", "headers": {..}, "resource": {..}}), and in the mode `accept` one for each span.
Other modes: `unavailable` (UNAVAILABLE, 503), `refuse` (INVALID_ARGUMENT, 400), `partial` (one span is not taken),
`slow` (never answers). With a certificate gRPC is in TLS.
"""

import json
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

MODE = sys.argv[1]
SAY = threading.Lock()


def say(told):
    with SAY:
        print(json.dumps(told), flush=True)


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def tell(how, headers, request):
    """Tells of an export, and gives the answer."""
    for resource_spans in request.resource_spans:
        resource = attributes(resource_spans.resource.attributes)
        say({"export": how, "headers": headers, "resource": resource})
        for span in (span for scope in resource_spans.scope_spans for span in scope.spans):
            if MODE == "accept":
                say({
                    "trace": span.trace_id.hex(), "span": span.span_id.hex(), "parent": span.parent_span_id.hex(),
                    "name": span.name, "kind": span.kind, "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano, "attributes": attributes(span.attributes),
                    "error": span.status.code == 2, "state": span.trace_state, "flags": span.flags,
                })
    answer = trace_service_pb2.ExportTraceServiceResponse()
    if MODE == "partial":
        answer.partial_success.rejected_spans = 1
    return answer


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        answer = tell("grpc", dict(context.invocation_metadata()), request)
        if MODE == "unavailable":
            context.abort(grpc.StatusCode.UNAVAILABLE, "come again")
        if MODE == "refuse":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such tenant")
        if MODE == "slow":
            threading.Event().wait()
        return answer


class Web(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        headers = {name.lower(): text for name, text in self.headers.items()} | {":path": self.path}
        answer = tell("http", headers, request).SerializeToString()
        if MODE == "slow":
            threading.Event().wait()
        self.send_response({"unavailable": 503, "refuse": 400}.get(MODE, 200))
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def main():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
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
