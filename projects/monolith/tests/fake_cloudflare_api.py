"""The part of Cloudflare's API that says what an account and a zone were told."""

from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from tests.team import AUD, CLIENT

TOKEN, ACCOUNT, ZONE = "api-token", "1" * 32, "2" * 32  # noqa: S105
LARGEST_PAGE = 50


def days_from_now(days: int) -> str:
    """Write a time as the API does."""
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeCloudflareApi:
    """Holds one well configured application; a test changes what it likes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.missing = 0
        uris = ["*.pr.example.com", "*.*.pr.example.com", "pr.example.com"]
        self.app: dict[str, Any] = {
            "id": "app", "name": "PR previews", "type": "self_hosted", "aud": AUD,
            "domain": "*.pr.example.com", "options_preflight_bypass": False,
            "destinations": [{"type": "public", "uri": uri} for uri in uris],
        }  # fmt: skip
        self.people = {
            "id": "p1", "decision": "allow", "include": [{"group": {"id": "trusted"}}],
        }  # fmt: skip
        machines = {"service_token": {"token_id": "t1"}}
        self.machines = {"id": "p2", "decision": "non_identity", "include": [machines]}
        emails = [{"email": {"email": email}} for email in ("Ada@example.com", "grace@example.com")]
        self.group: dict[str, Any] = {"id": "trusted", "include": emails}
        self.service_token: dict[str, Any] = {
            "id": "t1", "client_id": CLIENT, "expires_at": days_from_now(60)
        }  # fmt: skip
        self.pack: dict[str, Any] = {
            "hosts": ["pr.example.com", "*.pr.example.com"], "status": "active",
            "certificates": [{"expires_on": days_from_now(60)}],
        }  # fmt: skip
        self.record: dict[str, Any] = {
            "type": "CNAME", "name": "*.pr.example.com", "proxied": True,
            "content": "0b1c.cfargotunnel.com",
        }  # fmt: skip
        self.organization: dict[str, Any] = {
            "auth_domain": "team.cloudflareaccess.com", "strict_service_token_auth": True
        }  # fmt: skip
        elsewhere = [
            {"id": f"a{n}", "name": f"App {n}", "domain": f"a{n}.example.com", "aud": "c" * 64}
            for n in range(120)
        ]
        account, zone = f"/client/v4/accounts/{ACCOUNT}", f"/client/v4/zones/{ZONE}"
        self.collections: dict[str, Any] = {
            f"{account}/access/apps": [*elsewhere, self.app],
            f"{account}/access/apps/app/policies": [self.people, self.machines],
            f"{account}/access/groups": [self.group],
            f"{account}/access/service_tokens": [self.service_token],
            f"{account}/access/organizations": self.organization,
            f"{zone}/ssl/certificate_packs": [self.pack],
            f"{zone}/dns_records": [
                {"type": "A", "name": "example.com", "proxied": True, "content": "192.0.2.1"},
                {"type": "TXT", "name": "_dmarc.pr.example.com", "proxied": False, "content": "v"},
                self.record,
            ],
        }

    def of(self, last: str) -> Any:
        """Return the collection whose path ends so."""
        return next(found for path, found in self.collections.items() if path.endswith(last))

    def answer(self, request: web.Request) -> web.Response:
        """Answer a read; nothing else is ever right."""
        self.asked.append(f"{request.method} {request.path}")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}" or self.status != 200:
            status = 403 if self.status == 200 else self.status
            return web.json_response({"success": False, "errors": []}, status=status)
        found = self.collections.get(request.path)
        if found is None or request.method != "GET":
            return web.json_response({"success": False, "errors": []}, status=404)
        if isinstance(found, dict):
            return web.json_response({"success": True, "result": found})
        page = int(request.query.get("page", "1"))
        size = min(int(request.query.get("per_page", "20")), LARGEST_PAGE)
        part = found[(page - 1) * size : page * size]
        info = {"page": page, "per_page": size, "count": len(part), "total_count": len(found)}
        info["total_count"] += self.missing
        return web.json_response({"success": True, "result": part, "result_info": info})
