"""Each way in which Access can be wrongly configured, told to a fake edge."""

from aiohttp import web

from tests.fake_edge import LIVE, OTHER_AUD, TEAM
from tests.team import AUD, CLIENT, new_key

HOLDING = "EDGE_OFF_ORIGIN_HOLDING"


def before(edge, answer, when):
    """Answer a request before Access does."""
    edge.first.append(lambda request: answer() if when(request) else None)


def on_443(request):
    """Tell whether a request came to https's own port."""
    return request.scheme == "https" and ":" not in request.host


def status(code, body="", **headers):
    """Make answers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: web.Response(status=code, text=body, headers=named)


def everywhere(edge, code, body="", **headers):
    """Let the edge answer everything so."""
    before(edge, status(code, body, **headers), on_443)


def no_application(edge):
    """No application covers the wildcard."""
    edge.covers = lambda _: False


def holding(edge):
    """No application, and the origin refuses by itself."""
    no_application(edge)
    edge.origin = lambda _: status(401, x_origin_access="denied")()


def envoy_holding(edge):
    """No application, and Envoy refuses by itself."""
    no_application(edge)
    edge.origin = lambda _: status(401, "Jwt is missing", www_authenticate='Bearer realm="x"')()


def tunnel_fails(code):
    """No application, and the tunnel's error is passed on."""

    def misconfigure(edge):
        no_application(edge)
        edge.origin = lambda _: status(code)()

    return misconfigure


def everyone(edge):
    """A bypass lets everybody through; which application matches is still said."""
    edge.trusts = lambda _: True


def path_bypass(edge):
    """An application for a path alone lets everybody through."""
    edge.covers = lambda request: request.path != "/openapi.json"


def preflight_bypass(edge):
    """OPTIONS passes Access by."""
    edge.covers = lambda request: request.method != "OPTIONS"


def writes_bypass(edge):
    """Only what reads is guarded."""
    edge.covers = lambda request: request.method not in {"POST", "PUT", "DELETE"}


def sockets_bypass(edge):
    """A WebSocket is let through."""
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    before(edge, status(101, **headers), lambda request: "Upgrade" in request.headers)


def deeper_open(edge):
    """The application covers one label, DNS and tunnel any number of them."""
    edge.covers = lambda request: not request.host.startswith("a.")


def headers_believed(edge):
    """Whoever says who they are is believed."""
    edge.trusts = lambda request: "X-Auth-Email" in request.headers


def tokens_believed(edge):
    """Nobody looks at a token's signature."""
    edge.trusts = lambda request: "Cf-Access-Jwt-Assertion" in request.headers


def cookies_believed(edge):
    """Nobody looks at a cookie's signature."""
    edge.trusts = lambda request: "CF_Authorization" in request.cookies


def secrets_believed(edge):
    """The client id of a service token is enough."""
    edge.service_tokens = _AnySecret()


class _AnySecret:
    def __contains__(self, pair):
        return pair[0] == CLIENT


def team_believed(edge):
    """Whatever the team has signed opens the door."""
    edge.any_of_team = True


def plain_http(edge):
    """Port 80 leads to the origin."""
    before(edge, status(404), lambda request: request.scheme == "http")


def other_port(edge):
    """Port 8443 leads to the origin."""
    before(edge, status(200), lambda request: request.host.endswith(":8443"))


def look_alike(edge):
    """It redirects to a login that is not the team's."""
    elsewhere = f"https://{TEAM}.example/cdn-cgi/access/login/{LIVE}?kid={AUD}"
    everywhere(edge, 302, location=elsewhere)


def other_audience(edge):
    """Another application guards it."""
    edge.audience = OTHER_AUD


def overriding(edge):
    """An application for one name comes before ours."""
    edge.application = LIVE


def expired_token(edge):
    """The service token has expired."""
    edge.service_tokens = set()


def not_a_preview(edge):
    """Something else than a preview is behind Access."""
    edge.origin = lambda _: status(200, "[]")()


def certificate_error(edge):
    """The certificate is for another name."""
    edge.certified = lambda host: "other.example" if host != TEAM else host


def no_certificate(edge):
    """The edge has no certificate for the names."""
    edge.certified = lambda host: host if host == TEAM else ""


def challenge(edge):
    """The firewall challenges every script."""
    everywhere(edge, 403, cf_mitigated="challenge")


def firewall(edge):
    """The firewall refuses every script."""
    everywhere(edge, 403, "error code: 1010")


def rate_limit(edge):
    """The edge limits the rate."""
    everywhere(edge, 429)


def unsaid(edge):
    """Access says nothing signed about itself."""
    edge.first.append(lambda request: edge.refused(request) if request.method == "HEAD" else None)


def other_key(edge):
    """Somebody else has signed what is said of Access."""
    edge.key = new_key()


def unsigned(edge):
    """Nobody has signed what is said of Access."""
    edge.key = None


def no_keys(edge):
    """The team's keys cannot be fetched."""
    edge.team.status = 503


def no_names(edge):
    """No name has an address."""
    edge.unknown = AllBut(TEAM)


class AllBut:
    """Contains all that is not known."""

    def __init__(self, *known):
        self.known = set(known)

    def __contains__(self, host):
        return host not in self.known


def claim(**claims):
    """What is signed is not about this request."""
    return lambda edge: edge.claims.update(claims)
