"""The job that tells a Discord channel what is new in GitHub's repositories."""

import re
import unicodedata

import asyncpg
import structlog

from app import outbox
from app.github import Commit, Feed, News, NotNowError
from app.jobs.tools import Tools
from shared.errors import PollError

SHOWN = 10
SUBJECT = 100
AUTHOR = 40
LAST_LINE = 30
FIRST_WAIT_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 3600.0

_KNOW = "INSERT INTO changelog.repositories (name) VALUES ($1) ON CONFLICT (name) DO NOTHING"
_DUE = """
SELECT last_seen, etag, failures FROM changelog.repositories
WHERE name = $1 AND (not_before IS NULL OR not_before <= now())
"""
_SAME = """
UPDATE changelog.repositories SET failures = 0, not_before = NULL, last_error = NULL
WHERE name = $1
"""
# A worker that was overtaken finds another `last_seen`, and says nothing.
_SEEN = """
UPDATE changelog.repositories
SET last_seen = $2, etag = $3, failures = 0, not_before = NULL, last_error = NULL
WHERE name = $1 AND last_seen IS NOT DISTINCT FROM $4
RETURNING name
"""
_FAILED = """
UPDATE changelog.repositories SET failures = failures + 1, last_error = $2,
  not_before = now() + make_interval(secs => $3)
WHERE name = $1
"""
_FAILING = """
SELECT name, last_error FROM changelog.repositories
WHERE name = ANY ($1) AND last_error IS NOT NULL ORDER BY name
"""
_MARKDOWN = re.compile(r"([\\*_~`|>#\[\]()<:@-])")

log = structlog.get_logger()


async def poll(tools: Tools) -> None:
    """
    Poll each repository once, and put a digest of what is new into the outbox.

    Raises:
        PollError: some could not be polled, now or since the last time; all others were.
    """
    feed = tools.feed
    if feed is None:  # the table leaves the job out, so this is a bug
        raise AssertionError(tools.lacking)
    for name in feed.repositories:
        await tools.pool.execute(_KNOW, name)
        row = await tools.pool.fetchrow(_DUE, name)
        if row is not None:
            await _poll(tools.pool, feed, name, row)
    failing = await tools.pool.fetch(_FAILING, feed.repositories)
    if failing:
        raise PollError(tuple((row["name"], row["last_error"]) for row in failing))


async def _poll(pool: asyncpg.Pool, feed: Feed, name: str, row: asyncpg.Record) -> None:
    try:
        news = await feed.github.news(name, row["last_seen"], row["etag"])
    except NotNowError as error:
        backed_off = min(FIRST_WAIT_SECONDS * 2.0 ** min(row["failures"], 10), LONGEST_WAIT_SECONDS)
        wait = max(error.wait, backed_off)
        await pool.execute(_FAILED, name, str(error), wait)
        log.warning("repository not polled", repository=name, error=str(error), again_in=wait)
        return
    if news is None:
        await pool.execute(_SAME, name)
    else:
        await _remember(pool, feed, name, row["last_seen"], news)


async def _remember(
    pool: asyncpg.Pool, feed: Feed, name: str, last_seen: str | None, news: News
) -> None:
    """Remember the last commit seen and say what is new, both or neither."""
    async with pool.acquire() as connection, connection.transaction():
        moved = await connection.fetchval(_SEEN, name, news.head, news.etag, last_seen)
        if moved and last_seen is not None and news.commits:
            key = f"digest:{name}:{last_seen}..{news.head}"
            message = outbox.Message(key, feed.channel, digest(name, news))
            await outbox.add(connection, message)


def digest(name: str, news: News) -> str:
    """Say in one message what is new, as plain text whatever authors have written."""
    many = len(news.commits)
    said = f"{many} new commit{'s' * (many != 1)}"
    if not news.whole:
        said = f"the history was rewritten, or more than {many} commits are new"
    text = f"**{_plain(name, len(name))}**: {said}"
    for shown, commit in enumerate(news.commits):
        longer = f"{text}\n{_line(commit)}"
        if shown == SHOWN or outbox.units(longer) > outbox.LONGEST_TEXT - LAST_LINE:
            return f"{text}\n… and {many - shown} more"
        text = longer
    return text


def _line(commit: Commit) -> str:
    author = _plain(commit.author, AUTHOR)
    return f"`{commit.sha[:7]}` {_plain(commit.subject, SUBJECT)}{author and f' ({author})'}"


def _plain(text: str, most: int) -> str:
    """Make text that Discord shows as it is: no Markdown, no mention, no link, no odd character."""
    shown = "".join(char for char in text if unicodedata.category(char)[0] != "C")
    shown = " ".join(shown.split())
    shown = shown if len(shown) <= most else shown[: most - 1] + "…"
    return _MARKDOWN.sub(r"\\\1", shown).replace("@", "@\u200b")
