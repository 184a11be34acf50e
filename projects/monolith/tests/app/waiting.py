"""Waiting for something to become true."""

import asyncio


async def until(true):
    """Return once it is true; the test's own timeout ends it otherwise."""
    while not true():  # noqa: ASYNC110  the other side has no event
        await asyncio.sleep(0.02)
