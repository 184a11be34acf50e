from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preview.access_hosts import Kind
from preview.access_report import METADATA, Found, HostReport, Report
from preview.access_verdict import (
    Answer,
    Expected,
    Verdict,
    judge,
    judge_bare_refusal,
    judge_guest,
    judge_metadata,
    judge_port,
    worst,
)
from tests.team import AUD

HOST, TEAM = "7.pr.example.com", "team.cloudflareaccess.com"
EXPECTED = Expected(TEAM, AUD, "*.pr.example.com")
RESOURCE = f"https://{HOST}/.well-known/cloudflare-access-protected-resource"
LOGIN = f"https://{TEAM}/cdn-cgi/access/login/{HOST}?kid={AUD}&meta=x&redirect_url=%2F"
JUDGES = [judge, judge_port, judge_bare_refusal]


def answer(status, body="", **headers):
    """Make an answer."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, named, body)


def challenge(resource=RESOURCE, scheme="Cloudflare-Access"):
    """Make Access's challenge."""
    return f'{scheme} resource_metadata="{resource}"'


LEGAL = {
    "login": answer(302, location=LOGIN, www_authenticate=challenge()),
    "challenge": answer(401, www_authenticate=challenge()),
    "challenge for a path": answer(401, www_authenticate=challenge(f"{RESOURCE}/api/preview")),
    "refusal": answer(403, cf_access_aud=AUD, cf_access_domain="*.pr.example.com"),
    "strict refusal": answer(401, cf_access_aud=AUD),
}


@pytest.mark.parametrize("legal", LEGAL.values(), ids=LEGAL)
@pytest.mark.parametrize("how", JUDGES, ids=["plain", "port", "bare"])
def test_legal(how, legal):
    """
    Each form in which Access refuses is PROTECTED, with whatever header an edge adds.
    """
    added = replace(legal, headers=(*legal.headers, ("server", "cloudflare"), ("cf-ray", "x")))

    assert how(added, HOST, EXPECTED).verdict is Verdict.PROTECTED


statuses = st.sampled_from([200, 301, 302, 303, 307, 401, 403, 404, 429, 500, 503, 530, 101, 204])


def parts(*legal_and_others):
    """Draw the legal one often."""
    legal, *others = legal_and_others
    return st.one_of(st.just(legal), st.just(legal), st.sampled_from(others))


@st.composite
def redirects(draw):
    """A redirect, and whether every part of it is as it should be."""
    status = draw(st.one_of(st.just(302), statuses))
    scheme = draw(parts("https", "http", "HTTPS ", "ftp", ""))
    where = draw(
        parts(TEAM, f"{TEAM}.example", f"{TEAM}:8443", f"a@{TEAM}", f"{TEAM}@evil.example", HOST,
              f"other.{TEAM}", f"{TEAM}\\.evil.example", f"evil.example#{TEAM}", "")
    )  # fmt: skip
    path = draw(
        parts(f"/cdn-cgi/access/login/{HOST}", "/cdn-cgi/access/login/", "/", f"//{HOST}",
              "/cdn-cgi/access/login/8.pr.example.com", f"/cdn-cgi/access/login/{HOST}/x")
    )  # fmt: skip
    kids = draw(parts([AUD], [], ["b" * 64], [AUD, "b" * 64], [AUD, AUD], [AUD.upper()], [""]))
    fragment = draw(parts("", "#x"))
    query = "&".join([*(f"kid={kid}" for kid in kids), "meta=x"])
    legal = (status, scheme, where, path, kids, fragment) == (
        302, "https", TEAM, f"/cdn-cgi/access/login/{HOST}", [AUD], "",
    )  # fmt: skip
    locations = draw(parts(1, 0, 2))
    location = ("location", f"{scheme}://{where}{path}?{query}{fragment}")
    return Answer(status, (location,) * locations), legal and locations == 1


@given(redirects())
@example((LEGAL["login"], True))
def test_redirect(drawn):
    """
    A redirect is PROTECTED exactly where status, scheme, host, path and audience are Access's own.
    """
    redirect, legal = drawn

    assert (judge(redirect, HOST, EXPECTED).verdict is Verdict.PROTECTED) is legal


@st.composite
def refusals(draw):
    """A refusal, and whether one of its marks is Access's own, for our application or host."""
    status = draw(st.one_of(st.sampled_from([401, 403]), statuses))
    audiences = draw(
        st.sampled_from([(), (), (AUD,), ("b" * 64,), (AUD, "b" * 64), (AUD, AUD), (AUD.upper(),)])
    )
    resource = draw(
        parts(RESOURCE, f"{RESOURCE}x", RESOURCE.replace("7.", "8."), RESOURCE.replace("s:", ":"),
              f"https://{HOST}.evil.example/", f"https://{HOST}/x", "")
    )  # fmt: skip
    scheme = draw(parts("Cloudflare-Access", "Basic", "Cloudflare-Accessory", ""))
    challenges = draw(st.sampled_from([0, 1, 1, 2]))
    legal = status in {401, 403} and audiences == (AUD,)
    if status == 401 and not audiences:
        legal = challenges == 1 and (resource, scheme) == (RESOURCE, "Cloudflare-Access")
    headers = [("cf-access-aud", audience) for audience in audiences]
    headers += [("www-authenticate", challenge(resource, scheme))] * challenges
    return Answer(status, tuple(headers)), legal


