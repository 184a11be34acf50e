"""A Cloudflare Access team: it signs tokens, and serves its keys over HTTPS on loopback."""

import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import trustme
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

from tests.environment import ACCESS

AUD = ACCESS["ACCESS_AUD"]
EMAIL = "ada@example.com"
CLIENT = ACCESS["ACCESS_SERVICE_CLIENTS"]


def new_key() -> RSAPrivateKey:
    """Make a key of the size that Cloudflare uses."""
    return generate_private_key(65537, 2048)


class Team:
    """Holds the keys of a team by name, and counts who asks for them."""

    def __init__(self, issuer: str = ACCESS["ACCESS_TEAM_DOMAIN"]) -> None:
        self.issuer = issuer
        self.keys = {"one": new_key()}
        self.fetched = 0
        self.status = 200

    def key_set(self) -> str:
        """Return the public keys as the team publishes them."""
        return json.dumps(
            {
                "keys": [
                    RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
                    | {"kid": name, "alg": "RS256", "use": "sig"}
                    for name, key in self.keys.items()
                ],
                "public_cert": {"kid": "one", "cert": "not for us"},
            }
        )

    def claims(self, **others: Any) -> dict[str, Any]:
        """Return a person's claims, but for `others`; None leaves one out."""
        now = int(time.time())
        person = {
            "aud": [AUD], "email": EMAIL, "exp": now + 600, "iat": now, "nbf": now,
            "iss": self.issuer, "type": "app", "sub": "7335d417", "country": "GB",
        } | others  # fmt: skip
        return {name: value for name, value in person.items() if value is not None}

    def token(self, kid: str = "one", **others: Any) -> str:
        """Sign a person's token."""
        return jwt.encode(self.claims(**others), self.keys[kid], "RS256", headers={"kid": kid})

    def machine(self, **others: Any) -> str:
        """Sign a service token's token: a plain `aud`, and neither email nor nbf."""
        return self.token(
            **{"aud": AUD, "email": None, "nbf": None, "sub": "", "common_name": CLIENT} | others
        )

    @asynccontextmanager
    async def serve(self, authority: trustme.CA) -> AsyncIterator["Team"]:
        """Serve the keys on a free port of loopback; the issuer is named for it."""

        async def certs(_request: web.Request) -> web.Response:
            self.fetched += 1
            return web.Response(text=self.key_set(), status=self.status)

        app = web.Application()
        app.router.add_get("/cdn-cgi/access/certs", certs)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(tls)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.issuer = f"https://localhost:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()
