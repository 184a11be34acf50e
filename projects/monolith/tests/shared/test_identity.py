import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.dsn import parse
from shared.errors import WrongDatabaseError
from shared.identity import Expected, Fact, Verdict, clone_name, identify
from tests.strategies import NUMBERS, hosts


def target(host):
    return parse(
        f"postgresql://a:b@/d?host={host}" if "/" in host else f"postgresql://a:b@{host}/d"
    )


OF_CLONE_7 = [
    *("monolith-pg-pr-7-rw", "monolith-pg-pr-7-rw.monolith", "monolith-pg-pr-7-rw.monolith.svc"),
    *("monolith-pg-pr-7-rw.monolith.svc.cluster.local", "MONOLITH-PG-PR-7-RW"),
    "/run/monolith-pg-pr-7",
]
OF_NOBODY = [
    *("monolith-pg-pr-7-ro", "monolith-pg-pr-7-r", "monolith-pg-pr-7", "monolith-pg-pr-07-rw"),
    *("monolith-pg-pr--rw", "monolith-pg-pr-7-rw.evil.com", "monolith-pg-pr-7-rw.a.svc.evil.com"),
    *("monolith-pg-pr-7-rw.svc.cluster.local.evil", "x.monolith-pg-pr-7-rw"),
    *("monolith-pg-pr-7.monolith-pg-rw", "/monolith-pg-pr-7/sockets", "/run/monolith-pg-pr-7-rw"),
]
OF_PRODUCTION = [
    *("monolith-pg-rw", "monolith-pg-rw.monolith", "10.0.0.7", "localhost", "/run/postgresql"),
    "xmonolith-pg-pr-7-rw",
]


@pytest.mark.parametrize("host", OF_CLONE_7)
def test_host_of_the_clone(host):
    """
    Every form of the clone's own host matches in its preview, and nowhere else.
    """
    for number in (7, None):
        expected = Expected(preview=True, number=number)
        assert expected.judge_host(target(host)).verdict is Verdict.MATCH
    for other in (
        Expected(preview=True, number=8),
        Expected(preview=True, number=70),
        Expected(preview=False),
    ):
        assert other.judge_host(target(host)).verdict is Verdict.MISMATCH


@pytest.mark.parametrize("host", OF_NOBODY)
def test_host_that_looks_like_a_clone(host):
    """
    A host that only resembles a clone's is refused by every preview, and by production too.
    """
    for expected in (
        Expected(preview=True, number=7),
        Expected(preview=True),
        Expected(preview=False),
    ):
        assert expected.judge_host(target(host)).verdict is Verdict.MISMATCH


@pytest.mark.parametrize("host", OF_PRODUCTION)
def test_host_of_production(host):
    """
    A host that is not a clone's matches in production, and in no preview.
    """
    assert Expected(preview=False).judge_host(target(host)).verdict is Verdict.MATCH
    for expected in (Expected(preview=True, number=7), Expected(preview=True)):
        assert expected.judge_host(target(host)).verdict is Verdict.MISMATCH


@given(numbers=st.lists(NUMBERS, min_size=2, max_size=2, unique=True))
def test_clone_of_another(numbers):
    """
    A preview takes its own clone's name, and no other clone's.
    """
    ours, theirs = numbers
    expected = Expected(preview=True, number=ours)

    assert expected.judge_server(clone_name(ours)).verdict is Verdict.MATCH
    assert expected.judge_server(clone_name(theirs)).verdict is Verdict.MISMATCH
    assert Expected(preview=False).judge_server(clone_name(theirs)).verdict is Verdict.MISMATCH


@given(
    preview=st.booleans(),
    pinned=st.sampled_from(["", "same", "other"]),
    host=hosts(),
    reported=st.sampled_from(["own clone", "other clone", "monolith-pg", "", "MONOLITH-PG-PR-1"]),
)
def test_every_pair(preview, pinned, host, reported):
    """
    Of all pairs of mode, host and reported name only two open: a preview on its own clone that
    says so itself, and production on what neither is nor says that it is a clone.
    """
    (host, owner, number), name = host, reported
    if reported.endswith("clone"):
        name = clone_name(number if reported == "own clone" else number + 1)
    wanted = {"": None, "same": number, "other": number + 1}[pinned]
    expected = Expected(preview, wanted if preview else None).narrowed(target(host))
    facts = expected.judge_host(target(host)), expected.judge_server(name)

    opens = all(fact.verdict is Verdict.MATCH for fact in facts)
    if preview:
        assert opens is (owner == "clone" and reported == "own clone" and pinned != "other")
    else:
        assert opens is (owner == "production" and reported in ("monolith-pg", ""))


