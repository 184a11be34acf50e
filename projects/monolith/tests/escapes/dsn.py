"""Attempts to lead a preview to production's database by its environment."""

import asyncio
from typing import Any

import asyncpg

from shared.database import Database
from shared.dsn import parse
from shared.identity import Expected
from tests.escapes.outside import CLONE_HOST, ELSEWHERE, PRODUCTION_ADDRESS, Outside
from tests.escapes.registry import Chapter, Layer

dsn = Chapter("DATABASE_URL and what surrounds it")
HARM = "INSERT INTO harm DEFAULT VALUES"
_APP = "postgresql://app:x@"
_CLONE = f"{CLONE_HOST}:{{port}}"
_ELSEWHERE = f"{ELSEWHERE}:{{port}}"
_PRODUCTION = "monolith-pg-rw:{port}"


def _url(name: str, what: str, url: str, layer: Layer = Layer.DSN, **more: Any) -> None:
    variables = {key: more.pop(key) for key in list(more) if key.startswith("PG")}
    variables |= {"PR_ENV": "true", "DATABASE_URL": url}
    dsn.start(name, what, layer, variables=variables, **more)


_url("production", "Production's own DSN", f"{_APP}{_PRODUCTION}/monolith", Layer.IDENTITY)
_url("address", "An IP address", f"{_APP}{_ELSEWHERE}/monolith", Layer.IDENTITY)
_url(
    "two-ats",
    "A second `@`: asyncpg splits at the first, urllib at the last",
    f"postgresql://u:x@{_PRODUCTION},x@{_CLONE}/monolith",
)
_url("host-list", "The clone first and production second", f"{_APP}{CLONE_HOST}:1,{_PRODUCTION}/d")
_url(
    "host-list-by-role",
    "A list, and `target_session_attrs` that chooses among it",
    f"{_APP}{CLONE_HOST}:1,{_PRODUCTION}/d?target_session_attrs=standby",
)
_url(
    "query-host",
    "`?host=` where there is no other",
    f"{_APP}/monolith?host={ELSEWHERE}&port={{port}}",
)
_url(
    "query-hosts",
    "`?host=` twice: the last one counts",
    f"{_APP}/d?host=/run/monolith-pg-pr-7&host={ELSEWHERE}&port={{port}}",
)
_url(
    "slash-in-password",
    "An unescaped `/` ends the host early",
    f"postgresql://{_ELSEWHERE}/x@{CLONE_HOST}/d",
)
_url(
    "question-in-password",
    "An unescaped `?` does so, too",
    f"postgresql://{_ELSEWHERE}?x=1@{CLONE_HOST}/d",
)
_url(
    "at-in-query",
    "The clone's name behind an `@` in the query",
    f"{_APP}{_ELSEWHERE}/d?application_name=@{CLONE_HOST}",
)
_url("fragment", "The clone's name in a fragment", f"{_APP}{_ELSEWHERE}/d#@{CLONE_HOST}")
_url(
    "escaped-host",
    "A host in percent signs: asyncpg decodes it, urllib does not",
    f"{_APP}%6Donolith-pg-rw:{{port}}/d",
)
_url("escaped-socket", "A socket directory as a host in percent signs", f"{_APP}{{quoted_home}}/d")
_url(
    "nul",
    "A NUL, behind which uvloop reads nothing",
    f"{_APP}{ELSEWHERE}%00.{CLONE_HOST}:{{port}}/d",
    uvloop=True,
)
_url(
    "full-width",
    "A full-width letter, which a resolver takes for a plain one",
    f"{_APP}\uff4donolith-pg-rw:{{port}}/d",
)
_url("full-width-dot", "A full-width dot", f"{_APP}{CLONE_HOST}\u3002evil.example:{{port}}/d")
_url(
    "homograph",
    "A Cyrillic letter in the clone's name",
    f"{_APP}m\u043enolith-pg-pr-7-rw:{{port}}/d",
)
_url("tab", "A tab, which urllib takes away", f"{_APP}{ELSEWHERE}:{{port}}/d\t")
_url("short-address", "An address that only C reads as one", f"{_APP}127.9:{{port}}/d")
_url("decimal-address", "An address as one number", f"{_APP}2130706441:{{port}}/d")
_url("hexadecimal-address", "An address in hexadecimal", f"{_APP}0x7f.0.0.9:{{port}}/d")
_url(
    "ipv6-mapped-address",
    "An IPv4 address in the clothes of IPv6",
    f"{_APP}[::ffff:{ELSEWHERE}]:{{port}}/d",
    Layer.IDENTITY,
)
_url("trailing-dot", "A name with a dot behind it", f"{_APP}monolith-pg-rw.:{{port}}/d")

for _name, _what, _host in (
    ("another-domain", "The clone's name in another domain", f"{CLONE_HOST}.ns.evil.example"),
    ("another-namespace", "Production, spelt out", "monolith-pg-rw.prod.svc.cluster.local"),
    ("longer-number", "A clone's name that goes on", "monolith-pg-pr-7-rw0"),
    ("sub-domain", "The clone's name before production's", "monolith-pg-pr-7.monolith-pg-rw"),
    ("read-only-service", "The clone's name, and another of its Services", "monolith-pg-pr-7-ro"),
    ("capitals", "Production in capitals", "MONOLITH-PG-RW"),
):
    _url(_name, _what, f"{_APP}{_host}:{{port}}/d", Layer.IDENTITY)

