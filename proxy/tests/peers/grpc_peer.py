"""A gRPC server and client of grpcio for one test; ends when its standard input does.

`grpc_peer.py server` tells {"port": ..} and then one line for every call that it has seen: method, metadata, the time
that the caller left it, and how it ended. `grpc_peer.py client` reads calls as JSON, one a line:
  {"target": "127.0.0.1:1", "method": "/crm.v1.Leads/Get", "kind": "unary", "messages": ["a"], "timeout": 1.5,
   "metadata": [["x-a", "1"]], "host": "crm.test"}
and tells of each {"code": "OK", "details": "", "replies": [..], "initial": {..}, "trailing": {..}}.
Messages are text in UTF-8, not protocol buffers; only the health service is real.
"""

import json
import sys
import threading
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SAY = threading.Lock()


def say(told):
    with SAY:
        print(json.dumps(told), flush=True)


def plain(metadata):
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def seen(context, method, ended):
    left = context.time_remaining()
    # grpcio says some hundred million years where there is no deadline.
    left = left if left is not None and left < 1e6 else None
    told = {"method": method, "metadata": plain(context.invocation_metadata()), "left": left, "ended": ended}
    say(told)
    return told


def get(request, context):
    seen(context, "Get", "answered")
    context.send_initial_metadata((("x-initial", "1"),))
    context.set_trailing_metadata((("x-trailing", "2"),))
    return b"got " + request


def fail(request, context):
    seen(context, "Fail", "aborted")
    context.set_trailing_metadata((("x-trailing", "3"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no lead: é %")


def listing(request, context):
    seen(context, "List", "answered")
    for number in range(int(request)):
        yield str(number).encode()


def collect(requests, context):
    seen(context, "Collect", "answered")
    return b"+".join(requests)


def chat(requests, context):
    seen(context, "Chat", "answered")
    for request in requests:
        yield request.upper()


def hang(context, method):
    over = threading.Event()
    if not context.add_callback(over.set):
        over.set()
    seen(context, method, "begun")
    over.wait(60)
    say({"method": method, "ended": "cancelled"})


def wait(request, context):
    hang(context, "Wait")
    return b"too late"


def stall(request, context):
    yield b"first"
    hang(context, "Stall")


def server():
    handlers = {
        "Get": grpc.unary_unary_rpc_method_handler(get),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "List": grpc.unary_stream_rpc_method_handler(listing),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "Stall": grpc.unary_stream_rpc_method_handler(stall),
    }
    serving = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    serving.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("crm.v1.Leads", handlers),
            grpc.method_handlers_generic_handler("crm.v1.Accounts", {"Get": handlers["Get"]}),
        )
    )
    checks = health.HealthServicer()
    checks.set("crm.v1.Leads", health_pb2.HealthCheckResponse.SERVING)
    checks.set("crm.v1.Accounts", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, serving)
    port = serving.add_insecure_port("127.0.0.1:0")
    serving.start()
    say({"port": port})
    sys.stdin.read()
    serving.stop(None)


def chatting(channel, call, **options):
    """Sends each message only after the answer to the one before has come."""
    answered = threading.Semaphore(1)

    def messages():
        for text in call["messages"]:
            answered.acquire()
            yield text.encode()

    stream = channel.stream_stream(call["method"])(messages(), **options)
    replies = []
    for reply in stream:
        replies.append(reply)
        answered.release()
    return stream, replies


def one(channel, call):
    options = {"timeout": call.get("timeout"), "metadata": call.get("metadata")}
    messages = [text.encode() for text in call.get("messages", [])]
    kind, method = call["kind"], call["method"]
    if kind == "health":
        request = health_pb2.HealthCheckRequest(service=call["service"])
        reply, done = health_pb2_grpc.HealthStub(channel).Check.with_call(request, **options)
        return done, [health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status).encode()]
    if kind == "unary":
        reply, done = channel.unary_unary(method).with_call(messages[0], **options)
        return done, [reply]
    if kind == "collect":
        reply, done = channel.stream_unary(method).with_call(iter(messages), **options)
        return done, [reply]
    if kind == "chat":
        return chatting(channel, call, **options)
    stream = channel.unary_stream(method)(messages[0], **options)
    replies = []
    try:
        for reply in stream:
            replies.append(reply)
    except grpc.RpcError as error:
        error.replies = replies
        raise
    return stream, replies


def client():
    channels = {}
    for line in sys.stdin:
        call = json.loads(line)
        to = (call["target"], call.get("host", "crm.test"))
        if to not in channels:
            options = [("grpc.enable_retries", 0), ("grpc.default_authority", to[1])]
            channels[to] = grpc.insecure_channel(to[0], options=options)
        try:
            done, replies = one(channels[to], call)
        except grpc.RpcError as error:
            done, replies = error, getattr(error, "replies", [])
        say(
            {
                "code": done.code().name,
                "details": done.details(),
                "replies": [reply.decode() for reply in replies],
                "initial": plain(done.initial_metadata()),
                "trailing": plain(done.trailing_metadata()),
            }
        )


{"server": server, "client": client}[sys.argv[1]]()
