import asyncio
import os
from unittest.mock import patch

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.dsn import Target, parse
from shared.errors import TargetError

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
    ],
    ids=["namespaced", "port", "case", "ipv4", "ipv6", "socket", "socket-escaped"],
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


@pytest.mark.parametrize(
    "named",
    {
        "empty": "",
        "other-scheme": "mysql://a:b@h/d",
        "case-of-scheme": "POSTGRESQL://a:b@h/d",
        "no-user": "postgresql://h/d",
        "no-database": "postgresql://a:b@h:1",
        "empty-database": "postgresql://a:b@h:1/",
        "two-at": "postgresql://u:x@prod:5472,x@monolith-pg-pr-7-rw:5471/db",
        "two-hosts": "postgresql://a:b@h,i/d",
        "two-hosts-and-ports": "postgresql://a:b@h:1,i:2/d",
        "no-host": "postgresql://a:b@/d",
        "host-and-socket": "postgresql://a:b@h/d?host=/x",
        "host-in-query": "postgresql://a:b@/d?host=prod",
        "relative-socket": "postgresql://a:b@/d?host=x/y",
        "socket-with-dots": "postgresql://a:b@/d?host=/x/../y",
        "socket-file": "postgresql://a:b@/d?host=/x/.s.PGSQL.1/monolith-pg-pr-7",
        "two-sockets": "postgresql://a:b@/d?host=/x&host=/y",
        "two-sockets-escaped": "postgresql://a:b@/d?host=/x,/y%00",
        "option": "postgresql://a:b@h/d?sslmode=disable",
        "service": "postgresql://a:b@h/d?service=prod",
        "empty-query": "postgresql://a:b@h/d?",
        "fragment": "postgresql://a:b@h/d#x",
        "fragment-in-password": "postgresql://a:b#x@h/d",
        "escaped-host": "postgresql://a:b@h%2Eevil/d",
        "escaped-socket-as-host": "postgresql://a:b@%2Frun/d",
        "nul": "postgresql://a:b@h%00.x/d",
        "nul-in-user": "postgresql://a%00:b@h/d",
        "not-utf8": "postgresql://a:%ff@h/d",
        "newline": "postgresql://a:b@h/d\n",
        "space": " postgresql://a:b@h/d",
        "tab": "postgresql://a:b@h\t/d",
        "full-width": "postgresql://a:b@\uff4donolith-pg-rw/d",
        "cyrillic": "postgresql://a:b@m\u043enolith/d",
        "ideographic-dot": "postgresql://a:b@h\u3002x/d",
        "trailing-dot": "postgresql://a:b@h./d",
        "number-as-host": "postgresql://a:b@2130706433/d",
        "short-ipv4": "postgresql://a:b@127.9/d",
        "hex-ipv4": "postgresql://a:b@0x7f.0.0.9/d",
        "hex-part": "postgresql://a:b@127.0.0.0x9/d",
        "octal-ipv4": "postgresql://a:b@0177.0.0.1/d",
        "junk-after-ipv6": "postgresql://a:b@[::1]x/d",
        "not-ipv6": "postgresql://a:b@[1.2.3.4]/d",
        "port-zero": "postgresql://a:b@h:0/d",
        "port-too-high": "postgresql://a:b@h:65536/d",
        "port-text": "postgresql://a:b@h:x/d",
        "empty-port": "postgresql://a:b@h:/d",
        "label-too-long": f"postgresql://a:b@{'x' * 64}/d",
        "name-too-long": f"postgresql://a:b@{'x.' * 127}x/d",
    }.items(),
    ids=lambda item: item[0],
)
def test_anything_else_is_refused(named):
    """
    What is not understood to the last character is refused, without being repeated.
    """
    with pytest.raises(TargetError, match="Refused to read DATABASE_URL") as caught:
        parse(named[1])

    assert caught.value.__context__ is None
    assert len(named[1]) < 20 or named[1] not in str(caught.value)


class Asked(Exception):  # noqa: N818  it reports, nothing is wrong
    """What asyncpg asked the event loop to connect to."""


def asked_of(target: Target) -> object:
    """Return what asyncpg asks the event loop to connect to; nothing is connected."""

    async def ask(_protocol, *where, **_options):
        raise Asked(where)

    loop = asyncio.new_event_loop()
    connecting = patch.multiple(loop, create_connection=ask, create_unix_connection=ask)
    try:
        with connecting, pytest.raises(Asked) as asked:
            loop.run_until_complete(asyncpg.connect(**target.parameters(tls=False)))
    finally:
        loop.close()
    return asked.value.args[0]


PG_VARIABLES = [
    "PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGPASSFILE", "PGSERVICE",
    "PGSERVICEFILE", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLNEGOTIATION", "PGKRBSRVNAME", "PGGSSLIB",
    "PGTARGETSESSIONATTRS", "PGHOSTADDR", "PGOPTIONS", "PGSSLMINPROTOCOLVERSION",
]  # fmt: skip

fragments = st.sampled_from(
    [
        *(
            "postgresql://",
            "postgres://",
            "app",
            ":",
            "@",
            "/",
            "?",
            "&",
            "=",
            ",",
            "#",
            "%2F",
            "%40",
        ),
        *(
            "%00",
            "host",
            "port",
            "service",
            "monolith-pg-rw",
            HOST,
            "127.0.0.1",
            "[::1]",
            ".",
            "5432",
        ),
        *("monolith", "/run/x", "x", "\n", " "),
    ]
)
ports = st.sampled_from(["", ":1", ":5432", ":0"])
queries = st.sampled_from(["", "?host=/run/x", "?host=prod", "?port=1", "?service=x"])
well_formed = st.builds(
    "postgresql://{}:{}@{}{}/{}{}".format,
    *[fragments, fragments, fragments | st.just(""), ports, fragments, queries],
)


@given(
    dsn=well_formed | st.lists(fragments, max_size=14).map("".join),
    variables=st.dictionaries(
        st.sampled_from(PG_VARIABLES), st.sampled_from(["prod", "1", "any", ""])
    ),
)
def test_asyncpg_goes_where_the_target_says(dsn, variables):
    """
    Whatever DSN is accepted, and whatever PG* variables say, asyncpg connects to the target only.
    """
    try:
        target = parse(dsn)
    except TargetError:
        return
    with patch.dict(os.environ, variables):
        asked = asked_of(target)

    if target.is_socket:
        assert asked == (f"{target.host}/.s.PGSQL.{target.port}",)
    else:
        assert asked == (target.host, target.port)


def test_no_secret_is_shown():
    """
    A target that is printed shows no password.
    """
    target = parse("postgresql://app:hunter2@h/d")

    assert "hunter2" not in f"{target} {target!r}"
    assert target.parameters(tls=False)["password"] == "hunter2"
