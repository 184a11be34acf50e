"""A preview behind Cloudflare Access, on loopback: Access, the gateway and the app in one."""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
from aiohttp import web

from shared.audit import audit_record
from shared.database import Database
from shared.guard import StartupPoint
from shared.settings import Settings
from tests.environment import environment

CLIENT = {"CF_ACCESS_CLIENT_ID": "0123.access", "CF_ACCESS_CLIENT_SECRET": "s3cr3t"}
NUMBER = 7
CLONE = f"postgresql://app:x@monolith-pg-pr-{NUMBER}-rw:5432/monolith"


def attestation(head_sha: str | None) -> dict[str, Any]:
    """Say what the app of preview 7 says of itself, by the app's own code."""
    variables = {"HEAD_SHA": head_sha} if head_sha else {}
    with environment(PR_ENV="true", DATABASE_URL=CLONE, **variables):
        settings = Settings()
    for point in StartupPoint:
        settings.guard.decide(point)
    neutralized = {"at": "2026-11-24T13:00:21.123456+00:00", "counts": {"jobs_parked": 4}}
    return audit_record(settings, Database.from_settings(settings)) | {"neutralized": neutralized}


class FakePreview:
    """
    Answers as `answers` says: a status and a body, for those with the service token.

    If it drips, the body comes letter by letter and never ends.

    The number of the pull request is the last part of the address, as in `127.0.0.*`.
    """

    def __init__(self) -> None:
        self.answers: tuple[int, Any] = (404, "")
        self.headers: dict[str, str] = {}
        self.drips = False
        self.asked: list[str] = []
        self.wildcard = ""

    @contextmanager
    def running(self, directory: Path) -> Iterator["FakePreview"]:
        """Listen with TLS, in a thread; its authority's certificate is put into `directory`."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(directory / "ca.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(f"127.0.0.{NUMBER}").configure_cert(tls)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        runner = asyncio.run_coroutine_threadsafe(self._listen(tls), loop).result()
        self.wildcard = f"127.0.0.*:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _listen(self, tls: ssl.SSLContext) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, f"127.0.0.{NUMBER}", 0, ssl_context=tls).start()
        return runner

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while request.transport:
            await response.write(b"[")
            await asyncio.sleep(0.01)
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        given = {
            "CF_ACCESS_CLIENT_ID": request.headers.get("CF-Access-Client-Id"),
            "CF_ACCESS_CLIENT_SECRET": request.headers.get("CF-Access-Client-Secret"),
        }
        if given != CLIENT:
            login = "https://team.cloudflareaccess.com/cdn-cgi/access/login/127.0.0.7"
            return web.Response(status=302, headers={"Location": login})
        if self.drips:
            return await self._drip(request)
        status, body = self.answers
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers=self.headers)
