import asyncio
import json
from itertools import pairwise

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from shared import access_keys
from shared.access_keys import NoKeysError, UnknownKeyError, read_keys
from tests.app.behind import HEADER, Behind, encoded
from tests.team import EMAIL, Team, new_key


class Clock:
    """A clock that a test winds on, in seconds."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def team():
    """A team of the test's own."""
    return Team()


@pytest.fixture(scope="module")
def shared_team():
    """A team whose keys no test changes."""
    return Team()


@pytest.fixture
def clock():
    """A clock that stands still until it is wound on."""
    return Clock()


@pytest.fixture
def behind(team, clock):
    """An app behind that team's door."""
    return Behind(team, clock)


async def test_down_at_start(behind, team, clock):
    """
    While the keys were never fetched every token is a 503, and it is tried once a cool-down.
    """
    team.status = 503
    answers = [await behind.get(team.token()) for _ in range(50)]

    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].headers["Retry-After"] == "30"
    assert (behind.reached, behind.fetched) == ([], 1)

    team.status = 200
    clock.now += access_keys.COOL_DOWN_SECONDS

    assert (await behind.get(team.token())).status_code == 200


async def test_down_later(behind, team, clock):
    """
    Keys that were fetched once serve for a day while they cannot be fetched, and no longer.
    """
    await behind.get(team.token())
    team.status = 503
    found = {}
    for hour in (1, 12, 24, 25):
        clock.now = hour * 3600
        found[hour] = (await behind.get(team.token())).status_code

    assert found == {1: 200, 12: 200, 24: 200, 25: 503}


async def test_unknown_keys(behind, team):
    """
    Ten thousand tokens with keys that the team does not have cost one fetch and are 401s.
    """
    stranger = Team()
    stranger.keys = {f"k{n}": stranger.keys["one"] for n in range(10_000)}
    token = stranger.token("k0")
    head, rest = token.split(".", 1)
    await behind.get(team.token())
    for name in stranger.keys:
        forged = encoded({"alg": "RS256", "kid": name}).decode().rstrip("=") + "." + rest
        with pytest.raises(Exception, match="does not have"):
            await behind.door.admit({"headers": [(HEADER.lower().encode(), forged.encode())]})

    assert head
    assert (behind.fetched, behind.reached) == (1, [EMAIL])
    assert (await behind.get(team.token())).status_code == 200


@given(
    steps=st.lists(
        st.tuples(
            st.floats(0, 2 * access_keys.COOL_DOWN_SECONDS),
            st.sampled_from([["one"], ["x"], ["y"] * 20, ["one", "x", "y"]]),
            st.sampled_from([200, 503]),
        ),
        max_size=30,
    )
)
async def test_one_fetch_a_cool_down(shared_team, steps):
    """
    Whichever keys are asked for, and whatever comes of it, two fetches are a cool-down apart.
    """
    clock, fetches = Clock(), []
    keys = Behind(shared_team, clock).door.keys
    document = shared_team.key_set()
    status = 200

    async def fetch():
        fetches.append(clock.now)
        if status != 200:
            raise OSError(status)
        return read_keys(document)

    keys.fetch = fetch
    for pause, names, status in steps:  # noqa: B007  `fetch` reads it
        clock.now += pause
        asked = await asyncio.gather(*map(keys.key, names), return_exceptions=True)
        for name, answer in zip(names, asked, strict=True):
            assert isinstance(answer, jwt.PyJWK | NoKeysError | UnknownKeyError)
            assert name == "one" or not isinstance(answer, jwt.PyJWK)

    apart = [later - earlier for earlier, later in pairwise(fetches)]
    assert all(gap >= access_keys.COOL_DOWN_SECONDS for gap in apart)
    assert bool(fetches) == bool(steps)


async def test_rotation(behind, team, clock):
    """
    A new key is fetched when a token names it, and a key that was withdrawn stops serving.
    """
    old = team.token()
    await behind.get(old)
    team.keys["two"] = new_key()
    early = await behind.get(team.token("two"))
    clock.now += access_keys.COOL_DOWN_SECONDS
    later = await behind.get(team.token("two"))
    del team.keys["one"]
    clock.now += access_keys.FRESH_SECONDS + 1

    assert (early.status_code, later.status_code) == (401, 200)
    assert (await behind.get(team.token("two"))).status_code == 200
    assert (await behind.get(old)).status_code == 401
    assert behind.fetched == 3


async def test_single_flight(behind, team):
    """
    However many ask at once, one fetch runs, and all get its keys.
    """
    answers = await asyncio.gather(*[behind.get(team.token()) for _ in range(50)])

    assert {answer.status_code for answer in answers} == {200}
    assert behind.fetched == 1


async def test_known_key_waits_for_nobody(behind, team, clock):
    """
    While keys are fetched anew, those who bring a known key go through.
    """
    await behind.get(team.token())
    fetching, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        fetching.set()
        await go_on.wait()
        return read_keys(team.key_set())

    behind.door.keys.fetch = slow
    clock.now += access_keys.FRESH_SECONDS + 1
    first = asyncio.ensure_future(behind.get(team.token()))
    await fetching.wait()
    second = await behind.get(team.token())
    waited = not first.done()
    go_on.set()

    assert (second.status_code, waited, (await first).status_code) == (200, True, 200)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"keys": []}',
        '{"keys": {}}',
        '{"keys": [{"kty": "oct", "k": "eA"}]}',
    ],
)
async def test_bad_key_set(team, document):
    """
    A key set without a usable key is no key set, and does not replace the one before.
    """
    with pytest.raises(ValueError, match=r".*"):
        read_keys(document)

    assert list(read_keys(team.key_set())) == ["one"]


async def test_weak_or_foreign_keys(team):
    """
    Keys that are too short, for encryption, without a name or not RSA are left out.
    """
    good = json.loads(team.key_set())["keys"][0]
    team.keys = {"short": generate_private_key(65537, 1024)}
    keys = [
        json.loads(team.key_set())["keys"][0],
        good | {"kid": "enc", "use": "enc"},
        good | {"kid": None},
        good | {"kid": "512", "alg": "RS512"},
        {"kid": "oct", "kty": "oct", "k": "eA"},
        good,
    ]

    assert list(read_keys(json.dumps({"keys": keys}))) == ["one"]


async def test_what_is_said(clock):
    """
    Whether a key does not exist, or cannot be known to exist, is told apart.
    """
    team = Team()
    keys = Behind(team, clock).door.keys
    await keys.key("one")
    with pytest.raises(UnknownKeyError):
        await keys.key("two")

    async def fail():
        raise OSError

    clock.now += access_keys.COOL_DOWN_SECONDS
    keys.fetch = fail
    with pytest.raises(NoKeysError):
        await keys.key("two")