@given(refusals())
@example((LEGAL["challenge"], True))
def test_refusal(drawn):
    """
    A refusal is PROTECTED exactly where it says our audience, or challenges for this very host.
    """
    refusal, legal = drawn

    assert (judge(refusal, HOST, EXPECTED).verdict is Verdict.PROTECTED) is legal


def login(scheme="https", where=TEAM, host=HOST, query=f"kid={AUD}", end=""):
    """Make a redirect to a login."""
    path = f"/cdn-cgi/access/login/{host}"
    return answer(302, location=f"{scheme}://{where}{path}?{query}{end}")


def twice(legal):
    """Say every header twice."""
    return replace(legal, headers=legal.headers * 2)


ALMOST = {
    "http": login("http"),
    "host of another": login(where=f"{TEAM}.example"),
    "user": login(where=f"a@{TEAM}"),
    "port": login(where=f"{TEAM}:443"),
    "white space": login(where=f"\t{TEAM}"),
    "host in capitals": login(where=TEAM.upper()),
    "dot at the end": login(where=f"{TEAM}."),
    "look-alike letter": login(where=TEAM.replace("o", "\u043e")),
    "look-alike, encoded": login(where="xn--team-cloudflareaccess-o9j.com"),
    "encoded dot": login(where=TEAM.replace(".", "%2e")),
    "backslash": login(where=f"{TEAM}\\"),
    "user and look-alike": login(where=f"{TEAM}@evil.example"),
    "parameter": login(host=f"{HOST};x"),
    "audience in capitals": login(query=f"kid={AUD.upper()}"),
    "audience twice, encoded": login(query=f"kid={AUD}&%6bid={'b' * 64}"),
    "other host": login(host="8.pr.example.com"),
    "deeper path": login(host=f"{HOST}/x"),
    "no audience": login(query=""),
    "another audience": login(query=f"kid={'b' * 64}"),
    "two audiences": login(query=f"kid={AUD}&kid={'b' * 64}"),
    "the same twice": login(query=f"kid={AUD}&kid={AUD}"),
    "fragment": login(end="#x"),
    "two locations": twice(login()),
    "two challenges": twice(LEGAL["challenge"]),
    "two refusals": twice(LEGAL["refusal"]),
    "challenge for two": answer(
        401, www_authenticate=f'{challenge()}, resource_metadata="https://8.pr.example.com/"'
    ),
    "challenge for another": answer(401, www_authenticate=challenge(RESOURCE.replace("7.", "8."))),
    "challenge for a longer name": answer(401, www_authenticate=challenge(f"{RESOURCE}x")),
    "another scheme": answer(401, www_authenticate=challenge(scheme="Cloudflare-Accessory")),
    "challenge with 403": replace(LEGAL["challenge"], status=403),
    "page with an audience": replace(LEGAL["refusal"], status=200),
    "page with a challenge": replace(LEGAL["challenge"], status=200),
    "page with a login": replace(LEGAL["login"], status=200),
    "page that is mitigated": answer(200, cf_mitigated="challenge", location=LOGIN),
    "other redirect": replace(LEGAL["login"], status=307),
}


@pytest.mark.parametrize("almost", ALMOST.values(), ids=ALMOST)
@pytest.mark.parametrize("how", JUDGES, ids=["plain", "port", "bare"])
def test_almost_legal(how, almost):
    """
    One part that is not Access's own is enough not to be PROTECTED; what is a page is EXPOSED.
    """
    verdict = how(almost, HOST, EXPECTED).verdict

    assert verdict is not Verdict.PROTECTED
    assert verdict is Verdict.EXPOSED or almost.status != 200


MARKS = [
    ("x-origin-access", "denied"),
    ("www-authenticate", 'Bearer realm="preview"'),
    ("x-envoy-upstream-service-time", "1"),
]


@given(st.sampled_from([*LEGAL.values()]), st.sampled_from(MARKS), st.sampled_from(JUDGES))
def test_marks_of_origin(legal, mark, how):
    """
    What shows that the origin has answered is EXPOSED, whatever else the answer says.
    """
    assert how(legal, HOST, EXPECTED).verdict is Verdict.PROTECTED

    marked = replace(legal, headers=(*legal.headers, mark))

    assert how(marked, HOST, EXPECTED).verdict is Verdict.EXPOSED


names = st.sampled_from(
    ["location", "www-authenticate", "cf-access-aud", "cf-mitigated", "cf-access-error", "server",
     "cf-access-metadata", "x-origin-access"]
)  # fmt: skip
texts = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["challenge", "Cloudflare-Access", f"https://{HOST}/", f"http://{HOST}/"]),
)
answers = st.builds(
    Answer,
    st.integers(100, 599),
    st.lists(st.tuples(names, texts), max_size=4).map(tuple),
    st.one_of(st.text(max_size=60), st.just("error code: 1020")),
)


