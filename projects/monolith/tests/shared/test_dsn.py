import os
from contextlib import closing
from random import Random
from unittest.mock import patch
from urllib.parse import quote

import asyncpg
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from shared.database import Database
from shared.dsn import parse
from shared.errors import TargetError, WrongDatabaseError
from shared.identity import Expected, Verdict
from tests.dsns import (
    PRODUCTION,
    Judge,
    leads_to_the_clone,
    mislead,
    misleading,
    said_by,
    written,
)
from tests.strategies import dsns, targets
from tests.wire import RecordingLoop, Spoken

HOST = "monolith-pg-pr-7-rw"


@pytest.mark.parametrize(
    ("dsn", "host", "port"),
    [
        (f"postgresql://app:pw@{HOST}.monolith:5432/monolith", f"{HOST}.monolith", 5432),
        (f"postgres://app:pw@{HOST}:6000/monolith", HOST, 6000),
        (f"postgresql://app:pw@{HOST.upper()}/monolith", HOST, 5432),
        ("postgresql://app:pw@10.0.0.7:1/monolith", "10.0.0.7", 1),
        ("postgresql://app:pw@[2001:DB8::7]:65535/monolith", "2001:db8::7", 65535),
        ("postgresql://app:pw@/monolith?host=/run/monolith-pg", "/run/monolith-pg", 5432),
        ("postgresql://app:pw@:6000/monolith?host=%2Frun%2Fa%20b", "/run/a b", 6000),
        ("postgresql://app:pw@/monolith?host=/run/a=b", "/run/a=b", 5432),
        (f"postgresql://app:pw@{HOST}.2130706433/monolith", f"{HOST}.2130706433", 5432),
        (f"postgresql://app:pw@{'x.' * 126}x/monolith", f"{'x.' * 126}x", 5432),
    ],
    ids=[
        "namespaced",
        "port",
        "case",
        "ipv4",
        "ipv6",
        "socket",
        "escaped",
        "equals",
        "digits",
        "longest",
    ],
)
def test_understood_forms(dsn, host, port):
    """
    A DSN of one host, or of one socket directory, is read to explicit parameters.
    """
    target = parse(dsn)

    assert (target.host, target.port, target.user) == (host, port, "app")
    assert (target.password.get_secret_value(), target.database) == ("pw", "monolith")
    assert target.is_socket is host.startswith("/")
    assert str(target) == f"{host}:{port}/monolith"


def test_escapes_are_undone():
    """
    User, password and database may hold any printable character, escaped.
    """
    target = parse("postgresql://a%40b:p%3A%2F%40%C3%A9%2C@h/d%25b")

    assert (target.user, target.database) == ("a@b", "d%b")
    assert target.password.get_secret_value() == "p:/@é,"


def test_password_may_be_missing():
    """
    A DSN without a password connects with an empty one, never with one found elsewhere.
    """
    assert parse("postgresql://app@h/d").parameters(tls=False)["password"] == ""


