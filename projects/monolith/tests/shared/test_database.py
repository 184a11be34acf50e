import asyncio
import os
import re
import socket
import ssl
from contextlib import asynccontextmanager, closing
from unittest.mock import patch
from urllib.parse import quote

import asyncpg
import pytest
import trustme
from structlog.testing import capture_logs

from shared.dsn import parse
from shared.errors import SettingsError, UnidentifiedDatabaseError, WrongDatabaseError
from shared.identity import Fact, Verdict
from tests.dsns import said_by
from tests.environment import read
from tests.wire import RecordingLoop

UNKNOWN_ISSUER = "unable to get local issuer certificate"
WRONG_NAME = "Hostname mismatch, certificate is not valid for 'localhost'."


@pytest.fixture
def called(source, state_dir):
    """The DSN of the source behind a socket directory of another name."""
    links = []

    def make(name, database="monolith"):
        links.append(state_dir / name)
        links[-1].symlink_to(source.socket_dir)
        was, becomes = (quote(str(path), safe="") for path in (source.socket_dir, links[-1]))
        return source.dsn(database=database).get_secret_value().replace(was, becomes)

    yield make
    for link in links:
        link.unlink()


async def test_production(source):
    """
    Production's own database matches, and its pool's connections are identified one by one.
    """
    database = read(source.dsn().get_secret_value())
    before = database.verdict
    async with database.pool() as pool:
        assert await pool.fetchval("SHOW cluster_name") == "monolith-pg"

    assert (before, database.verdict) == (Verdict.UNABLE, Verdict.MATCH)
    assert {name: fact.found for name, fact in database.facts.items()} == {
        "host": str(source.socket_dir),
        "cluster_name": "monolith-pg",
    }
    assert (database.identified, database.refused) == (2, 0)


@pytest.mark.parametrize("number", [{}, {"PR_NUMBER": "7"}], ids=["any", "pinned"])
async def test_preview(standing_clone, number):
    """
    A preview's own clone matches; production refuses the same clone.
    """
    dsn = standing_clone.dsn().get_secret_value()
    database = read(dsn, PR_ENV="true", **number)
    async with database.pool() as pool:
        assert await pool.fetchval("SHOW cluster_name") == "monolith-pg-pr-7"

    assert database.verdict is Verdict.MATCH
    with pytest.raises(WrongDatabaseError, match="a host that is not a clone's"):
        await read(dsn).check()


async def test_clone_of_another_number(standing_clone):
    """
    PR_NUMBER pins the clone: the running clone of another pull request is refused unasked.
    """
    dsn = standing_clone.dsn().get_secret_value()
    preview = read(dsn, PR_ENV="true", PR_NUMBER="8")
    for _ in range(2):
        with pytest.raises(WrongDatabaseError, match="the host of monolith-pg-pr-8"):
            await preview.check()

    assert (preview.identified, preview.refused) == (0, 2)
    assert "cluster_name" not in preview.facts


async def test_production_behind_the_right_name(called):
    """
    Production's server behind the clone's host name is refused on the first connection.
    """
    preview = read(called("monolith-pg-pr-7"), PR_ENV="true", DATABASE_WAIT_SECONDS="60")
    with pytest.raises(WrongDatabaseError, match="found 'monolith-pg'"):
        await preview.check()

    assert preview.verdict is Verdict.MISMATCH
    assert (preview.identified, preview.refused) == (0, 1)


async def test_clone_behind_productions_name(standing_clone, state_dir):
    """
    A clone's server behind a host name that is not a clone's is refused by production.
    """
    link = state_dir / "elsewhere"
    link.symlink_to(standing_clone.socket_dir)
    was = quote(str(standing_clone.socket_dir), safe="")
    dsn = standing_clone.dsn().get_secret_value().replace(was, str(link))
    try:
        with pytest.raises(WrongDatabaseError, match="found 'monolith-pg-pr-7'"):
            await read(dsn).check()
    finally:
        link.unlink()