@given(name=st.text(min_size=1))
def test_any_other_name(name):
    """
    Any name that is not the clone's is refused by the preview; production refuses only clones'.
    """
    assume("monolith-pg-pr-" not in name.lower())

    assert Expected(preview=True, number=7).judge_server(name).verdict is Verdict.MISMATCH
    assert Expected(preview=True).judge_server(name).verdict is Verdict.MISMATCH
    assert Expected(preview=False).judge_server(name).verdict is Verdict.MATCH


@pytest.mark.parametrize("answer", ["", None, 7, b"monolith-pg-pr-7"])
def test_no_answer(answer):
    """
    A server that gives no name is UNABLE in a preview, which refuses it, and passes in production.
    """
    preview = Expected(preview=True, number=7)
    fact = preview.judge_server(answer)

    assert fact == Fact("cluster_name", "monolith-pg-pr-7", "", Verdict.UNABLE)
    with pytest.raises(WrongDatabaseError):
        preview.refuse(fact)
    assert Expected(preview=False).judge_server(answer).verdict is Verdict.MATCH


@pytest.mark.parametrize(
    "name", ["monolith-pg-pr-7-1", "monolith-pg-pr-07", "MONOLITH-PG-PR-7", "monolith-pg-pr-x"]
)
def test_name_that_looks_like_a_clone(name):
    """
    A name that only resembles a clone's is refused both ways.
    """
    for expected in (
        Expected(preview=True, number=7),
        Expected(preview=True),
        Expected(preview=False),
    ):
        assert expected.judge_server(name).verdict is Verdict.MISMATCH


def test_facts():
    """
    A fact says what was asked, what was expected, what was found, and the verdict.
    """
    preview, production = Expected(preview=True, number=7), Expected(preview=False)

    assert preview.judge_server("x") == Fact(
        "cluster_name", "monolith-pg-pr-7", "x", Verdict.MISMATCH
    )
    assert production.judge_server("x") == Fact(
        "cluster_name", "a name that is not a clone's", "x", Verdict.MATCH
    )
    assert Expected(preview=True).judge_host(target("h")) == Fact(
        "host", "the host of monolith-pg-pr-<n>", "h", Verdict.MISMATCH
    )
    assert production.judge_host(target("h")) == Fact(
        "host", "a host that is not a clone's", "h", Verdict.MATCH
    )


async def test_question(source):
    """
    A server is asked with SHOW, which no search path can shadow.
    """
    async with source.connect() as connection:
        assert await identify(connection) == "monolith-pg"


def test_refusal_says_what_to_do():
    """
    A refusal names what was expected, what was found, and the remedy of its own mode.
    """
    preview, production = Expected(preview=True, number=7), Expected(preview=False)
    with pytest.raises(WrongDatabaseError) as in_preview:
        preview.refuse(preview.judge_server("monolith-pg"))
    with pytest.raises(WrongDatabaseError) as in_production:
        production.refuse(production.judge_host(target("monolith-pg-pr-7-rw")))
    preview.refuse(preview.judge_server("monolith-pg-pr-7"))

    assert str(in_preview.value) == (
        "Refused to use the database: expected cluster_name to be monolith-pg-pr-7, "
        "found 'monolith-pg'. Point DATABASE_URL at this preview's own clone, then restart."
    )
    assert str(in_production.value) == (
        "Refused to use the database: expected host to be a host that is not a clone's, "
        "found 'monolith-pg-pr-7-rw'. Set PR_ENV=true for a preview, or point DATABASE_URL at "
        "production's database."
    )


def test_number_comes_from_the_host():
    """
    Without PR_NUMBER the host pins the clone; with it the host changes nothing.
    """
    of_7 = target("monolith-pg-pr-7-rw")

    assert Expected(preview=True).narrowed(of_7) == Expected(preview=True, number=7)
    assert Expected(preview=True, number=8).narrowed(of_7).number == 8
    assert Expected(preview=False).narrowed(of_7).number is None
