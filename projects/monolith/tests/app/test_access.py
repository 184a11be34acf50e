import hmac
import json
import time

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm
from structlog.testing import capture_logs

from app.access import Rules
from shared.database import Database
from shared.errors import NoAccessError, SettingsError
from shared.settings import Settings
from tests.app.behind import HEADER, TCP, Behind, encoded
from tests.environment import ACCESS, environment
from tests.team import CLIENT, EMAIL, Team, new_key

SOCKET = "postgresql://app:secret@/monolith?host=/run/monolith-pg-pr-7"


@pytest.fixture(scope="module")
def team():
    """A team with one key; tests that change its keys make one of their own."""
    return Team()


@pytest.fixture
def behind(team):
    """An app behind the door of a team."""
    return Behind(team)


@pytest.mark.parametrize(
    ("make", "identity"),
    [
        (Team.token, EMAIL),
        (lambda team: team.token(aud=ACCESS["ACCESS_AUD"]), EMAIL),
        (lambda team: team.token(email="Grace@Example.COM"), "grace@example.com"),
        (lambda team: team.token(exp=int(time.time()) - 20), EMAIL),
        (Team.machine, CLIENT),
    ],
    ids=["person", "plain-audience", "other-case", "within-leeway", "machine"],
)
async def test_let_in(behind, team, make, identity):
    """
    People and machines on the list are let in, and what is behind the door is told who asks.
    """
    answer = await behind.get(make(team))

    assert (answer.status_code, behind.reached) == (200, [identity])


def unsigned(team):
    """Make a token with `alg: none`."""
    return b".".join([encoded({"alg": "none", "kid": "one"}), encoded(team.claims()), b""])


def confused(team):
    """Sign with HS256, and the public key as the secret."""
    public = team.keys["one"].public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    body = encoded({"alg": "HS256", "kid": "one"}) + b"." + encoded(team.claims())
    body = body.replace(b"=", b"")
    return body + b"." + encoded(hmac.digest(pem, body, "sha256")).replace(b"=", b"")


def self_signed(team):
    """Sign with a key of one's own, under the team's key name, and offer that key in the header."""
    key = new_key()
    header = {"kid": "one", "jku": "https://evil.example/certs"}
    return jwt.encode(team.claims(), key, "RS256", headers=header)


def changed(team):
    """Change the claims of a signed token."""
    head, _, signature = team.token().split(".")
    return ".".join([head, encoded(team.claims(email="grace@example.com")).decode(), signature])


def headed(team, **headers):
    """Sign a person's claims with the team's key, under further headers."""
    return jwt.encode(team.claims(), team.keys["one"], "RS256", headers={"kid": "one"} | headers)


def offered(team, **headers):
    """Sign with a key of one's own, and offer it."""
    return jwt.encode(team.claims(), FOREIGN, "RS256", headers={"kid": "one"} | headers)


def signed_bytes(team, claims):
    """Sign whatever a library would not, with the team's key."""
    return jwt.PyJWS().encode(
        json.dumps(claims).encode(), team.keys["one"], "RS256", headers={"kid": "one"}
    )


def signed(team, **others):
    """Sign a person's claims, but for others that a library would not sign."""
    return signed_bytes(team, team.claims() | others)


