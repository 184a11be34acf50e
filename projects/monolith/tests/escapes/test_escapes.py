import pytest

from tests.escapes.nursery import CONTROL, PREVIEW, UNSEALED, attempts
from tests.escapes.registry import Act, Layer, Serve, Start

ATTEMPTS = attempts().values()
ACTS = [one for one in ATTEMPTS if isinstance(one, Act)]
STARTS = [one for one in ATTEMPTS if isinstance(one, Start)]
SERVES = [one for one in ATTEMPTS if isinstance(one, Serve)]
REFUSED_BY = {
    "SettingsError": Layer.SETTINGS,
    "TargetError": Layer.DSN,
    "WrongDatabaseError": Layer.IDENTITY,
}


def named(some):
    """Name a test for the attempt that it makes."""
    return pytest.mark.parametrize("attempt", some, ids=lambda one: one.name)


@named(STARTS)
async def test_start(world, attempt):
    """
    An environment that leads an app without a guard to production does not start a preview: it is
    refused by the layer that the table names, and nobody outside has heard of it.
    """
    control, naive = await world.tries(attempt, CONTROL)
    hits, said = await world.tries(attempt, PREVIEW)

    assert control, naive
    assert hits == 0, said
    if attempt.legal:
        assert said["errors"][0] == "UnidentifiedDatabaseError", said
    else:
        assert REFUSED_BY.get(said["errors"][0]) == attempt.layer, said


@named(ACTS)
async def test_act(world, attempt):
    """
    What code tries in a preview gets out in production, and in a preview is stopped by the layer
    that the table names, or by none; the attestation lists the blind spot that it used.
    """
    control, said = await world.tries(attempt, CONTROL)
    if not control and attempt.name == "cffi-multipath":
        pytest.skip(f"this machine has no Multipath TCP: {said['said']}")
    assert control, said
    hits, said = await world.tries(attempt, PREVIEW)
    sealed = (said["attestation"]["seal"]["landlock"] or 0) >= attempt.landlock

    if attempt.layer is Layer.NOTHING or (attempt.layer is Layer.SEAL and not sealed):
        got_out(attempt, hits, said)
        return
    assert hits == 0, said
    assert bool(said["refused"]) is (attempt.layer is Layer.TRIPWIRE), said


@named([one for one in ACTS if one.layer is Layer.SEAL])
async def test_unsealed(world, attempt):
    """
    What the table says the seal holds gets out where nothing is sealed, and the attestation says
    that nothing is.
    """
    hits, said = await world.tries(attempt, UNSEALED)

    assert said["attestation"]["seal"]["landlock"] is None
    got_out(attempt, hits, said)


@named([one for one in ACTS if one.layer is Layer.TRIPWIRE])
async def test_tripwire_alone(world, attempt):
    """
    What the table says the tripwire stops, it stops and counts without a seal behind it.
    """
    hits, said = await world.tries(attempt, UNSEALED)

    assert said["attestation"]["seal"]["landlock"] is None
    assert (hits, bool(said["refused"])) == (0, True), said


@named(SERVES)
async def test_serve(world, attempt):
    """
    A command that would serve a preview past `monolith serve` answers nobody; production's does.
    """
    control, wrote = await world.serves(attempt.control or attempt.arguments, preview=False)
    served, refusal = await world.serves(attempt.arguments, preview=True)

    assert control, wrote
    assert not served, refusal
    assert attempt.says in refusal


def got_out(attempt, hits, said):
    """Assert that an attempt got out unseen, by a way that the attestation lists."""
    blind_spot = attempt.blind_spot or "TCP from C code"

    assert hits, said
    assert not said["refused"]
    assert any(spot.startswith(blind_spot) for spot in said["attestation"]["blind_spots"]), said