@given(answers, st.sampled_from([judge, judge_bare_refusal]))
def test_arbitrary_answers(drawn, how):
    """
    No other answer is ever PROTECTED, and a 2xx is always EXPOSED.
    """
    verdict = how(drawn, HOST, EXPECTED).verdict

    assert verdict is not Verdict.PROTECTED
    assert verdict is Verdict.EXPOSED or not 200 <= drawn.status < 300


@given(answers)
def test_arbitrary_metadata(drawn):
    """
    Nothing that the team's keys have not signed proves which application matches.
    """
    assert judge_metadata(drawn, HOST, EXPECTED, {}).verdict is not Verdict.PROTECTED


@given(st.integers(100, 599), texts, st.sampled_from([f"https://{HOST}/", f"https://{HOST}"]))
def test_port(status, other, https):
    """
    Another port may lead to https on the same host, by 301 or 308, and nowhere else.
    """
    good = judge_port(answer(status, location=https), HOST, EXPECTED).verdict
    elsewhere = judge_port(answer(status, location=other), HOST, EXPECTED).verdict

    assert (good is Verdict.PROTECTED) is (status in {301, 308})
    assert elsewhere is not Verdict.PROTECTED or other == f"https://{HOST}/"


@pytest.mark.parametrize(
    "where",
    [
        f"http://{HOST}/", "https://8.pr.example.com/", f"https://{HOST}:8443/",
        f"https://{HOST}.evil.example/", f"https://a@{HOST}/", f"//{HOST}/", "/",
    ],
)  # fmt: skip
def test_port_leads_elsewhere(where):
    """
    A redirect that is not to https, this host and its own port is EXPOSED.
    """
    assert judge_port(answer(301, location=where), HOST, EXPECTED).verdict is Verdict.EXPOSED


@pytest.mark.parametrize("status", [401, 403])
def test_bare_refusal(status):
    """
    A refusal that does not say whose it is proves nothing where Access may not say it either.
    """
    assert judge(answer(status), HOST, EXPECTED).verdict is Verdict.EXPOSED
    assert judge_bare_refusal(answer(status), HOST, EXPECTED).verdict is Verdict.INCONCLUSIVE


DOWN = {404, 502, 503, 504, *range(520, 531)}


@given(st.integers(100, 599), st.booleans(), texts)
@example(200, True, "")
def test_guest(status, live, body):
    """
    A service token is good only where it gets to a preview's attestation, or to no preview at all.
    """
    good = judge_guest(answer(status, '{"mode": "preview"}'), live=live).verdict
    other = judge_guest(answer(status, body), live=live).verdict

    assert (good is Verdict.PROTECTED) is (status in DOWN or (status == 200 and live))
    assert (other is Verdict.PROTECTED) is (status in DOWN)


@pytest.mark.parametrize(
    "body",
    ['["preview"]', '{"mode": "production"}', "{", '"preview"', "[" * 60_000],
    ids=["list", "production", "cut off", "text", "deep"],
)
def test_attestation(body):
    """
    A page that is no preview's attestation does not pass for one.
    """
    assert judge_guest(answer(200, body), live=True).verdict is Verdict.WRONG_APP


found = st.builds(
    Found,
    st.one_of(st.just(METADATA), st.sampled_from(["anonymous", "https"])),
    st.one_of(st.just(Verdict.PROTECTED), st.sampled_from(Verdict)),
    st.just(""),
)
host_reports = st.builds(
    HostReport, st.just(HOST), st.sampled_from(Kind), st.lists(found, max_size=4).map(tuple)
)


@given(
    st.lists(host_reports, max_size=3).map(tuple),
    st.one_of(st.none(), st.lists(found, max_size=3).map(tuple)),
)
def test_exit_code(hosts, told):
    """
    A report exits 0 only where all was PROTECTED, on every host Access's own word among it.
    """
    report = Report(datetime.now(UTC), "*.pr.example.com", hosts, told, ())
    every = [each.verdict for host in hosts for each in host.probes]
    every += [each.verdict for each in told or ()]
    asked = all(host.probes for host in hosts)
    signed = all(
        METADATA in {each.probe for each in host.probes}
        for host in hosts
        if host.kind is not Kind.ASIDE
    )
    good = bool(hosts) and asked and signed and set(every) == {Verdict.PROTECTED}

    assert (report.verdict.exit_code == 0) is good


def test_verdicts():
    """
    The gravest verdict is the whole's, and each has the exit code that the documentation says.
    """
    assert [str(worst([*Verdict][: n + 1])) for n in range(4)] == [*map(str, Verdict)]
    assert worst([]) is Verdict.INCONCLUSIVE
    assert {verdict.name: verdict.exit_code for verdict in Verdict} == {
        "PROTECTED": 0, "EXPOSED": 2, "WRONG_APP": 3, "INCONCLUSIVE": 4,
    }  # fmt: skip
