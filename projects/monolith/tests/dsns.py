"""DSNs by grammar, the environments that would mislead a driver, and the judge of both."""

import os
from ipaddress import IPv6Address
from pathlib import Path
from random import Random
from unittest.mock import patch
from urllib.parse import quote

import asyncpg

from shared.dsn import Target, parse
from shared.errors import TargetError
from shared.identity import Expected, Verdict
from tests.wire import RecordingLoop, Spoken

NUMBER = 7
CLONE = f"monolith-pg-pr-{NUMBER}"
PRODUCTION = "monolith-pg-rw"
NAMESPACED = ("", ".monolith", ".monolith.svc", ".monolith.svc.cluster.local")
HOSTS = (
    *(f"{CLONE}-rw{form}" for form in NAMESPACED),
    *(f"{PRODUCTION}{form}" for form in NAMESPACED),
    *(f"{CLONE}0-rw", f"{CLONE}-ro", f"{CLONE}-r", CLONE, f"{CLONE}-rw.evil.example", "localhost"),
    *(f"{PRODUCTION}.{CLONE}-rw", f"{CLONE}-RW", "127.0.0.1", "127.1", "2130706433", "[::1]"),
    *("[::ffff:127.0.0.1]", f"{CLONE}-rw.", "\uff4donolith-pg-rw", "m\u043enolith-pg-rw"),
    *(f"{CLONE}%2Drw", f"{PRODUCTION}%00.{CLONE}-rw", f"{CLONE}-rw\u3002monolith", "%2Frun%2Fx"),
)
DIRECTORIES = (
    *(f"/run/{CLONE}", f"/var/lib/m/run/{CLONE}", f"/run/{CLONE}0", f"/run/{CLONE}/", "/run"),
    *(f"/run/{CLONE}-rw", f"/{CLONE}/..", f"/run/{CLONE}/.s.PGSQL.5432", f"run/{CLONE}", "/", ""),
    *(f"/run/{PRODUCTION}", PRODUCTION, f"/run/{CLONE},/run/x", f"/run/{CLONE}\0"),
)
TWISTS = (
    *("@", ":", "/", "?", "&", "=", ",", "#", "%", "%2F", "%40", "%00", "%2C", "%ff", "\0", "\n"),
    *("\t", "\\", " ", ".", "+", ";", "[", "]", "postgresql://", "5432", "\u00e9", "\uff0e", "'"),
    *(f"@{PRODUCTION}", f",{PRODUCTION}", f"{PRODUCTION}:5432,", f"@{PRODUCTION}:1,x", "x:y@"),
    *(
        "?host=",
        "?host",
        "?host=/run/x",
        f"?host={PRODUCTION}",
        f"&host={PRODUCTION}",
        "?service=prod",
        "&port=1",
    ),
    *("?port=1", "?dbname=prod", "?user=root", "?password=x", "?sslmode=disable", "?options=-c"),
    *("?passfile=/tmp/x", "?target_session_attrs=standby", f"?hostaddr={PRODUCTION}", "?"),
)
TEXTS = ("app", "monolith", "p@w", "p:w", "p/w", "p?w", "p#w", "p,w", "%41", "x.y", "\u00e9", "a b")
PORTS = ("", "", "", ":5432", ":5432", ":1", ":65535", ":65536", ":0", ":05432", ":", ":x")
VARIABLES = (
    *("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSERVICE"),
    *("PGSSLMODE", "PGSSLROOTCERT", "PGSSLNEGOTIATION", "PGTARGETSESSIONATTRS", "PGOPTIONS"),
    *("PGKRBSRVNAME", "PGGSSLIB", "PGSSLMINPROTOCOLVERSION", "PGAPPNAME", "PGCLIENTENCODING"),
)
VALUES = ("prod", PRODUCTION, "/run/prod", "1", "5432", "standby", "require", "direct", "any", "")


def generate(random: Random) -> str:
    """Make a DSN: as CloudNativePG or an engine of ours issues it, or near that, or far away."""
    dsn = _well_formed(random)
    for _ in range(random.choice((0, 0, 1, 1, 2, 4))):
        dsn = twist(dsn, random)
    return dsn


def twist(dsn: str, random: Random) -> str:
    """Change a DSN in one place: put something in, take something out, or say something twice."""
    at, to = sorted(random.randint(0, len(dsn)) for _ in range(2))
    match random.choice(("insert", "insert", "append", "replace", "cut", "double", "case")):
        case "insert":
            return dsn[:at] + random.choice(TWISTS) + dsn[at:]
        case "append":
            return dsn + random.choice(TWISTS)
        case "replace":
            return dsn[:at] + random.choice(TWISTS) + dsn[to:]
        case "cut":
            return dsn[:at] + dsn[min(to, at + 3) :]
        case "double":
            return dsn[:to] + dsn[at:]
        case _:
            return dsn[:at] + dsn[at:to].swapcase() + dsn[to:]