FOREIGN = new_key()
NOW = int(time.time())
FORGED = {
    "unsigned": unsigned,
    "hs256-with-public-key": confused,
    "self-signed": self_signed,
    "changed": changed,
    "ps256": lambda t: jwt.encode(t.claims(), t.keys["one"], "PS256", headers={"kid": "one"}),
    "no-kid": lambda t: jwt.encode(t.claims(), t.keys["one"], "RS256"),
    "no-exp": lambda t: t.token(exp=None),
    "no-iat": lambda t: t.token(iat=None),
    "no-iss": lambda t: t.token(iss=None),
    "no-aud": lambda t: t.token(aud=None),
    "expired": lambda t: t.token(exp=NOW - 60),
    "not-yet": lambda t: t.token(nbf=NOW + 600),
    "from-the-future": lambda t: t.token(iat=NOW + 600),
    "other-audience": lambda t: t.token(aud=["b" * 64]),
    "empty-audience": lambda t: t.token(aud=[]),
    "other-issuer": lambda t: t.token(iss="https://evil.cloudflareaccess.com"),
    "issuer-with-slash": lambda t: t.token(iss=t.issuer + "/"),
    "organisation-token": lambda t: t.token(type="org"),
    "no-type": lambda t: t.token(type=None),
    "endless-number": lambda t: t.token(exp=float("inf")),
    "too-long": lambda t: t.token(padding="x" * 9000),
    "padded": lambda t: t.token() + "==",
    "comma": lambda t: t.token() + ",",
    "two-in-one": lambda t: f"{t.token()}, {t.token()}",
    "bearer": lambda t: "Bearer " + t.token(),
    "broken-in-two": lambda t: t.token()[:-9] + " " + t.token()[-9:],
    "blank": lambda _: " \t ",
    "dots": lambda _: "..",
    "critical-header": lambda t: headed(t, crit=["exp"]),
    "unencoded-payload": lambda t: headed(t, b64=False, crit=["b64"]),
    "numeric-kid": lambda _: encoded({"alg": "RS256", "kid": 1}) + b".e30.e30",
    "listed-kid": lambda _: encoded({"alg": "RS256", "kid": ["one"]}) + b".e30.e30",
    "huge-kid": lambda _: encoded({"alg": "RS256", "kid": "k" * 5000}) + b".e30.e30",
    "own-key-offered": lambda t: offered(t, jwk=RSAAlgorithm.to_jwk(FOREIGN.public_key(), True)),
    "own-chain-offered": lambda t: offered(t, x5u="https://evil.example/c", x5c=["MIIB"]),
    "audience-of-numbers": lambda t: t.token(aud=[1]),
    "audience-with-a-number": lambda t: t.token(aud=[t.claims()["aud"][0], 1]),
    "audience-as-object": lambda t: t.token(aud={t.claims()["aud"][0]: True}),
    "exp-as-text": lambda t: t.token(exp=str(NOW + 600)),
    "exp-in-a-list": lambda t: t.token(exp=[NOW + 600]),
    "exp-true": lambda t: t.token(exp=True),
    "exp-not-a-number": lambda t: t.token(exp=float("nan")),
    "exp-of-5000-digits": lambda t: t.token(exp="9" * 5000),
    "subject-as-number": lambda t: signed(t, sub=3),
    "issuer-in-a-list": lambda t: signed(t, iss=[t.issuer]),
    "claims-in-a-list": lambda t: signed_bytes(t, [t.claims()]),
    "nested": lambda _: encoded(b"[" * 5000) + b".e30.e30",
    "nested-claims": lambda t: t.token().split(".")[0].encode() + b"." + encoded(b"[" * 5000),
    "empty": lambda _: "",
    "text": lambda _: "true",
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_forged(behind, team, forge):
    """
    A token that is not the team's for this application is a 401, and nothing behind is reached.
    """
    refused = await behind.get(forge(team))
    reached = list(behind.reached)
    genuine = await behind.get(team.token())

    assert (refused.status_code, reached) == (401, [])
    assert refused.headers["X-Origin-Access"] == "denied"
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert (genuine.status_code, behind.reached) == (200, [EMAIL])
    assert behind.fetched == 1


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "eve@example.com"},
        {"email": None},
        {"email": ["ada@example.com"]},
        {"email": "ada@example.com, eve@example.com"},
        {"email": None, "common_name": "f" * 32 + ".access", "sub": ""},
        {"email": None, "common_name": CLIENT},
        {"email": "eve@example.com", "common_name": CLIENT, "sub": ""},
        {"common_name": "f" * 32 + ".access"},
    ],
    ids=[
        "person", "nobody", "list", "two", "machine", "machine-with-a-subject",
        "person-as-machine", "machine-as-person",
    ],
)  # fmt: skip
async def test_not_on_the_list(behind, team, claims):
    """
    A valid token of somebody who is not on the list is a 403, and nothing behind is reached.
    """
    refused = await behind.get(team.token(**claims))

    assert (refused.status_code, behind.reached) == (403, [])
    assert (await behind.get(team.token())).status_code == 200


