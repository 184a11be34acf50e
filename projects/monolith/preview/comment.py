"""The one comment that a pull request has about its preview."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from preview.github import LABEL, OURS, GitHub
from preview.readiness import Sight, State
from preview.rules import BASE, KEEP, Decision, Pull, Reason

MARKER = "<!-- monolith preview -->"
LATE = timedelta(minutes=20)
"""After so long without an answer something is wrong, and the comment says where to look."""

_COMES = f"Add the label `{LABEL}` to have one."
_OURS = {
    Reason.UNPROVEN: "It gets one once Cloudflare Access is proven to be in front of previews.",
    Reason.NO_IMAGE: "It waits for the image of its newest commit, which the workflow `image` "
    "builds. Conflicts with the base keep that workflow from running.",
    Reason.EXPOSED: "Taken away: Cloudflare Access is not in front of previews. "
    "It comes back once that is proven again.",
    Reason.FORK: "None: the branch is in another repository, and only this repository's "
    "branches may see a clone of production's data.",
    Reason.BASE: f"None: it is not for `{BASE}`.",
    Reason.OPTED_OUT: f"None: a person took the label `{LABEL}` off, so it stays off. {_COMES}",
    Reason.DRAFT: f"None while it is a draft. {_COMES}",
    Reason.BOT: f"None: a bot opened it. {_COMES}",
    Reason.ELSEWHERE: f"None: it changes nothing of the monolith. {_COMES}",
}


def is_due(decision: Decision) -> bool:
    """Tell whether a comment is to be made where there is none: somebody is affected."""
    return bool(decision.pull.words) or decision.reason in {
        Reason.HOLDS, Reason.TAKES, Reason.QUEUED, Reason.NO_IMAGE, Reason.UNPROVEN,
    }  # fmt: skip


def may_exist(decision: Decision) -> bool:
    """Tell whether it is worth looking for a comment; most bots' and forks' never had one."""
    return is_due(decision) or decision.reason not in {Reason.FORK, Reason.BOT}


def about(decision: Decision, idle: timedelta) -> str:
    """Say why a pull request has no preview, or that it waits for one, and behind whom."""
    if decision.reason is Reason.QUEUED:
        ahead = ", ".join(f"#{number}" for number in decision.behind)
        return _framed(f"Queued: all places are taken. Before it: {ahead}.")
    if decision.reason is Reason.IDLE:
        return _framed(
            f"Taken away: nothing was pushed for {idle.days} days. It comes back with the next "
            f"push whose image is built, or when a person adds the label `{LABEL}`; "
            f"with the label `{KEEP}` it stays."
        )
    return _framed(_OURS[decision.reason])


def shown(pull: Pull, sight: Sight, host: str, now: datetime, idle: timedelta) -> str:
    """Say where a preview is, in which state, with whose data, and how to end it."""
    data = "production's, a clone of its own"
    if sight.cloned_at:
        data += f", made harmless at {sight.cloned_at}"
    rows = {
        "where": f"https://{host}",
        "state": _state(pull, sight, now),
        "whose data": data,
        "muted": ", ".join(sight.muted) or "known once it answers",
        "audit": f"`{sight.digest}`" if sight.digest else "known once it answers",
    }
    if sight.running:
        rows["**not muted**"] = ", ".join(sight.running)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return _framed(
        f"| | |\n| --- | --- |\n{table}\n\n"
        "People sign in at Cloudflare Access. A program calls it with a service token:\n\n"
        f"```sh\n{_curl(host)}\n```\n\n"
        f"Take the label `{LABEL}` off to end it; it then stays off. It ends by itself when it is "
        f"closed, or after {idle.days} days without a push unless it has the label `{KEEP}`."
    )


def closed() -> str:
    """Say what becomes of the preview of a closed pull request."""
    return _framed("Closed, so the preview is torn down and its clone is deleted with it.")


def shut(reason: str) -> str:
    """Say that the kill switch took a preview away."""
    return _framed(f"Taken away: {reason}. It comes back once Access is proven again.")


def say(github: GitHub, number: int, body: str, *, create: bool = True) -> None:
    """
    Let the one comment say this; nothing is written where it does already.

    Ours is what has the marker and our authorship: anybody may copy the marker. Where two
    writers made one each, the first stays.
    """
    found = [
        comment
        for comment in github.pages(f"issues/{number}/comments")
        if (comment["user"] or {}).get("login") == OURS and comment["body"].startswith(MARKER)
    ]
    for extra in found[1:]:
        github.delete(f"issues/comments/{extra['id']}")
    if found and found[0]["body"].replace("\r\n", "\n") != body:
        github.patch(f"issues/comments/{found[0]['id']}", {"body": body})
    if not found and create:
        github.post(f"issues/{number}/comments", {"body": body})


def _state(pull: Pull, sight: Sight, now: datetime) -> str:
    short = pull.head_sha[:7]
    if sight.state is State.READY:
        return f"ready: `{short}` answers"
    said = f"{sight.state}, {sight.why}" if sight.why else str(sight.state)
    if sight.state is State.ROLLING:
        answers = f"`{sight.head_sha[:7]}`" if sight.head_sha else "one that does not say which"
        said = f"{sight.state}: {answers} answers, `{short}` comes"
    if sight.state is not State.UNKNOWN and now - _since(pull, now) > LATE:
        said += (
            f". It takes too long; `kubectl -n monolith describe pod -l "
            f"monolith.jomcgi.dev/pr={pull.number}` says why, or Argo CD's application "
            f"`monolith-pr-{pull.number}`"
        )
    return said


def _since(pull: Pull, now: datetime) -> datetime:
    times: Iterable[datetime] = [word.at for word in pull.words if word.on]
    return max([*times, *([pull.built_at] if pull.built_at else [])], default=now)


def _curl(host: str) -> str:
    names = {"Id": "CF_ACCESS_CLIENT_ID", "Secret": "CF_ACCESS_CLIENT_SECRET"}
    headers = [f'-H "CF-Access-Client-{name}: ${variable}"' for name, variable in names.items()]
    return " ".join(["curl", *headers, f"https://{host}/api/preview"])


def _framed(text: str) -> str:
    return f"{MARKER}\n### Preview\n\n{text}\n"
