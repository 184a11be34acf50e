import dataclasses

import pytest

from shared.errors import MutedError
from shared.guard import Decision, Guard, StartupPoint


@pytest.mark.parametrize("point", StartupPoint)
@pytest.mark.parametrize("preview", [True, False], ids=["preview", "production"])
def test_decision(point, preview):
    """
    A preview mutes every startup point, for the reason PR_ENV; production runs every one.
    """
    decision = Guard(preview=preview).decide(point)

    reason = "PR_ENV" if preview else "production"
    assert decision == Decision(point, runs=not preview, reason=reason)


@pytest.mark.parametrize("point", StartupPoint)
def test_on_demand_act(point):
    """
    An act on demand is refused, and counted, exactly where its startup point is muted.
    """
    preview, production = Guard(preview=True), Guard(preview=False)
    production.require(point)
    for _ in range(2):
        with pytest.raises(MutedError) as caught:
            preview.require(point)

    assert (caught.value.point, caught.value.reason) == (point, "PR_ENV")
    assert preview.refusals == {other: 2 * (other is point) for other in StartupPoint}
    assert not any(production.refusals.values())


def test_decisions_are_remembered():
    """
    What was decided is written down once, in the order in which it was asked.
    """
    guard = Guard(preview=True)
    assert guard.decisions == ()
    asked = [guard.decide(p) for p in (StartupPoint.DISCORD, StartupPoint.SCHEDULER)]

    assert guard.decide(StartupPoint.DISCORD) is asked[0]
    assert guard.decisions == tuple(asked)


def test_point_that_lacks_a_setting():
    """
    Production does not run a point that lacks its setting, and says which; a preview says PR_ENV.
    """
    lacking = {StartupPoint.DISCORD: "DISCORD_BOT_TOKEN"}
    production, preview = (Guard(preview=p, lacking=lacking) for p in (False, True))

    assert production.decide(StartupPoint.DISCORD) == Decision(
        StartupPoint.DISCORD, runs=False, reason="no DISCORD_BOT_TOKEN"
    )
    with pytest.raises(MutedError, match="no DISCORD_BOT_TOKEN"):
        production.require(StartupPoint.DISCORD)
    assert production.decide(StartupPoint.SCHEDULER).runs
    assert preview.decide(StartupPoint.DISCORD).reason == "PR_ENV"


def test_no_way_to_unmute():
    """
    A guard and its decisions have no setter.
    """
    guard = Guard(preview=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        guard.preview = False  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        guard.decide(StartupPoint.DISCORD).runs = True  # type: ignore[misc]

    assert not guard.decide(StartupPoint.DISCORD).runs
