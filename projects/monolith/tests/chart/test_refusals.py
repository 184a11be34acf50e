import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.chart.rendering import (
    PREVIEW_VALUES,
    RefusedError,
    only,
    over,
    preview,
    production,
    read,
    render,
)
from tests.chart.strategies import numbers

SHA = "2" * 40
DOMAINS = st.sampled_from(["pr.jomcgi.dev", "jomcgi.dev", "jomcgi-previews.dev"])
EGRESS = {"host": "example.org", "port": 443, "cidrs": ["104.19.0.0/16"]}
FORMULA = (
    r"Refused to render (a preview|production): "
    r"expected [^\n]*, the values (say|name) [^\n]*\. [A-Z][^\n]*\.$"
)

CONTRADICTIONS = {
    "no-id": ({"preview": {"id": ""}}, r"preview\.id .* say \"\"\. Set preview\.id"),
    "leading-zero": ({"preview": {"id": "007"}}, r"preview\.id .* \"007\""),
    "no-sha": ({"preview": {"headSha": ""}}, r"preview\.headSha .* say \"\"\. Set"),
    "short-sha": ({"preview": {"headSha": "2222222"}}, r"preview\.headSha .* \"2222222\""),
    "other-image": ({"image": {"tag": "sha-" + "3" * 40}}, r"image\.tag .* Leave image\.tag out"),
    "other-host": ({"preview": {"host": "8.pr.jomcgi.dev"}}, r"preview\.host .* \"8\.pr"),
    "longer-number": ({"preview": {"host": "77.pr.jomcgi.dev"}}, r"preview\.host .* \"77\.pr"),
    "longer-number-in-name": ({"preview": {"host": "pr-70.pr.jomcgi.dev"}}, r"\"pr-70\."),
    "other-domain": ({"preview": {"host": "pr-7.jomcgi.dev"}}, r"or preview\.domain"),
    "deeper-host": ({"preview": {"host": "a.7.pr.jomcgi.dev"}}, r"preview\.host .* \"a\.7"),
    "host-of-production": ({"preview": {"host": "private.jomcgi.dev"}}, r"preview\.host"),
    "unmuted": ({"prEnv": False}, r"prEnv .* say false\. Set prEnv to true"),
    "credential": (
        {"secrets": {"GITHUB_TOKEN": {"name": "s", "key": "k"}}},
        r"secrets, the values name GITHUB_TOKEN\. Take secrets out",
    ),
    "setting-of-a-job": (
        {"settings": {"VAULT_GIT_BRANCH": "main"}},
        r"settings of jobs, the values name VAULT_GIT_BRANCH\. Take settings out",
    ),
    "production-database": ({"cluster": {"enabled": True}}, r"cluster\.enabled .* Set cluster"),
    "two-sources": (
        {"preview": {"snapshotName": "s", "snapshotMethod": "backup", "snapshotGeneration": "1"}},
        r"preview\.snapshotMethod .* \"backup\"\. Leave one",
    ),
    "reused-backup": ({"preview": {"snapshotMethod": "backup"}}, r"preview\.snapshotGeneration"),
    "idle-generation": ({"preview": {"snapshotGeneration": "1"}}, r"snapshotGeneration only"),
    "no-team": ({"preview": {"access": {"teamDomain": ""}}}, r"access\.teamDomain, .* say \"\""),
    "no-audience": ({"preview": {"access": {"aud": ""}}}, r"access\.aud, .* say \"\"\. Set it"),
    "no-people": ({"preview": {"access": {"emails": []}}}, r"access\.emails, .* say \[\]\. Set"),
    "no-machines": ({"preview": {"access": {"serviceClients": []}}}, r"access\.serviceClients"),
    "url-as-host": (
        {"preview": {"egressAllow": [EGRESS | {"host": "https://example.org"}]}},
        r"egressAllow\[0\]\.host .* \"https://example\.org\"",
    ),
    "wildcard-host": (
        {"preview": {"egressAllow": [EGRESS, EGRESS | {"host": "*.example.org"}]}},
        r"egressAllow\[1\]\.host",
    ),
    "no-network": (
        {"preview": {"egressAllow": [EGRESS | {"cidrs": ["104.19.1.1"]}]}},
        r"egressAllow\[0\]\.cidrs .* \"104\.19\.1\.1\"",
    ),
    "everywhere": (
        {"preview": {"egressAllow": [EGRESS | {"cidrs": ["0.0.0.0/0"]}]}},
        r"/16 to /32, the values say \"0\.0\.0\.0/0\"",
    ),
    "the-cluster": (
        {"preview": {"egressAllow": [EGRESS | {"cidrs": ["10.42.0.0/16"]}]}},
        r"public addresses, the values say \"10\.42",
    ),
}
STRAYS = {
    "id": "7",
    "headSha": SHA,
    "host": "7.pr.jomcgi.dev",
    "snapshotName": "s",
    "snapshotGeneration": "1",
    "egressAllow": [EGRESS],
    "seal": "required",
    "access": {"aud": "1" * 64},
}
IMPOSSIBLE = {
    "enabled-as-text": {"preview": {"enabled": "true"}},
    "id-as-number": {"preview": {"id": 7}},
    "misspelt": {"previews": {"enabled": True}},
    "unknown-in-preview": {"preview": {"number": "7"}},
    "unknown-credential": {"secrets": {"DATABASE_URL": {"name": "s", "key": "k"}}},
    "unknown-setting": {"settings": {"PR_ENV": "false"}},
    "channel-as-number": {"settings": {"CHANGELOG_CHANNEL": 300}},
    "unknown-method": {"preview": {"snapshotMethod": "dump"}},
    "moving-tag": {"image": {"tag": "latest"}},
    "unpinned-atlas": {"atlasImage": "arigaio/atlas:latest"},
    "unpinned-postgres": {"postgres": {"image": "ghcr.io/cloudnative-pg/postgresql"}},
    "plain-http-team": {"preview": {"access": {"teamDomain": "http://t.cloudflareaccess.com"}}},
    "short-audience": {"preview": {"access": {"aud": "1"}}},
    "sealed-or-not": {"preview": {"seal": True}},
    "everybody": {"preview": {"access": {"emails": ["*"]}}},
    "port-as-text": {"preview": {"egressAllow": [EGRESS | {"port": "443"}]}},
    "port-zero": {"preview": {"egressAllow": [EGRESS | {"port": 0}]}},
    "no-addresses": {"preview": {"egressAllow": [{"host": "example.org", "port": 443}]}},
}


