"""The only module that reads Cloudflare's API; it writes nothing there."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx2
from pydantic import SecretStr

from preview.access_edge import Edge

API = "https://api.cloudflare.com/client/v4"
PAGE = 50

Object = dict[str, Any]


class UnreadableError(Exception):
    """What has to be read cannot be, so nothing follows from it."""


@dataclass(slots=True)
class Api:
    """Lists whole collections of one account and one zone, each once."""

    edge: Edge
    token: SecretStr
    account: str
    zone: str
    _read: dict[str, list[Object]] = field(default_factory=dict)

    async def of_account(self, path: str) -> list[Object]:
        """List what the account has."""
        return await self._all(f"/accounts/{self.account}/{path}")

    async def of_zone(self, path: str) -> list[Object]:
        """List what the zone has."""
        return await self._all(f"/zones/{self.zone}/{path}")

    async def _all(self, path: str) -> list[Object]:
        """
        List all of a collection, page by page; a single object is a list of one.

        Raises:
            UnreadableError: it could not be read, or not to its end.
        """
        if path not in self._read:
            self._read[path] = await self._pages(path)
        return self._read[path]

    async def _pages(self, path: str) -> list[Object]:
        found: list[Object] = []
        while True:
            said = await self._get(path, page=len(found) // PAGE + 1)
            result, pages = said["result"], said.get("result_info")
            if not isinstance(result, list):
                return [result]
            found += result
            if pages is None or len(found) == pages["total_count"]:
                return found
            if len(result) != PAGE or len(found) > pages["total_count"]:
                message = f"{path}: {len(found)} of {pages['total_count']} were listed"
                raise UnreadableError(message)

    async def _get(self, path: str, page: int) -> Object:
        unreadable = partial("{}: {}".format, path)
        try:
            async with self.edge.client() as client:
                answer = await client.get(
                    f"{API}{path}",
                    params={"page": page, "per_page": PAGE},
                    headers={"Authorization": f"Bearer {self.token.get_secret_value()}"},
                )
            said: Object = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise UnreadableError(unreadable(type(error).__name__)) from error
        if answer.status_code != httpx2.codes.OK or not said.get("success"):
            raise UnreadableError(unreadable(f"the API says {answer.status_code}"))
        return said
