"""What GitHub knows of each open pull request, read as far as the rules ask."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from preview.github import LABEL, OURS, GitHub, Object
from preview.rules import Pull, Word, bar

PATHS = ("projects/monolith/", "Dockerfile", "pyproject.toml", "requirements/app.lock")
"""What a preview is made of."""
IMAGE_JOB = "image"
"""The job of .github/workflows/image.yaml; its success is the image of that commit."""

_MOST_FILES = 3000
"""GitHub lists no more; a change so large counts as one of the monolith."""
_ASKS = {"reopened", "ready_for_review"}


def open_pulls(github: GitHub) -> list[Pull]:
    """Read every open pull request, the lowest number first."""
    return [_read(github, listed) for listed in github.open_pulls()]


def is_home(listed: Object) -> bool:
    """Tell whether its branch is in this repository; that of a fork may be gone."""
    head, base = listed["head"]["repo"] or {}, listed["base"]["repo"]
    return bool(head.get("full_name") == base["full_name"])


def _read(github: GitHub, listed: Object) -> Pull:
    """Read one. Strangers make forks, so nothing is asked about one that has no label."""
    number, labels = listed["number"], frozenset(label["name"] for label in listed["labels"])
    asks = is_home(listed) or LABEL in labels
    events = list(github.pages(f"issues/{number}/events")) if asks else []
    asked = [event["created_at"] for event in events if event["event"] in _ASKS]
    pull = Pull(
        number=number,
        head_sha=listed["head"]["sha"],
        home=is_home(listed),
        base=listed["base"]["ref"],
        draft=listed["draft"],
        person=(listed["user"] or {}).get("type") == "User",
        labels=labels,
        asked_at=max(map(_time, [listed["created_at"], *asked])),
        words=tuple(_word(event) for event in events if _is_word(event)),
    )
    if bar(pull) is None and not pull.wish:
        pull = replace(pull, touches=_touches(github, number))
    return pull if bar(pull) else _with_image(github, pull)


def _is_word(event: Object) -> bool:
    return event["event"] in {"labeled", "unlabeled"} and event["label"]["name"] == LABEL


def _word(event: Object) -> Word:
    actor = (event["actor"] or {}).get("login")  # null where the account is gone
    return Word(event["event"] == "labeled", actor == OURS, _time(event["created_at"]))


def _touches(github: GitHub, number: int) -> bool:
    for place, file in enumerate(github.pages(f"pulls/{number}/files"), 1):
        names = (file["filename"], file.get("previous_filename") or "")
        if place == _MOST_FILES or any(name.startswith(PATHS) for name in names):
            return True
    return False


def _with_image(github: GitHub, pull: Pull) -> Pull:
    path = f"commits/{pull.head_sha}/check-runs"
    runs = [
        run
        for run in github.pages(path, "check_runs", check_name=IMAGE_JOB, filter="all")
        if (run["app"] or {}).get("slug") == "github-actions"
    ]
    at = [run[when] for run in runs for when in ("started_at", "completed_at") if run[when]]
    return replace(
        pull,
        image=any(run["conclusion"] == "success" for run in runs),
        built_at=max(map(_time, at), default=None),
    )


def _time(stamp: Any) -> datetime:
    return datetime.fromisoformat(stamp)
