"""The only module that gives and takes the label `preview`."""

from preview.errors import GitHubError
from preview.github import LABEL, GitHub, Object

_PASSES = 3


def shut(github: GitHub, reason: str) -> list[int]:
    """
    Take the label `preview` off every open pull request; return their numbers.

    Goes on past one that GitHub refuses, and looks again, because a writer may have been at work.

    Raises:
        GitHubError: a pull request still has the label, or GitHub did not say.
    """
    taken: set[int] = set()
    for last in (*[False] * (_PASSES - 1), True):
        labelled = [pull["number"] for pull in github.open_pulls() if LABEL in label_names(pull)]
        if not labelled:
            break
        refusals = [_shut_one(github, number, reason, taken) for number in labelled]
        if last and (refused := [refusal for refusal in refusals if refusal]):
            raise refused[0]
    return sorted(taken)


def label_names(pull: Object) -> set[str]:
    """Name the labels of a pull request as GitHub lists it."""
    return {label["name"] for label in pull["labels"]}


def _shut_one(github: GitHub, number: int, reason: str, taken: set[int]) -> GitHubError | None:
    try:
        github.remove_label(number)
    except GitHubError as error:
        return error
    taken.add(number)
    github.console.say(f"PR {number}: took the label {LABEL!r} off, {reason}", number=number)
    return None
