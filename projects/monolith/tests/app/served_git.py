"""A git server on loopback: `git http-backend` behind a password, which looks who comes."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

NAME, PASSWORD = "vault-writer", "p@ss/w:rd%"  # noqa: S105  made up


class ServedGit:
    """
    Serves the bare repositories of a directory.

    Remembers every command line that ran on the machine while it was asked, and
    whose credentials it was shown.
    """

    def __init__(self, root: Path, name: str = NAME, password: str = PASSWORD) -> None:
        self.root = root
        self.right = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
        self.shown: set[str | None] = set()
        self.command_lines: set[str] = set()
        self.url = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["ServedGit"]:
        """Listen on a free port of loopback."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.command_lines |= command_lines()
        shown = request.headers.get("Authorization")
        self.shown.add(shown)
        if shown != self.right:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        out = await self._backend(request, await request.read())
        head, _, body = out.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        return web.Response(status=status, headers=headers, body=body)

    async def _backend(self, request: web.Request, body: bytes) -> bytes:
        variables: dict[str, Any] = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "REMOTE_USER": NAME,
        }
        process = await asyncio.create_subprocess_exec(
            "git", "http-backend", env=variables,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate(body)
        return out


def command_lines() -> set[str]:
    """Return the command line of every process that there is."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return found
