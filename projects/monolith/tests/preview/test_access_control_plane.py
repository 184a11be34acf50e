import pytest
from pydantic import SecretStr

from preview.access_api import Api
from preview.access_control_plane import Admitted, ControlPlane
from preview.access_edge import Edge
from preview.access_hosts import Wildcard
from preview.access_verdict import Expected, Verdict
from tests.deploy.manifests import DEPLOY
from tests.fake_cloudflare_api import ACCOUNT, TOKEN, ZONE, days_from_now
from tests.fake_edge import LIVE, TEAM, WILDCARD, FakeEdge
from tests.team import AUD, CLIENT

PUBLIC = {"type": "public"}
TERRAFORM = (DEPLOY / "cloudflare/dns.tf").read_text()


@pytest.fixture
async def edge():
    """A Cloudflare that is well configured."""
    async with FakeEdge().serve() as running:
        yield running


async def told(edge, wildcard=WILDCARD, token=TOKEN):
    """Judge; gives each assertion that does not hold, with verdict and reason."""
    api = Api(Edge(edge), SecretStr(token), ACCOUNT, ZONE)
    admitted = Admitted(frozenset({"ada@example.com", "grace@example.com"}), frozenset({CLIENT}))
    plane = ControlPlane(api, Wildcard.parse(wildcard), Expected(TEAM, AUD, wildcard), admitted)
    return {
        name: (judged.verdict, judged.reason)
        for name, judged in await plane.judge()
        if judged.verdict is not Verdict.PROTECTED
    }


def second_application(api):
    """Cover the wildcard twice."""
    api.of("access/apps").append(api.app | {"id": "again", "name": "Again"})


def one_label(api):
    """Cover one label alone."""
    del api.app["destinations"][1]


def application_for_path(api):
    """Let another application take a path of every preview."""
    other = {"id": "other", "domain": f"{WILDCARD}/api", "aud": "c" * 64}
    api.of("access/apps").insert(0, other)


def application_for_name(api):
    """Let another application take one preview."""
    to = {**PUBLIC, "uri": LIVE}
    api.of("access/apps").append({"id": "other", "aud": "c" * 64, "destinations": [to]})


def include(**rule):
    """Let a policy include more."""
    return lambda api: api.group["include"].append(rule)


def machine(token):
    """Let a policy include another service token."""
    return lambda api: api.machines["include"].append({"service_token": {"token_id": token}})


def other_machine(api):
    """Let in a service token that exists and is not ours."""
    api.of("service_tokens").append(api.service_token | {"id": "t2", "client_id": "other.access"})
    machine("t2")(api)


def change(what, **changes):
    """Change an object of the account."""
    return lambda api: getattr(api, what).update(changes)


def record(**changes):
    """Add a DNS record."""
    return lambda api: api.of("dns_records").append({**api.record, **changes})