SCHEME = "does not start with postgresql://"
AT = "does not have exactly one @ (write %40 for one in a password)"
SEVERAL = "names several hosts"
FORM = "has another form"
NO_HOST = "names no host, or both a host and a socket directory"
QUERY = "has query parameters other than one host"
SOCKET = "has a host parameter that is not an absolute, plain socket directory"
NO_NAME = "has a host that is neither a name nor a dotted IPv4 address"
NO_IPV6 = "has brackets around something that is not an IPv6 address"
TEXT = "has a {} that is not printable UTF-8"
REFUSED = {
    "": SCHEME,
    "mysql://a:b@h/d": SCHEME,
    "POSTGRESQL://a:b@h/d": SCHEME,
    " postgresql://a:b@h/d": SCHEME,
    "postgresql://h/d": AT,
    "postgresql://u:x@prod:5472,x@monolith-pg-pr-7-rw:5471/db": AT,
    "postgresql://a:b@h,i/d": SEVERAL,
    "postgresql://a:b@h:1,i:2/d": SEVERAL,
    "postgresql://a:b@h:1": FORM,
    "postgresql://a:b@h:1/": FORM,
    "postgresql://:b@h/d": FORM,
    "postgresql://a,b@h:x/d": FORM,
    "postgresql://a:b@h/d#x": FORM,
    "postgresql://a:b#x@h/d": FORM,
    "postgresql://a:b@h%2Eevil/d": FORM,
    "postgresql://a:b@%2Frun/d": FORM,
    "postgresql://a:b@h%00.x/d": FORM,
    "postgresql://a:b@h/d\n": FORM,
    "postgresql://a:b@h\t/d": FORM,
    "postgresql://a:b@\uff4donolith-pg-rw/d": FORM,
    "postgresql://a:b@m\u043enolith/d": FORM,
    "postgresql://a:b@h\u3002x/d": FORM,
    "postgresql://a:b@h./d": FORM,
    "postgresql://a:b@[::1]x/d": FORM,
    "postgresql://a:b@h:0/d": FORM,
    "postgresql://a:b@h:x/d": FORM,
    "postgresql://a:b@h:/d": FORM,
    f"postgresql://a:b@{'x' * 64}/d": FORM,
    "postgresql://a:b@/d": NO_HOST,
    "postgresql://a:b@h/d?host=/x": NO_HOST,
    "postgresql://a:b@/d?host=/x&host=/y": QUERY,
    "postgresql://a:b@h/d?sslmode=disable": QUERY,
    "postgresql://a:b@h/d?service=prod": QUERY,
    "postgresql://a:b@h/d?": QUERY,
    "postgresql://a:b@/d?host=prod": SOCKET,
    "postgresql://a:b@/d?host=x/y": SOCKET,
    "postgresql://a:b@/d?host=/x/../y": SOCKET,
    "postgresql://a:b@/d?host=/x/./y": SOCKET,
    "postgresql://a:b@/d?host=/x//y": SOCKET,
    "postgresql://a:b@/d?host=/": SOCKET,
    "postgresql://a:b@/d?host=": SOCKET,
    "postgresql://a:b@/d?host": SOCKET,
    "postgresql://a:b@/d?host=/x,/monolith-pg-pr-7": SOCKET,
    "postgresql://a:b@/d?host=/x%2C/monolith-pg-pr-7": SOCKET,
    "postgresql://a:b@/d?host=/x/.s.PGSQL.1/monolith-pg-pr-7": SOCKET,
    "postgresql://a:b@/d?host=/x%00": TEXT.format("socket directory"),
    "postgresql://a:b@/d?host=/x\udcff": TEXT.format("socket directory"),
    "postgresql://a:b@/d?host=\ud800": TEXT.format("socket directory"),
    "postgresql://a%00:b@h/d": TEXT.format("user"),
    "postgresql://a:%ff@h/d": TEXT.format("password"),
    "postgresql://a:b@h/%0A": TEXT.format("database"),
    "postgresql://a:b@2130706433/d": NO_NAME,
    "postgresql://a:b@127.9/d": NO_NAME,
    "postgresql://a:b@0x7f.0.0.9/d": NO_NAME,
    "postgresql://a:b@127.0.0.0x9/d": NO_NAME,
    "postgresql://a:b@0177.0.0.1/d": NO_NAME,
    "postgresql://a:b@256.0.0.1/d": NO_NAME,
    "postgresql://a:b@1.2.3.4.5/d": NO_NAME,
    f"postgresql://a:b@{'x.' * 126}xx/d": NO_NAME,
    "postgresql://a:b@[1.2.3.4]/d": NO_IPV6,
    "postgresql://a:b@h:65536/d": "has a port above 65535",
}


@pytest.mark.parametrize(("dsn", "found"), REFUSED.items(), ids=map(ascii, REFUSED))
def test_anything_else_is_refused(dsn, found):
    """
    What is not understood to the last character is refused by name, without being repeated.
    """
    with pytest.raises(TargetError) as caught:
        parse(dsn)

    assert caught.value.__context__ is None
    assert str(caught.value) == (
        "Refused to read DATABASE_URL: expected postgresql://user:password@host:port/database or "
        f"postgresql://user:password@/database?host=/socket/directory, it {found}. "
        "Take it from the cluster's -app secret, key uri."
    )


def test_every_parameter():
    """
    Asyncpg gets every parameter that it would otherwise look for elsewhere.
    """
    assert parse("postgresql://app:pw@h:1/d").parameters(tls="context") == {
        "dsn": None,
        "host": "h",
        "port": 1,
        "user": "app",
        "password": "pw",
        "passfile": os.devnull,
        "service": None,
        "servicefile": None,
        "database": "d",
        "ssl": "context",
        "direct_tls": False,
        "server_settings": {"application_name": "monolith"},
        "target_session_attrs": "any",
        "krbsrvname": "postgres",
        "gsslib": "gssapi",
    }


ISSUED = {
    "uri": "postgresql://app:{password}@monolith-pg-pr-7-rw.{namespace}:5432/monolith",
    "fqdn-uri": "postgresql://app:{password}@{host}.{namespace}.svc.cluster.local:5432/monolith",
    "bare": "postgresql://app:{password}@monolith-pg-pr-7-rw:5432/monolith",
    "svc": "postgresql://app:{password}@monolith-pg-pr-7-rw.{namespace}.svc:5432/monolith",
}
JDBC = {
    "jdbc-uri": "jdbc:postgresql://{host}.{namespace}:5432/monolith?password={password}&user=app",
    "fqdn-jdbc-uri": "jdbc:postgresql://{host}.{namespace}.svc.cluster.local:5432/monolith"
    "?password={password}&user=app",
}