def misleading(random: Random, home: Path) -> dict[str, str]:
    """Make PG* variables, and name the files that `mislead` has written, or a home with them."""
    found = {name: random.choice(VALUES) for name in VARIABLES if random.random() < 0.3}
    files = {"PGSERVICEFILE": ".pg_service.conf", "PGPASSFILE": ".pgpass"}
    found |= {name: str(home / file) for name, file in files.items() if random.random() < 0.5}
    return found | {"HOME": str(home)}


def mislead(home: Path) -> None:
    """Write the files in which a driver looks for hosts, users and passwords."""
    service = f"host={PRODUCTION}\nport=1\nuser=root\npassword=stolen\ndbname=prod\n"
    (home / ".pg_service.conf").write_text(f"[prod]\n{service}")
    (home / ".pgpass").write_text("*:*:*:*:stolen\n")
    (home / ".pgpass").chmod(0o600)


class Judge:
    """
    Judges what comes of a DSN by what asyncpg then does, not by what we say it would.

    Args:
        home: a directory in which `mislead` has written its files.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._loop = RecordingLoop()
        self._ours = Expected(preview=True, number=NUMBER)

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()

    def judge(self, dsn: str, random: Random) -> str:
        """
        Say whether a preview refuses a DSN, refuses where it leads, or takes it.

        Raises:
            AssertionError: asyncpg would go elsewhere than the target says, or as someone else;
                it reads a TCP address otherwise than we do; or the preview's verdict is not
                what the address deserves.
        """
        try:
            target = parse(dsn)
        except TargetError:
            return "refused"
        assert parse(written(target)) == target, dsn
        with patch.dict(os.environ, misleading(random, self._home)):
            spoken = self._loop.listen(asyncpg.connect(**target.parameters(tls=False)))
        assert spoken == said_by(target), (dsn, spoken)
        assert target.is_socket or spoken == self._as_the_driver_reads(dsn), (dsn, spoken)
        matches = self._ours.judge_host(target).verdict is Verdict.MATCH
        assert matches is leads_to_the_clone(spoken), (dsn, spoken)
        return "accepted" if matches else "elsewhere"

    def _as_the_driver_reads(self, dsn: str) -> Spoken:
        """Let asyncpg read the DSN itself, in an environment that says nothing."""
        named = {"application_name": "monolith"}
        with patch.dict(os.environ, {"HOME": os.devnull}, clear=True):
            spoken = self._loop.listen(asyncpg.connect(dsn, ssl=False, server_settings=named))
        spoken.asked = [(_spelt_as_ours(str(host)), *rest) for host, *rest in spoken.asked]
        return spoken


def _spelt_as_ours(host: str) -> str:
    return str(IPv6Address(host)) if ":" in host else host.lower()


def said_by(target: Target) -> Spoken:
    """Say what is asked and said by a driver that does what the target says, and nothing else."""
    where: tuple[str | int, ...] = (target.host, target.port)
    if target.is_socket:
        where = (f"{target.host}/.s.PGSQL.{target.port}",)
    return Spoken(
        asked=[where],
        parameters={
            "client_encoding": "'utf-8'",
            "user": target.user,
            "database": target.database,
            "application_name": "monolith",
        },
        password=target.password.get_secret_value(),
    )


def written(target: Target) -> str:
    """Write a target as a DSN."""
    user, password, database = (
        quote(part, safe="")
        for part in (target.user, target.password.get_secret_value(), target.database)
    )
    login = f"{user}:{password}" if password else user
    if target.is_socket:
        return f"postgresql://{login}@:{target.port}/{database}?host={quote(target.host, safe='')}"
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"postgresql://{login}@{host}:{target.port}/{database}"


def leads_to_the_clone(spoken: Spoken) -> bool:
    """Tell whether every address is one of the clone's own, by a list and not by our patterns."""
    forms: tuple[list[str], ...] = ([], ["svc"], ["svc", "cluster", "local"])

    def is_clones(where: tuple[str | int, ...]) -> bool:
        if len(where) == 1:
            *_, directory, file = str(where[0]).split("/")
            return directory == CLONE and file.startswith(".s.PGSQL.")
        name, *rest = str(where[0]).split(".")
        return name == f"{CLONE}-rw" and rest[1:] in forms

    return bool(spoken.asked) and all(map(is_clones, spoken.asked))


def _well_formed(random: Random) -> str:
    def text() -> str:
        chosen = random.choice(TEXTS)
        return chosen if random.random() < 0.1 else quote(chosen, safe="")

    scheme = random.choice(("postgresql", "postgresql", "postgres"))
    password = f":{text()}" if random.random() < 0.9 else ""
    port = random.choice(PORTS)
    if random.random() < 0.25:
        directory = random.choice(DIRECTORIES)
        directory = quote(directory, safe=random.choice(("", "/")))
        return f"{scheme}://{text()}{password}@{port}/{text()}?host={directory}"
    host = random.choice(HOSTS[: random.choice((len(NAMESPACED), len(HOSTS)))])
    return f"{scheme}://{text()}{password}@{host}{port}/{text()}"
