"""An app behind the door of a team, in the test's own process."""

import asyncio
import base64
import json
import time

import httpx2

from app.access import Access, Door, Rules
from shared.access_keys import KeySet, read_keys
from shared.settings import Settings
from tests.environment import ACCESS, environment, read

TCP = "postgresql://app:secret@monolith-pg-pr-7-rw:5432/monolith"
HEADER = "Cf-Access-Jwt-Assertion"


class Behind:
    """An app that must be reached only through the door, and whom it was told of."""

    def __init__(self, team, clock=time.monotonic, **variables):
        with environment(PR_ENV="true", DATABASE_URL=TCP, **ACCESS | variables):
            rules = Rules.from_settings(Settings(), read(TCP, PR_ENV="true").target)
        assert rules
        self.team, self.reached, self.fetched = team, [], 0
        self.door = Door(rules, KeySet(self.fetch, clock))
        self.app = Access(self.inner, self.door)

    async def fetch(self):
        """Fetch the keys as the team has them now."""
        self.fetched += 1
        await asyncio.sleep(0)
        if self.team.status != 200:
            raise OSError(self.team.status)
        return read_keys(self.team.key_set())

    async def inner(self, scope, _receive, send):
        """Answer 200 and remember who asked."""
        self.reached.append(scope.get("state", {}).get("identity"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data"})

    async def get(self, *tokens, path="/api/notes", **headers):
        """Ask for a path with these tokens, a header each."""
        sent = [(HEADER, token) for token in tokens] + list(headers.items())
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(base_url="http://preview", transport=transport) as client:
            return await client.get(path, headers=sent)


def encoded(part):
    """Encode a part of a token."""
    return base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode())