async def test_only_the_one_header_counts(behind, team):
    """
    No token, two of them, a cookie, or a header that says who one is: 401.
    """
    spoofed = {
        "Cookie": f"CF_Authorization={team.token()}",
        "Cf-Access-Authenticated-User-Email": EMAIL,
        "X-Auth-Email": EMAIL,
        "Authorization": f"Bearer {team.token()}",
    }
    answers = [
        await behind.get(),
        await behind.get(team.token(), team.token()),
        await behind.get(team.token(), "x"),
        await behind.get(**spoofed),
    ]

    assert [answer.status_code for answer in answers] == [401] * 4
    assert behind.reached == []
    assert (await behind.get(team.token(), **spoofed)).status_code == 200


@given(token=st.binary(max_size=200).filter(lambda raw: not set(raw) & {0, 10, 13}))
async def test_any_bytes(team, token):
    """
    Whatever bytes stand in the header, the answer is a 401 and never an error of ours.
    """
    behind = Behind(team)

    assert (await behind.get(token)).status_code == 401
    assert behind.reached == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes(behind, path):
    """
    The kubelet's probes need no token; a path that only looks like theirs does.
    """
    assert (await behind.get(path=path)).status_code == 200
    for lookalike in (
        f"{path}/", f"/{path}", f"{path}/x", f"/x{path}", path.upper(), f"{path};x",
        f"/%{ord(path[1]):x}{path[2:]}", f"{path}%3fx", f"{path}%00", f"{path}%2f",
    ):  # fmt: skip
        assert (await behind.get(path=lookalike)).status_code == 401, lookalike
    assert behind.reached == [None]


@pytest.mark.parametrize(
    "change",
    [{"method": "HEAD"}, {"method": "POST"}, {"method": "OPTIONS"}, {"root_path": "/healthz"}],
    ids=["head", "post", "preflight", "mounted"],
)
async def test_only_the_probe_itself(behind, change):
    """
    On a probe's path nothing is answered but its plain GET, and not below a mount of that name.
    """
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": []}
    await behind.app(scope | change, None, send)
    await behind.app(scope, None, send)

    assert [message["status"] for message in sent if "status" in message] == [401, 200]
    assert behind.reached == [None]


async def test_other_script_is_another_person(team):
    """
    An address that only Unicode's case folding makes equal to a listed one is nobody's.
    """
    behind = Behind(team, ACCESS_EMAILS="Kim@example.com")
    kelvin = await behind.get(team.token(email="\N{KELVIN SIGN}im@example.com"))
    kim = await behind.get(team.token(email="kIM@Example.com"))

    assert (kelvin.status_code, kim.status_code) == (403, 200)
    assert behind.reached == ["kim@example.com"]


@pytest.mark.parametrize("extension", [True, False], ids=["with-answer", "without"])
async def test_websocket(behind, team, extension):
    """
    A WebSocket without a token is never accepted, not even on a probe's path; with one it is.
    """
    sent = []

    async def send(message):
        sent.append(message)

    def scope(**more):
        extensions: dict[str, object] = {"websocket.http.response": {}} if extension else {}
        return {
            "type": "websocket",
            "path": "/healthz",
            "headers": [],
            "extensions": extensions,
        } | more

    await behind.app(scope(), None, send)
    refused = (sent[0]["type"], sent[0].get("status", sent[0].get("code")))

    assert refused == (
        ("websocket.http.response.start", 401) if extension else ("websocket.close", 1008)
    )
    assert behind.reached == []

    header = (HEADER.lower().encode(), team.token().encode())
    await behind.app(scope(headers=[header]), None, send)

    assert behind.reached == [EMAIL]


async def test_refusals_are_counted_and_logged(behind, team):
    """
    A refusal is logged with its reason and without the token, and counted by reason.
    """
    token = team.token(exp=NOW - 60)
    with capture_logs() as logged:
        await behind.get(token)
        await behind.get(token)

    assert [line["event"] for line in logged] == ["request refused"] * 2
    assert "ExpiredSignature" in logged[0]["reason"]
    assert token not in str(logged)
    assert list(behind.door.refused.values()) == [2]


