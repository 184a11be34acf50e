from datetime import UTC, datetime

import pytest

from tests.fake_edge import LIVE, OTHER_AUD, FakeEdge
from tests.preview import misconfigurations as wrongly
from tests.preview.checking import SERVICE, check, reasons, wrong


@pytest.fixture
def edge():
    """A Cloudflare that is well configured."""
    with FakeEdge().running() as running:
        yield running


EXPOSED = {
    wrongly.no_application: "the origin answers: 200",
    wrongly.holding: wrongly.HOLDING,
    wrongly.envoy_holding: wrongly.HOLDING,
    wrongly.tunnel_fails(502): "a tunnel or an origin that fails: 502",
    wrongly.tunnel_fails(530): "a tunnel or an origin that fails: 530",
    wrongly.everyone: "the origin answers: 200",
    wrongly.path_bypass: "the origin answers: 404",
    wrongly.preflight_bypass: "the origin answers: 200",
    wrongly.writes_bypass: "the origin answers: 404",
    wrongly.sockets_bypass: "the origin answers: 101",
    wrongly.deeper_open: "the origin answers: 404",
    wrongly.headers_believed: "the origin answers: 200",
    wrongly.tokens_believed: "the origin answers: 200",
    wrongly.cookies_believed: "the origin answers: 200",
    wrongly.secrets_believed: "the origin answers: 200",
    wrongly.plain_http: "the origin answers: 404",
    wrongly.other_port: "the origin answers: 200",
    wrongly.look_alike: "redirects elsewhere",
    wrongly.team_believed: "the origin answers: 200",
}
NAMES = [
    "no application", "origin holds", "Envoy holds", "502", "530", "everyone", "path", "preflight",
    "writes", "WebSocket", "deeper name", "headers", "tokens", "cookies", "secrets", "HTTP", "8443",
    "look-alike login", "metadata replayed",
]  # fmt: skip


@pytest.mark.parametrize(("misconfigure", "reason"), EXPOSED.items(), ids=NAMES)
def test_exposed(edge, misconfigure, reason):
    """
    Whatever is reached without Access ends in EXPOSED and exit code 2; as it should be, in 0.
    """
    assert check(edge, **SERVICE)[0] == 0

    misconfigure(edge)
    code, said = check(edge, LIVE, **SERVICE)

    assert (code, said["verdict"]) == (2, "EXPOSED")
    assert reason in reasons(said)


@pytest.mark.parametrize(
    ("misconfigure", "probe"),
    [
        (wrongly.path_bypass, "path /openapi.json"),
        (wrongly.preflight_bypass, "preflight"),
        (wrongly.sockets_bypass, "WebSocket"),
        (wrongly.headers_believed, "claimed identity"),
        (wrongly.cookies_believed, "forged cookie"),
        (wrongly.secrets_believed, "service token's wrong secret"),
        (wrongly.other_port, "port 8443"),
        (wrongly.team_believed, "metadata replayed"),
    ],
    ids=["path", "preflight", "WebSocket", "headers", "cookie", "secret", "port", "metadata"],
)
def test_one_hole(edge, misconfigure, probe):
    """
    One hole is found by the probe that is for it, and by no other.
    """
    misconfigure(edge)

    assert wrong(check(edge, LIVE, **SERVICE)[1]) == {(probe, "EXPOSED")}


def test_other_applications_token(edge):
    """
    A valid token of another application, where one is given, must not open the door.
    """
    token = edge.token(aud=[OTHER_AUD])
    code, said = check(edge, CF_ACCESS_OTHER_TOKEN=token)

    assert code == 0
    assert not [text for text in said["unseen"] if "another application" in text]

    edge.audiences.add(OTHER_AUD)
    code, said = check(edge, CF_ACCESS_OTHER_TOKEN=token)

    assert code == 2
    assert wrong(said) == {("other application's token", "EXPOSED")}


@pytest.mark.parametrize(
    ("misconfigure", "reason"),
    [
        (wrongly.other_audience, "another application guards it"),
        (wrongly.overriding, "another application guards it"),
        (wrongly.expired_token, "DEGRADED: the service token is not let in: 302"),
        (wrongly.not_a_preview, "DEGRADED: behind Access is something else than a preview: 200"),
    ],
    ids=["aud", "app_hostname", "expired token", "no preview"],
)
def test_wrong_app(edge, misconfigure, reason):
    """
    Access in front, and not as it should be, is WRONG_APP and exit code 3.
    """
    assert check(edge, **SERVICE)[0] == 0

    misconfigure(edge)
    code, said = check(edge, LIVE, **SERVICE)

    assert (code, said["verdict"]) == (3, "WRONG_APP")
    assert reason in reasons(said)


NOW = int(datetime.now(UTC).timestamp())


@pytest.mark.parametrize(
    "misconfigure",
    [
        wrongly.certificate_error,
        wrongly.no_certificate,
        wrongly.challenge,
        wrongly.firewall,
        wrongly.rate_limit,
        wrongly.unsaid,
        wrongly.other_key,
        wrongly.unsigned,
        wrongly.no_keys,
        wrongly.no_names,
        wrongly.claim(iat=NOW - 25 * 3600),
        wrongly.claim(iat=NOW + 3600),
        wrongly.claim(iat="now"),
        wrongly.claim(iat=True),
        wrongly.claim(type="other"),
        wrongly.claim(hostname="8.pr.example.com"),
    ],
    ids=[
        "certificate of another name", "no certificate", "challenge", "firewall", "429",
        "no metadata", "another key", "alg none", "no JWKS", "no DNS", "stale", "of tomorrow",
        "no time", "true for a time", "another type", "another host",
    ],
)  # fmt: skip
def test_inconclusive(edge, misconfigure):
    """
    Where nothing is proven the verdict is INCONCLUSIVE and the exit code 4, never 0.
    """
    assert check(edge)[0] == 0

    misconfigure(edge)
    code, said = check(edge)

    assert (code, said["verdict"]) == (4, "INCONCLUSIVE")