dsn.start(
    "another-clone",
    "The clone of another pull request than PR_NUMBER says",
    Layer.IDENTITY,
    variables={
        "PR_ENV": "true",
        "PR_NUMBER": "7",
        "DATABASE_URL": f"{_APP}monolith-pg-pr-8-rw:{{port}}/d",
    },
)
_url("no-host", "No host, and PGHOST", "postgresql:///d", PGHOST=ELSEWHERE, PGPORT="{port}")
_url("empty-dsn", "An empty DSN, and PGHOST", "", Layer.SETTINGS, PGHOST=ELSEWHERE, PGPORT="{port}")
dsn.start(
    "unset",
    "No DSN, and PGHOST",
    Layer.SETTINGS,
    variables={"PR_ENV": "true", "PGHOST": ELSEWHERE, "PGPORT": "{port}"},
)
_url(
    "pgport",
    "No port, and PGPORT, where clone and production have one address",
    f"{_APP}{CLONE_HOST}/monolith",
    PGPORT="{port}",
    names={CLONE_HOST: ELSEWHERE},
    legal=True,
)
_url(
    "service",
    "A service file that names the host",
    "postgresql:///d?service=production",
    PGSERVICEFILE="{home}/services",
)
_url(
    "pgtargetsessionattrs",
    "A list, and PGTARGETSESSIONATTRS that chooses among it",
    f"{_APP}{CLONE_HOST}:1,{_PRODUCTION}/d",
    PGTARGETSESSIONATTRS="standby",
)
_url(
    "dns-alias",
    "The clone's name, which leads to production: a CNAME, an ExternalName, a hosts file",
    "{source_by_tcp}",
    Layer.IDENTITY,
    names={CLONE_HOST: PRODUCTION_ADDRESS},
)
_url(
    "socket-alias",
    "The clone's socket directory, which is a link to production's",
    "{source_by_alias}",
    Layer.IDENTITY,
)
_url(
    "search-path",
    "The same, and a function in the search path that makes `current_setting()` lie",
    "{liar_by_alias}",
    Layer.IDENTITY,
    asks=True,
)
_url(
    "search-path-in-query",
    "The search path in the DSN",
    "{source_by_tcp}?search_path=evil,pg_catalog,public",
    names={CLONE_HOST: PRODUCTION_ADDRESS},
    asks=True,
)


@dsn.tries(
    Layer.DSN,
    variables={
        "PGHOST": "{source_directory}",
        "PGHOSTADDR": ELSEWHERE,
        "PGPORT": "5432",
        "PGUSER": "app",
        "PGPASSWORD": "{source_password}",
        "PGDATABASE": "monolith",
        "PGSERVICE": "production",
        "PGSERVICEFILE": "{home}/services",
        "PGPASSFILE": "{home}/passwords",
        "PGSSLMODE": "disable",
        "PGSSLNEGOTIATION": "postgres",
        "PGTARGETSESSIONATTRS": "any",
        "PGOPTIONS": "-c search_path=evil",
        "PGKRBSRVNAME": "postgres",
        "PGGSSLIB": "gssapi",
        "PGAPPNAME": "monolith",
    },
)
def every_pg_variable(out: Outside) -> None:
    """Every `PG*` variable at once, beside the clone's own DSN."""

    async def harm() -> None:
        if out.preview:
            async with out.database.pool() as pool:
                await pool.execute(HARM)
        else:
            await (await asyncpg.connect()).execute(HARM)

    asyncio.run(harm())


def _pool(out: Outside) -> Any:
    """Open the app's pool; in the control, one of asyncpg's own to the clone."""
    return out.database.pool() if out.preview else asyncpg.create_pool(out.clone, min_size=1)


@dsn.tries(Layer.IDENTITY)
def set_connect_args(out: Outside) -> None:
    """`Pool.set_connect_args()`, which leads a pool that is open elsewhere."""

    async def harm() -> None:
        async with _pool(out) as pool:
            pool.set_connect_args(out.source)
            await pool.expire_connections()
            await pool.execute(HARM)

    asyncio.run(harm())


@dsn.tries(Layer.IDENTITY)
def leaked_dsn(out: Outside) -> None:
    """Production's DSN as an argument of a pool that has the app's hook."""

    async def harm() -> None:
        hook = {"connect": out.database.connect} if out.preview else {}
        async with asyncpg.create_pool(out.source, min_size=1, **hook) as pool:
            await pool.execute(HARM)

    asyncio.run(harm())


@dsn.tries(Layer.TRIPWIRE)
def target_exchanged(out: Outside) -> None:
    """Another target and another expectation, written into the app's database object."""
    other = Database.from_settings(out.settings)
    other.target = parse(out.source)
    other.expected = Expected(preview=False)

    async def harm() -> None:
        async with other.pool() as pool:
            await pool.execute(HARM)

    asyncio.run(harm())