async def test_name_cannot_be_claimed(source, database, called):
    """
    A function that shadows current_setting, in the search path of the role, makes no clone.
    """
    name = parse(await database()).database
    async with source.connect(database=name) as connection:
        await connection.execute(
            "CREATE SCHEMA evil; CREATE FUNCTION evil.current_setting(text) RETURNS text"
            " LANGUAGE sql AS $$ SELECT 'monolith-pg-pr-7' $$; GRANT USAGE ON SCHEMA evil TO app;"
            f" ALTER DATABASE {name} SET search_path = evil, pg_catalog"
        )
    async with source.connect("app", name) as connection:
        assert await connection.fetchval("SELECT current_setting('x')") == "monolith-pg-pr-7"
    preview = read(called("monolith-pg-pr-7", name), PR_ENV="true")
    with pytest.raises(WrongDatabaseError, match="found 'monolith-pg'"):
        await preview.check()


async def test_every_later_connection(source, standing_clone, called):
    """
    A server that is exchanged under a running pool is refused at the next connection.
    """
    elsewhere = read(called("monolith-pg-pr-7"), PR_ENV="true")
    preview = read(standing_clone.dsn().get_secret_value(), PR_ENV="true")
    async with preview.pool() as pool:
        assert await pool.fetchval("SELECT 1") == 1
        preview.target = elsewhere.target
        await pool.expire_connections()
        with pytest.raises(WrongDatabaseError, match="found 'monolith-pg'"):
            await pool.fetchval("SELECT 1")

    assert preview.verdict is Verdict.MISMATCH


async def test_what_a_pool_asks_of_its_connections(source, monkeypatch):
    """
    A pool has as many connections as asked for, of the classes asked for, with a bounded patience.
    """

    class Record(asyncpg.Record):
        """A class of one's own."""

    monkeypatch.setattr("shared.database.COMMAND_SECONDS", 0.2)
    database = read(source.dsn().get_secret_value())
    connection = await database.connect(record_class=Record)
    row = await connection.fetchrow("SELECT 1")
    await connection.close()
    async with database.pool(3) as pool:
        assert (pool.get_min_size(), pool.get_max_size()) == (1, 3)
        assert pool.get_size() == 1
        with pytest.raises(TimeoutError):
            await pool.fetchval("SELECT pg_sleep(20)")

    assert type(row) is Record


async def test_pool_goes_nowhere_else(source):
    """
    Whatever address a pool is given, its connect hook connects to the target only.
    """
    database = read(source.dsn().get_secret_value())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)  # noqa: FBT003  the standard library's signature
        port = listener.getsockname()[1]
        async with database.pool() as pool:
            pool.set_connect_args(f"postgresql://a:b@127.0.0.1:{port}/d")
            await pool.expire_connections()
            assert await pool.fetchval("SHOW cluster_name") == "monolith-pg"

        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_environment_does_not_matter(source):
    """
    PG* variables change neither where nor as whom one connects.
    """
    database = read(source.dsn().get_secret_value())
    misleading = {
        "PGHOST": "prod",
        "PGPORT": "1",
        "PGUSER": "x",
        "PGSERVICE": "prod",
        "PGSSLMODE": "require",
    }
    with patch.dict(
        os.environ, misleading | {"PGTARGETSESSIONATTRS": "standby", "PGOPTIONS": "-c x=y"}
    ):
        await database.check()

    assert database.verdict is Verdict.MATCH


async def test_not_up_yet(source, engine):
    """
    A database that is not up yet is waited for, with one line in the log for each reason.
    """
    late = engine("monolith-pg")
    late.init()
    late.save_password("app", source.target().password)
    database = read(late.dsn("app", "postgres").get_secret_value(), DATABASE_WAIT_SECONDS="60")
    with capture_logs() as logged:

        async def waits_for(reason):
            while not (logged and logged[-1]["reason"].startswith(f"{reason}: ")):
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as tasks:
            check = tasks.create_task(database.check())
            await waits_for("FileNotFoundError")
            await late.start({}, die_with_parent=True)
            await waits_for("InvalidPasswordError")
            await asyncio.sleep(0.7)
            async with late.connect() as connection:
                assert not check.done()
                password = source.target().password.get_secret_value()
                await connection.execute(f"CREATE ROLE app LOGIN PASSWORD '{password}'")

    assert database.verdict is Verdict.MATCH
    reasons = [line["reason"].split(":")[0] for line in logged]
    assert [reason for reason in reasons if reason != "CannotConnectNowError"] == [
        "FileNotFoundError",
        "InvalidPasswordError",
    ]