RED = {
    "no application": (
        change("app", domain="a.example.com", destinations=[]),
        "one application covers the wildcard", "EXPOSED", "found: none does",
    ),
    "two applications": (
        second_application, "one application covers the wildcard", "EXPOSED", "PR previews, Again",
    ),
    "one label": (
        one_label, "one application covers the wildcard", "EXPOSED", "lacks *.*.pr.example.com",
    ),
    "application for a path": (
        application_for_path, "no other application below it", "WRONG_APP", f"{WILDCARD}/api",
    ),
    "application for a name": (
        application_for_name, "no other application below it", "WRONG_APP", LIVE,
    ),
    "aud": (change("app", aud="d" * 64), "its audience", "WRONG_APP", "dddd"),
    "preflight": (
        change("app", options_preflight_bypass=True), "no preflight bypass", "EXPOSED", "OPTIONS",
    ),
    "bypass": (
        change("people", decision="bypass"), "its policies name who may enter", "EXPOSED",
        "decides bypass",
    ),
    **{
        kind: (include(**{kind: {}}), "its policies name who may enter", "EXPOSED", f"by {kind}")
        for kind in ("everyone", "any_valid_service_token", "login_method", "email_domain", "geo")
    },
    "another person": (
        include(email={"email": "eve@example.com"}), "its policies let in exactly them", "EXPOSED",
        "eve@example.com",
    ),
    "a person less": (
        change("group", include=[{"email": {"email": "ada@example.com"}}]),
        "its policies let in exactly them", "WRONG_APP", "does not let in grace@example.com",
    ),
    "another machine": (
        other_machine, "its policies let in exactly them", "EXPOSED", "other.access",
    ),
    "a machine that is gone": (
        machine("t9"), "its policies let in exactly them", "EXPOSED", "t9",
    ),
    "token ends": (
        change("service_token", expires_at=days_from_now(13)), "the service tokens last",
        "WRONG_APP", "ends on",
    ),
    "token disabled": (
        change("service_token", enabled=False), "the service tokens last", "WRONG_APP", "disabled",
    ),
    "certificate ends": (
        change("pack", certificates=[{"expires_on": days_from_now(13)}]),
        "the edge has a certificate", "WRONG_APP", "ends on",
    ),
    "certificate pending": (
        change("pack", status="pending_validation"), "the edge has a certificate", "WRONG_APP",
        "active",
    ),
    "certificate of others": (
        change("pack", hosts=["*.example.com"]), "the edge has a certificate", "WRONG_APP",
        "*.pr.example.com",
    ),
    "record past Cloudflare": (
        record(type="A", name=LIVE, content="192.0.2.1", proxied=False),
        "DNS leads to the tunnel, or nowhere", "EXPOSED", f"past Cloudflare: A {LIVE}",
    ),
    "record to elsewhere": (
        record(name=f"a.{LIVE}"), "DNS leads to the tunnel, or nowhere", "WRONG_APP",
        f"leads elsewhere: CNAME a.{LIVE}",
    ),
    "another origin": (
        change("record", content="elsewhere.example"), "DNS leads to the tunnel, or nowhere",
        "WRONG_APP", f"leads elsewhere: CNAME {WILDCARD}",
    ),
    "no record": (
        change("record", name="www.example.com"), "DNS leads to the tunnel, or nowhere",
        "WRONG_APP", f"no {WILDCARD}",
    ),
    "another team": (
        change("organization", auth_domain="other.cloudflareaccess.com"), "the team", "WRONG_APP",
        "other.cloudflareaccess.com",
    ),
    "not strict": (
        change("organization", strict_service_token_auth=False), "service tokens are strict",
        "WRONG_APP", "DEGRADED",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrongly", "assertion", "verdict", "reason"), RED.values(), ids=RED)
async def test_red(edge, wrongly, assertion, verdict, reason):
    """
    Each assertion holds for what Cloudflare should be told, and fails for each thing it should not.
    """
    assert await told(edge) == {}

    wrongly(edge.api)
    found = await told(edge)

    assert found[assertion][0] == verdict
    assert reason in found[assertion][1]


async def test_before_it_is_opened(edge):
    """
    A name that leads nowhere, as Terraform first makes it, is as it should be; none other is.
    """
    assert '"CNAME" : "AAAA"' in TERRAFORM
    assert '.cfargotunnel.com" : "100::"' in TERRAFORM

    edge.api.record |= {"type": "AAAA", "content": "100::"}

    assert await told(edge) == {}

    for changed, verdict in (({"content": "100::1"}, "WRONG_APP"), ({"proxied": False}, "EXPOSED")):
        record = edge.api.record | changed
        edge.api.of("dns_records")[-1] = record

        assert [each[0] for each in (await told(edge)).values()] == [verdict]


async def test_pages(edge):
    """
    What is on the last of several pages counts: the application is the 121st of the account.
    """
    assert await told(edge) == {}
    assert len([path for path in edge.api.asked if path.endswith("/access/apps")]) == 3

    edge.api.of("access/apps").append({"id": "122nd", "domain": LIVE, "aud": "c" * 64})

    assert set(await told(edge)) == {"no other application below it"}


async def test_incomplete(edge):
    """
    A collection that says it is larger than what it lists proves nothing.
    """
    edge.api.missing = 1
    verdict, reason = (await told(edge))["its audience"]

    assert verdict == "INCONCLUSIVE"
    assert "121 of 122 were listed" in reason


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_unreadable(edge, status):
    """
    What cannot be read is INCONCLUSIVE, all of it.
    """
    edge.api.status = status
    found = await told(edge)

    assert len(found) == 11
    assert {verdict for verdict, _ in found.values()} == {"INCONCLUSIVE"}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("7.*.example.com", True),
        ("7*.pr.example.com", True),
        ("7.p*.example.com", True),
        ("a.7.pr.example.com", True),
        ("pr.example.com/api", True),
        ("*.example.com", False),
        ("*.*.example.com", False),
        ("7.q*.example.com", False),
        ("7.apr.example.com", False),
        ("7.pr.example.org", False),
        ("example.com", False),
    ],
)
async def test_other_patterns(edge, name, overrides):
    """
    Another application counts where it comes before ours for some name, wherever its * is.
    """
    edge.api.of("access/apps").append({"id": "other", "aud": "c" * 64, "domain": name})

    assert set(await told(edge)) == ({"no other application below it"} if overrides else set())


async def test_unknown_shape(edge):
    """
    An API that says something else than it is documented to is INCONCLUSIVE, and no traceback.
    """
    edge.api.app["options_preflight_bypass"] = None
    edge.api.people["include"] = None
    edge.api.pack["certificates"] = [{"expires_on": "soon"}]
    found = await told(edge)

    assert {verdict for verdict, _ in found.values()} == {"INCONCLUSIVE"}
    assert set(found) == {
        "no preflight bypass",
        "its policies name who may enter",
        "its policies let in exactly them",
        "the edge has a certificate",
    }


async def test_read_only(edge):
    """
    Nothing is ever written there, and each page is read once.
    """
    await told(edge)

    assert {asked.partition(" ")[0] for asked in edge.api.asked} == {"GET"}
    assert len(edge.api.asked) == len(edge.api.collections) + 2


async def test_wrong_token(edge):
    """
    A token that may not read is INCONCLUSIVE.
    """
    verdict, reason = (await told(edge, token="another"))["the team"]

    assert verdict == "INCONCLUSIVE"
    assert "the API says 403" in reason


async def test_prefix(edge):
    """
    With names like pr-7.example.com: a record for each preview, and no application for one of them.
    """
    live = "pr-7.example.com"
    edge.api.app["domain"], edge.api.app["destinations"] = "pr-*.example.com", []
    edge.api.pack["hosts"] = ["*.example.com"]
    edge.api.record["name"] = live
    apps, records = edge.api.of("access/apps"), edge.api.of("dns_records")
    apps.append({"id": "all", "domain": "*.example.com", "aud": "c" * 64})

    assert await told(edge, "pr-*.example.com") == {}

    for domain in ("pr-8.example.com", "p*.example.com/api", "*-8.example.com"):
        apps[-1]["domain"] = domain

        assert set(await told(edge, "pr-*.example.com")) == {"no other application below it"}

    apps.pop()
    records.append(edge.api.record | {"name": f"a.{live}"})

    assert set(await told(edge, "pr-*.example.com")) == {"DNS leads to the tunnel, or nowhere"}