@pytest.mark.parametrize("left_out", list(ACCESS))
def test_settings_belong_together(left_out):
    """
    Some of ACCESS_* without the others stop startup, and the message names what lacks.
    """
    some = {name: value for name, value in ACCESS.items() if name != left_out}
    with environment(PR_ENV="true", **ACCESS):
        Settings()

    with environment(PR_ENV="true", **some), pytest.raises(SettingsError, match=left_out):
        Settings()
    alone = {left_out: ACCESS[left_out]}
    lacking = " and ".join(some)
    with environment(PR_ENV="true", **alone), pytest.raises(SettingsError, match=lacking):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCESS_TEAM_DOMAIN", "http://team.cloudflareaccess.com"),
        ("ACCESS_TEAM_DOMAIN", "https://team.cloudflareaccess.com/"),
        ("ACCESS_TEAM_DOMAIN", "https://a@team.cloudflareaccess.com"),
        ("ACCESS_TEAM_DOMAIN", "team.cloudflareaccess.com"),
        ("ACCESS_AUD", ""),
        ("ACCESS_AUD", "a" * 63),
        ("ACCESS_AUD", "A" * 64),
        ("ACCESS_EMAILS", ""),
        ("ACCESS_EMAILS", "ada@example.com,"),
        ("ACCESS_EMAILS", "*"),
        ("ACCESS_SERVICE_CLIENTS", ""),
        ("ACCESS_SERVICE_CLIENTS", "0123456789abcdef"),
    ],
)
def test_settings_are_strict(name, value):
    """
    A value of ACCESS_* that is not exactly what is expected stops startup and is not repeated.
    """
    wrong = ACCESS | {name: value}
    sentence = f"expected {name} to be"
    with environment(PR_ENV="true", **wrong), pytest.raises(SettingsError, match=sentence):
        Settings()


def test_production_has_no_door():
    """
    ACCESS_* in production stops startup: nobody may believe that it shuts something there.
    """
    with environment(**ACCESS), pytest.raises(SettingsError, match="PR_ENV is not true"):
        Settings()


@pytest.mark.parametrize(
    "variables",
    [{"DATABASE_URL": TCP}, {"DATABASE_URL": SOCKET, "LISTEN_HOST": "0.0.0.0"}],
    ids=["cluster", "open-address"],
)
def test_open_preview_is_refused(variables):
    """
    A preview that others can reach does not start without ACCESS_*; production and a twin do.
    """

    def rules(**more):
        with environment(**variables | more):
            settings = Settings()
            return Rules.from_settings(settings, Database.from_settings(settings).target)

    with pytest.raises(NoAccessError):
        rules(PR_ENV="true")
    assert rules(PR_ENV="true", **ACCESS).audience == "a" * 64
    assert rules(DATABASE_URL=SOCKET) is None
    assert rules(PR_ENV="true", DATABASE_URL=SOCKET, LISTEN_HOST="127.0.0.1") is None


async def test_open_preview_as_a_process(monolith):
    """
    `monolith serve` of an open preview ends with exit 78, before any packet to its database.
    """
    refused = await monolith("serve", PR_ENV="true", DATABASE_URL=TCP)

    assert (refused.code, refused.log[0]["step"]) == (78, "access")
    assert "ACCESS_TEAM_DOMAIN" in refused.log[0]["error"]


async def test_door_of_a_process(served, clone_7, tmp_path):
    """
    A real preview lets in by keys fetched over HTTPS, and says who asks, here and in its log.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with Team().serve(authority) as team:
        variables = ACCESS | {
            "ACCESS_TEAM_DOMAIN": team.issuer,
            "DATABASE_URL": clone_7.dsn().get_secret_value(),
            "PR_ENV": "true",
            "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        }
        async with served(**variables) as (client, process):
            refused = [await client.get(path) for path in ("/api/preview", "/docs", "/nothing")]
            upgrade = await client.get(
                "/api/preview", headers={"Connection": "Upgrade", "Upgrade": "websocket"}
            )
            person = await client.get("/api/preview", headers={HEADER: team.token()})
            machine = await client.get("/api/preview", headers={HEADER: team.machine()})

    assert [answer.status_code for answer in [*refused, upgrade]] == [401] * 4
    assert (person.status_code, person.json()["identity"]) == (200, EMAIL)
    assert (machine.status_code, machine.json()["identity"]) == (200, CLIENT)
    assert person.json()["access"] == team.issuer
    assert sum(person.json()["counters"]["requests_refused"].values()) == 4
    assert team.fetched == 1
    logged = [line for line in process.log if line.get("identity")]
    assert [line["identity"] for line in logged] == [EMAIL, CLIENT]
