import asyncio
import os
from unittest.mock import patch

import asyncpg
import pytest
from hypothesis import event, given
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
        ("postgresql://app:pw@/monolith?host=/run/a=b", "/run/a=b", 5432),
        (f"postgresql://app:pw@{HOST}.2130706433/monolith", f"{HOST}.2130706433", 5432),
        (f"postgresql://app:pw@{'x.' * 126}x/monolith", f"{'x.' * 126}x", 5432),
    ],
    ids=["namespaced", "port", "case", "ipv4", "ipv6", "socket", "escaped", "equals", "digits", "longest"],
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
    "postgresql://a:b@/d?host=/x,/monolith-pg-pr-7": SOCKET,
    "postgresql://a:b@/d?host=/x%2C/monolith-pg-pr-7": SOCKET,
    "postgresql://a:b@/d?host=/x/.s.PGSQL.1/monolith-pg-pr-7": SOCKET,
    "postgresql://a:b@/d?host=/x%00": TEXT.format("socket directory"),
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
names = st.sampled_from(["app", "monolith", "p%40w", "x.y", "5432"])
places = st.sampled_from(
    [
        *("monolith-pg-rw{}/{}", "monolith-pg-pr-7-rw{}/{}", "127.0.0.1{}/{}", "[::1]{}/{}"),
        *("{}/{}?host=/run/x", "{}/{}?host=%2Frun%2Fmonolith-pg-pr-7"),
    ]
)
well_formed = st.builds(
    lambda user, password, place, port, name: (
        f"postgresql://{user}:{password}@{place.format(port, name)}"
    ),
    *(names, names, places, st.sampled_from(["", ":1", ":5432", ":65535"]), names),
)
with_a_twist = st.builds(
    lambda dsn, at, twist: dsn[:at] + twist + dsn[at:], well_formed, st.integers(10, 50), fragments
)


@given(
    dsn=well_formed | with_a_twist | st.lists(fragments, max_size=14).map("".join),
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
        event("refused")
        return
    event("accepted")
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