@given(
    password=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1),
    namespace=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
)
@example(password="x" * 64, namespace="0x7")
@example(password="$&+,;=-_.~!*'()", namespace="monolith")
def test_what_cloudnativepg_issues(password, namespace):
    """
    Every `uri` that CloudNativePG issues for the clone is accepted, whatever its password and
    namespace, and read to the letter; none of its `jdbc-uri` is.
    """
    ours = Expected(preview=True, number=7)
    left_alone = quote(password, safe="$&+,;=-_.~")  # by Go's net/url in a password
    for form in ISSUED.values():
        target = parse(form.format(host=HOST, password=left_alone, namespace=namespace))

        assert target.password.get_secret_value() == password
        assert (target.user, target.port, target.database) == ("app", 5432, "monolith")
        assert ours.judge_host(target).verdict is Verdict.MATCH
    for form in JDBC.values():
        with pytest.raises(TargetError, match="does not start with postgresql://"):
            parse(form.format(host=HOST, password=quote(password), namespace=namespace))


@given(target=targets)
def test_round_trip(target):
    """
    A target that is written as a DSN is read as the same target.
    """
    assert parse(written(target)) == target


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a service file and a password file that lead to production."""
    path = tmp_path_factory.mktemp("home")
    mislead(path)
    return path


@pytest.fixture(scope="module")
def judge(home):
    """What judges a DSN by what asyncpg does."""
    with closing(Judge(home)) as judge:
        yield judge


@given(dsn=dsns, random=st.randoms(use_true_random=False))
@example(dsn=f"postgresql://app:pw@{HOST}/d", random=Random(1))
@example(dsn="postgresql://app@/d?host=/run/monolith-pg-pr-7", random=Random(1))
def test_asyncpg_goes_where_the_target_says(judge, dsn, random):
    """
    Whatever DSN is accepted, and whatever PG* variables, service files and password files say,
    asyncpg connects to the target only, as the target says, and to the clone in a preview.
    """
    event(judge.judge(dsn, random))


@given(dsn=dsns, random=st.randoms(use_true_random=False))
@example(dsn=f"postgresql://app:pw@{HOST}/d", random=Random(1))
@example(dsn=f"postgresql://app:pw@{PRODUCTION}/d", random=Random(1))
def test_pool_goes_where_the_target_says(home, dsn, random):
    """
    Whatever address a pool was given, its connections go to the target only, and only if the
    preview may use it; otherwise nothing is asked for at all.
    """
    try:
        target = parse(dsn)
    except TargetError:
        return
    database = Database(target, Expected(preview=True, number=7), None, 0)
    hostile = f"postgresql://root:x@{PRODUCTION}:1/prod?target_session_attrs=standby"

    async def open_pool():
        async with asyncpg.create_pool(hostile, connect=database.connect, min_size=1, max_size=1):
            pass

    with closing(RecordingLoop()) as loop, patch.dict(os.environ, misleading(random, home)):
        if database.expected.judge_host(target).verdict is Verdict.MATCH:
            assert loop.listen(open_pool()) == said_by(target)
        else:
            with pytest.raises(WrongDatabaseError):
                loop.listen(open_pool())
            assert loop.spoken == Spoken()


@pytest.mark.parametrize(
    ("address", "misled"),
    [({"host": None}, (PRODUCTION, 5432)), ({"port": None}, (HOST, 1))],
    ids=["host", "port"],
)
def test_oracle_sees_what_is_left_open(judge, monkeypatch, address, misled):
    """
    The oracle sees asyncpg go astray where one parameter is left for the environment to fill in.
    """
    monkeypatch.setenv("PGHOST", PRODUCTION)
    monkeypatch.setenv("PGPORT", "1" if "port" in address else "5432")
    parameters = parse(f"postgresql://app:pw@{HOST}/d").parameters(tls=False)
    with closing(RecordingLoop()) as loop:
        spoken = loop.listen(asyncpg.connect(**parameters | address))

    assert spoken.asked == [misled]
    assert not leads_to_the_clone(spoken) or "port" in address


def test_no_secret_is_shown():
    """
    A target that is printed shows no password.
    """
    target = parse("postgresql://app:hunter2@h/d")

    assert "hunter2" not in f"{target} {target!r}"
    assert target.parameters(tls=False)["password"] == "hunter2"
