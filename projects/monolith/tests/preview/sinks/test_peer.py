import asyncio
import socket
import sys
from contextlib import ExitStack

from aiohttp import web

from preview.sinks.peer import process_of
from preview.sinks.serving import listening

ASK = """
import socket, sys
port, server = map(int, sys.argv[1:])
with socket.socket() as asking:
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    asking.bind(("127.0.0.1", port))
    asking.connect(("127.0.0.1", server))
    asking.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    while asking.recv(4096):
        pass
"""
OTHERS = 20


async def test_port_of_several_connections():
    """
    A request is its own process's, also where connections from the same port lead elsewhere.
    """
    asked = []

    async def answer(request):
        asked.append(process_of(request))
        return web.Response()

    app = web.Application()
    app.router.add_get("/", answer)
    async with listening(app) as where:
        with ExitStack() as others:
            port = 0
            for _ in range(OTHERS):
                leads_to = others.enter_context(socket.create_server(("127.0.0.1", 0)))
                other = others.enter_context(socket.socket())
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(("127.0.0.1", port))
                other.connect(leads_to.getsockname())
                port = other.getsockname()[1]
            arguments = [sys.executable, "-c", ASK, str(port), where.split(":")[1]]
            process = await asyncio.create_subprocess_exec(*arguments)
            assert await process.wait() == 0

    assert asked == [process.pid]
