"""The page of the sinks: what they received, and two ways to say something to production."""

from collections.abc import Iterable
from datetime import datetime
from html import escape
from typing import Any

from preview.sinks.payloads import BOT

SHOWN = 100


def render(received: dict[str, Any]) -> str:
    """Return the page as HTML, with everything escaped that came from elsewhere."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>What production says to the world</title>
<link rel="stylesheet" href="/page.css">
<script src="/page.js" defer></script>
<noscript><meta http-equiv="refresh" content="2"></noscript>
</head>
<body>
<h1>What production says to the world</h1>
<p>A Discord, a GitHub and a git remote on this machine take the place of the real ones.
All that they received is here, and <a href="/received">as JSON</a>.</p>
<section class="shares" id="shares" data-live>{_shares(received["shares"])}</section>
<div class="columns">
<section>
<h2>Discord</h2>
<form method="post" action="/say">
<input name="text" aria-label="Text" placeholder="tide table" required maxlength="200">
<button name="how" value="mention">Mention the bot</button>
<button name="how" value="slash">/notes</button>
</form>
<ol id="messages" data-live>{_list(_message(one) for one in received["messages"][:SHOWN])}</ol>
</section>
<section>
<h2>GitHub</h2>
<form method="post" action="/commit">
<select name="repository" aria-label="Repository">{_options(received["repositories"])}</select>
<input name="message" aria-label="Message" placeholder="Mend the quay" required maxlength="200">
<button>Commit</button>
</form>
<ol id="github" data-live>{_list(_github(received))}</ol>
</section>
<section>
<h2>Vault</h2>
<p><code>{escape(received["remote"])}</code></p>
<ol id="vault" data-live>{_list(_push(one) for one in received["pushes"][:SHOWN])}</ol>
</section>
</div>
</body>
</html>
"""


def _shares(shares: dict[str, dict[str, int]]) -> str:
    kinds = ("messages", "requests", "pushes")
    head = "".join(f"<th>{kind}</th>" for kind in ("", *kinds))
    rows = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(_count(counts[kind]) for kind in kinds)}</tr>"
        for name, counts in shares.items()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _count(count: int) -> str:
    return f"<td>{count}</td>" if count else '<td class="nothing">0</td>'


def _message(one: dict[str, Any]) -> str:
    return _item(one["at"], one["by"], one["content"].replace(f"<@{BOT['id']}>", "@monolith"))


def _push(one: dict[str, Any]) -> str:
    return _item(one["at"], one["by"], one["subject"], one["sha"][:12])


def _github(received: dict[str, Any]) -> Iterable[str]:
    """Return commits and the requests for them, the last first."""
    commits = [
        (commit["at"], _item(commit["at"], commit["author"], commit["message"], repository))
        for repository, commits in received["repositories"].items()
        for commit in commits
    ]
    requests = [
        (one["at"], _item(one["at"], one["by"], f"{one['status']}", one["what"]))
        for one in received["requests"]
        if "/github/" in one["what"]
    ]
    found = sorted(commits + requests, key=lambda pair: pair[0], reverse=True)
    return [item for _, item in found[:SHOWN]]


def _item(at: datetime, by: str | None, text: str, code: str = "") -> str:
    more = f" <code>{escape(code)}</code>" if code else ""
    when = f'<time datetime="{at.isoformat()}">{at:%H:%M:%S}</time>'
    return f"<li><small>{when} <b>{escape(by or 'somebody')}</b>{more}</small>{escape(text)}</li>"


def _list(items: Iterable[str]) -> str:
    return "".join(items) or '<li class="none">nothing yet</li>'


def _options(names: Iterable[str]) -> str:
    return "".join(f"<option>{escape(name)}</option>" for name in names)
