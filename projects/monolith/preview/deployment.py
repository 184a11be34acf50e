"""The GitHub deployment of each preview, so that GitHub shows its button; gone with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from preview.github import GitHub, Object
from preview.readiness import Sight, State

ENVIRONMENT = "preview"
_TASK = "preview-pr-"
_STATES = {State.READY: "success", State.STRANGER: "failure", State.UNKNOWN: "queued"}


@dataclass(frozen=True, slots=True)
class Shown:
    """One preview that exists: which commit, where, and what was seen of it."""

    head_sha: str
    host: str
    sight: Sight


def follow(
    github: GitHub,
    previews: Mapping[int, Shown],
    attempt: Callable[[Callable[[], object]], None],
) -> None:
    """
    Let the deployments be those of the previews that exist: one a pull request, of its head.

    Every other one is told to be inactive and is deleted, also one whose pull request was
    closed while nobody looked. `attempt` does each act, and may go on past what GitHub refuses.
    """
    wanted = {f"{_TASK}{number}": shown for number, shown in previews.items()}
    for made in list(github.pages("deployments", environment=ENVIRONMENT)):
        if not made["task"].startswith(_TASK):
            continue
        shown = wanted.get(made["task"])
        if shown is None or made["sha"] != shown.head_sha:
            attempt(partial(_retire, github, made))
        else:
            del wanted[made["task"]]
            attempt(partial(_tell, github, made, shown))
    for task, shown in wanted.items():
        attempt(partial(_begin, github, task, shown))


def _begin(github: GitHub, task: str, shown: Shown) -> None:
    _tell(github, _make(github, task, shown), shown)


def _make(github: GitHub, task: str, shown: Shown) -> Object:
    made: Object = github.post(
        "deployments",
        {
            "ref": shown.head_sha,
            "task": task,
            "environment": ENVIRONMENT,
            "transient_environment": True,
            "production_environment": False,
            "auto_merge": False,
            "required_contexts": [],
        },
    )
    return made


def _tell(github: GitHub, made: Object, shown: Shown) -> None:
    """Write the state where it is not the last one written."""
    path = f"deployments/{made['id']}/statuses"
    status = {
        "state": _STATES.get(shown.sight.state, "in_progress"),
        "environment_url": f"https://{shown.host}",
        "description": str(shown.sight.why or shown.sight.state)[:140],
    }
    last: Object = next(github.pages(path), {})
    if any(last.get(name) != value for name, value in status.items()):
        github.post(path, {**status, "auto_inactive": False})


def _retire(github: GitHub, made: Object) -> None:
    path = f"deployments/{made['id']}"
    github.post(f"{path}/statuses", {"state": "inactive"})
    github.delete(path)
