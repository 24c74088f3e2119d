"""A WebSocket server, a WebSocket client and an SSE client of others. Each line of output is JSON.

    web_peer.py echo            serves an echo on a free port of 127.0.0.1, and tells it
    web_peer.py socket URL      sends texts and bytes of several sizes, and tells what came back
    web_peer.py events URL N    reads N events, and tells them
"""
import asyncio
import json
import sys
import urllib.request

import sseclient
import websockets


def tell(**what):
    print(json.dumps(what), flush=True)


async def echo():
    async def serve(connection):
        async for message in connection:
            await connection.send(message)

    async with websockets.serve(serve, "127.0.0.1", 0, max_size=None) as server:
        tell(port=server.sockets[0].getsockname()[1])
        await asyncio.to_thread(sys.stdin.read)


async def socket(url):
    messages = ["", "hello", "\u00fc" * 1000, b"\x00\xff", bytes(3 * 1024 * 1024)]
    async with websockets.connect(url, max_size=None, proxy=None) as connection:
        await (await connection.ping())
        same = []
        for message in messages:
            await connection.send(message)
            same.append(await connection.recv() == message)
        # Pieces of one message, as they are made.
        await connection.send(iter(["in ", "several ", "pieces"]))
        same.append(await connection.recv() == "in several pieces")
    tell(same=same, code=connection.close_code, compressed=bool(connection.protocol.extensions))


def events(url, count):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"Accept": "text/event-stream"})
    with opener.open(request) as response:
        for number, event in enumerate(sseclient.SSEClient(response).events(), 1):
            tell(event=event.event, data=event.data, id=event.id)
            if number == count:
                return


role, *rest = sys.argv[1:]
if role == "echo":
    asyncio.run(echo())
elif role == "socket":
    asyncio.run(socket(rest[0]))
else:
    events(rest[0], int(rest[1]))