@pytest.fixture
def closed_port():
    """A TCP port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("addresses", [1, 2], ids=["one", "several"])
async def test_refused_addresses(closed_port, monkeypatch, addresses):
    """
    A name whose every address refuses is not up yet, and waited for; then the refusal says so.
    """

    async def resolve(_host, port, **_options):
        places = [("127.0.0.1", port), ("127.0.0.2", port)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places[:addresses]]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    database = read(f"postgresql://a:b@db:{closed_port}/d", DATABASE_WAIT_SECONDS="0.6")
    with capture_logs() as logged, pytest.raises(UnidentifiedDatabaseError) as caught:
        await database.check()

    reason = logged[0]["reason"]
    assert reason.startswith(
        "OSError: Multiple exceptions" if addresses > 1 else "ConnectionRefusedError: [Errno 111]"
    )
    assert logged == [
        {
            "event": "waiting for the database",
            "log_level": "warning",
            "at": f"db:{closed_port}/d",
            "reason": reason,
        }
    ]
    assert (caught.value.where, caught.value.reason) == (
        f"db:{closed_port}/d",
        f"it was not up after 0.6 s ({reason})",
    )


async def test_pool_does_not_wait(closed_port):
    """
    A pool of a database that is not up is refused at once, however long the settings would wait.
    """
    database = read(f"postgresql://a:b@127.0.0.1:{closed_port}/d", DATABASE_WAIT_SECONDS="3600")
    with pytest.raises(UnidentifiedDatabaseError, match=r"it was not up after 0 s \(Conn"):
        async with database.pool():
            pytest.fail("it opened")


async def test_silent_server(monkeypatch):
    """
    A server that takes the connection and says nothing is given up, and not tried again.
    """
    monkeypatch.setattr("shared.database.CONNECT_SECONDS", 0.2)
    gone = asyncio.Event()

    async def silent(reader, writer):
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server, asyncio.timeout(20):
        port = server.sockets[0].getsockname()[1]
        database = read(f"postgresql://a:b@127.0.0.1:{port}/d", DATABASE_WAIT_SECONDS="3600")
        with pytest.raises(UnidentifiedDatabaseError) as caught:
            await database.check()
        await gone.wait()

    assert caught.value.where == f"127.0.0.1:{port}/d"
    assert caught.value.reason == "TimeoutError"


def test_plain_connection():
    """
    Without DATABASE_CA_FILE nothing is said about TLS, and the target is connected to as it says.
    """
    database = read("postgresql://a:b@monolith-pg-rw:5432/d")
    with closing(RecordingLoop()) as loop:
        assert loop.listen(database.connect()) == said_by(database.target)


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("postgresql://a:b@does-not-exist.invalid:1/d", "gaierror"),
        ("{source}/other?", "InvalidCatalogNameError"),
    ],
    ids=["no-such-host", "no-such-database"],
)
async def test_trouble_that_waiting_does_not_help(source, dsn, reason):
    """
    What waiting does not help is refused at once, as UNABLE.
    """
    dsn = dsn if dsn.startswith("postgresql") else source.dsn(database="other").get_secret_value()
    database = read(dsn, DATABASE_WAIT_SECONDS="3600")
    with pytest.raises(UnidentifiedDatabaseError, match=reason):
        await database.check()

    assert database.verdict is Verdict.UNABLE


@asynccontextmanager
async def tls_front(directory, certificate):
    """A TCP server that speaks Postgres' TLS, and hands what is in it to a socket directory."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    async def pump(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader, writer):
        await reader.readexactly(8)
        writer.write(b"S")
        try:
            await writer.start_tls(context)
        except (ssl.SSLError, ConnectionError):
            writer.transport.abort()
            return
        back_reader, back_writer = await asyncio.open_unix_connection(directory / ".s.PGSQL.5432")
        await asyncio.gather(pump(reader, back_writer), pump(back_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("issuer", "name", "found", "verdict"),
    [
        ("ours", "localhost", "verified", Verdict.MATCH),
        ("another", "localhost", UNKNOWN_ISSUER, Verdict.MISMATCH),
        ("ours", "elsewhere", WRONG_NAME, Verdict.MISMATCH),
    ],
    ids=["right", "wrong-authority", "wrong-name"],
)
async def test_certificate(source, tmp_path, issuer, name, found, verdict):
    """
    With DATABASE_CA_FILE only a server with a certificate of that authority for that name matches.
    """
    authorities = {"ours": trustme.CA(), "another": trustme.CA()}
    authorities["ours"].cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authorities[issuer].issue_cert(name)
    password = source.target().password.get_secret_value()
    async with tls_front(source.socket_dir, certificate) as port:
        dsn = f"postgresql://app:{password}@localhost:{port}/monolith"
        database = read(dsn, DATABASE_CA_FILE=str(tmp_path / "ca.pem"))
        if verdict is Verdict.MATCH:
            await database.check()
        else:
            with pytest.raises(WrongDatabaseError, match="expected certificate"):
                await database.check()

    expected = "one for localhost from DATABASE_CA_FILE"
    assert database.facts["certificate"] == Fact("certificate", expected, found, verdict)
    assert database.verdict is verdict


async def test_plain_server_with_a_certificate_expected(source, tmp_path):
    """
    With DATABASE_CA_FILE a server without TLS is never spoken to in the clear.
    """
    heard, gone = [], asyncio.Event()

    async def no_tls(reader, writer):
        heard.append(await reader.read(8))
        writer.write(b"N")
        heard.append(await reader.read(1024))
        writer.close()
        gone.set()

    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    server = await asyncio.start_server(no_tls, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        database = read(
            f"postgresql://app:hunter2@localhost:{port}/d",
            DATABASE_CA_FILE=str(tmp_path / "ca.pem"), DATABASE_WAIT_SECONDS="3600",
        )  # fmt: skip
        with pytest.raises(UnidentifiedDatabaseError):
            await database.check()
        await gone.wait()

    assert len(heard[0]) == 8
    assert heard[1] == b""


@pytest.mark.parametrize("content", ["", "not a certificate"], ids=["empty", "text"])
def test_useless_ca_file(tmp_path, content):
    """
    A DATABASE_CA_FILE without certificates is refused by name, not ignored.
    """
    (tmp_path / "ca.pem").write_text(content)
    expected = re.escape(
        "settings: expected DATABASE_CA_FILE to hold PEM certificates, the file says otherwise. "
        "Correct it."
    )
    with pytest.raises(SettingsError, match=f"{expected}$"):
        read("postgresql://a:b@h/d", DATABASE_CA_FILE=str(tmp_path / "ca.pem"))


def test_ca_file_for_a_socket(tmp_path):
    """
    A DATABASE_CA_FILE for a socket promises what cannot be kept, and is refused.
    """
    (tmp_path / "ca.pem").write_text("")
    expected = (
        "settings: DATABASE_CA_FILE is set and DATABASE_URL names a socket, which has no TLS. "
        "Unset it."
    )
    with pytest.raises(SettingsError, match=f"{expected}$"):
        read("postgresql://a:b@/d?host=/run", DATABASE_CA_FILE=str(tmp_path / "ca.pem"))


def test_asyncpg_has_no_parameter_that_we_leave_open():
    """
    Every parameter of asyncpg.connect that the environment can fill in is given explicitly.
    """
    import inspect  # noqa: PLC0415  only here

    ours = set(read("postgresql://a:b@h/d").target.parameters(tls=False))
    tuning = {"loop", "timeout", "command_timeout", "connection_class", "record_class"}
    tuning |= {
        name for name in inspect.signature(asyncpg.connect).parameters if "statement" in name
    }  # noqa: TID251

    assert set(inspect.signature(asyncpg.connect).parameters) == ours | tuning  # noqa: TID251  asked, not called