@pytest.mark.parametrize(("values", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_contradiction(values, message):
    """
    A preview that contradicts itself is refused, with the value and the remedy.
    """
    with pytest.raises(RefusedError, match=message) as refused:
        render(over(values, preview(7, SHA)))

    assert refused.match(FORMULA)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"preview": {"egressAllow": [EGRESS]}},
        {"preview": {"snapshotMethod": "backup", "snapshotGeneration": "1"}},
        {"preview": {"snapshotName": "s"}},
        {"preview": {"host": ""}},
    ],
    ids=["preview", "egress", "backup", "snapshot", "derived-host"],
)
def test_consistent(values):
    """
    The same preview without the contradiction is rendered.
    """
    assert len(render(over(values, preview(7, SHA)))) > 0


@pytest.mark.parametrize(("name", "value"), STRAYS.items(), ids=STRAYS.keys())
def test_stray(name, value):
    """
    What only a preview has is refused where there is none.
    """
    with pytest.raises(
        RefusedError, match=rf"expected no preview\.{name}[.a-z]*, .* Set preview\.enabled"
    ):
        render(over({"preview": {name: value}}, production()))


def test_production_values():
    """
    Production's own values are rendered.
    """
    assert len(render(production())) > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prEnv": True}, r"expected prEnv to be false, .* Set prEnv to false"),
        ({"image": {"tag": ""}}, r"expected image\.tag .* Set image\.tag"),
    ],
    ids=["muted", "no-image"],
)
def test_half_production(values, message):
    """
    A release that is neither a preview nor wholly production is refused.
    """
    with pytest.raises(RefusedError, match=message) as refused:
        render(over(values, production()))

    assert refused.match(FORMULA)


def test_over_production():
    """
    A preview's values over production's are refused: they stand over the chart's defaults alone.
    """
    with pytest.raises(RefusedError, match=r"Refused to render a preview"):
        render(over(preview(7, SHA), production()))


def test_preview_file_alone():
    """
    The file of a preview's values is no preview before a pull request is named.
    """
    with pytest.raises(RefusedError, match=r"preview\.id"):
        render(read(PREVIEW_VALUES))


@pytest.mark.parametrize("values", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible(values):
    """
    What is wrong by itself is refused by the schema, in production and in a preview.
    """
    for below in (preview(7, SHA), production()):
        with pytest.raises(
            RefusedError, match=r"values don't meet the specifications of the schema"
        ):
            render(over(values, below))


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("pr.jomcgi.dev", "7.pr.jomcgi.dev"),
        ("jomcgi.dev", "pr-7.jomcgi.dev"),
        ("jomcgi-previews.dev", "7.jomcgi-previews.dev"),
        ("jomcgi-previews.dev", ""),
    ],
    ids=["subdomain", "name", "zone", "derived"],
)
def test_shapes_of_a_host(domain, host):
    """
    A subdomain, a name beside production's and a zone of its own are rendered, just as they are.
    """
    manifests = render(over({"preview": {"domain": domain, "host": host}}, preview(7, SHA)))
    route = only(manifests, "HTTPRoute")["spec"]

    assert route["hostnames"] == [host or f"7.{domain}"]


@given(
    st.one_of(
        st.text(),
        st.builds(
            "{}{}.{}".format, st.sampled_from(["", "pr-", "pr", "-", "*."]), numbers, DOMAINS
        ),
        st.builds("{}.7.{}".format, st.sampled_from(["a", "*", "pr"]), DOMAINS),
        st.sampled_from(["private.jomcgi.dev", "*.jomcgi.dev", "jomcgi.dev", "pr-7.jomcgi.dev."]),
    ),
    DOMAINS,
)
def test_foreign_host(host, domain):
    """
    No hostname but the pull request's own is rendered: no other number's, and none of production's.
    """
    assume(host not in ("", f"7.{domain}", f"pr-7.{domain}"))
    with pytest.raises(RefusedError, match=r"preview\.host"):
        render(over({"preview": {"host": host, "domain": domain}}, preview(7, SHA)))


@given(
    st.one_of(
        st.builds("10.{}.0.0/16".format, st.integers(0, 255)),
        st.builds("172.{}.0.0/16".format, st.integers(16, 31)),
        st.builds("100.{}.0.0/16".format, st.integers(64, 127)),
        st.builds("{}.0.0.0/16".format, st.one_of(st.just(0), st.just(127), st.integers(224, 255))),
        st.sampled_from(["192.168.0.0/16", "169.254.169.254/32"]),
    )
)
def test_private_addresses(cidr):
    """
    No address that leads into the cluster, to a node or to its metadata is let through the wall.
    """
    with pytest.raises(RefusedError, match="public addresses"):
        render(over({"preview": {"egressAllow": [EGRESS | {"cidrs": [cidr]}]}}, preview(7, SHA)))
