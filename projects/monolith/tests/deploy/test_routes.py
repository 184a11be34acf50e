import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deploy.admission import refusals, refused
from tests.deploy.objects import route, untraced


@given(
    hostname=st.one_of(
        st.text(max_size=20),
        st.builds("{}.pr.jomcgi.dev".format, st.integers()),
        st.builds("pr-{}.jomcgi.dev".format, st.integers()),
    ).filter(lambda name: name not in ("7.pr.jomcgi.dev", "pr-7.jomcgi.dev"))
)
def test_any_hostname(hostname):
    """
    No other hostname will do.
    """
    found = route()
    found["spec"]["hostnames"] = [hostname]

    assert "exactly the hostname" in refused(found)


@pytest.mark.parametrize(
    "hostnames",
    [
        None,
        [],
        ["8.pr.jomcgi.dev"],
        ["*.pr.jomcgi.dev"],
        ["private.jomcgi.dev"],
        ["7.pr.jomcgi.dev", "private.jomcgi.dev"],
        ["a.7.pr.jomcgi.dev"],
        ["pr-8.jomcgi.dev"],
        ["pr-77.jomcgi.dev"],
        ["pr-70.pr.jomcgi.dev"],
        ["pr-7.private.jomcgi.dev"],
        ["a.pr-7.jomcgi.dev"],
        ["pr-*.jomcgi.dev"],
        ["*.jomcgi.dev"],
        ["jomcgi.dev"],
        ["7.jomcgi.dev"],
        ["pr-7.jomcgi.dev.example.com"],
        ["pr-7xjomcgi.dev"],
        ["7.pr.jomcgi.dev", "pr-7.jomcgi.dev"],
    ],
)
def test_hostnames(hostnames):
    """
    The hostname is one, and exact: none at all would be every host of the Gateway.
    """
    found = route()
    found["spec"]["hostnames"] = hostnames
    if hostnames is None:
        del found["spec"]["hostnames"]

    assert "exactly the hostname" in refused(found)


@pytest.mark.parametrize("hostname", ["7.pr.jomcgi.dev", "pr-7.jomcgi.dev"])
def test_own_hostname(hostname):
    """
    Its own hostname is admitted, below the previews' domain or beside production's names.
    """
    found = route()
    found["spec"]["hostnames"] = [hostname]

    assert refusals(found) == []


@pytest.mark.parametrize(
    "parents",
    [
        None,
        [],
        [{"name": "previews"}],
        [{"name": "previews", "namespace": "monolith"}],
        [{"name": "cloudflare-ingress", "namespace": "envoy-gateway-system"}],
        [{"name": "previews", "namespace": "envoy-gateway-system", "kind": "Service"}],
        [{"name": "previews", "namespace": "envoy-gateway-system", "group": "example.com"}],
        [{"name": "previews", "namespace": "envoy-gateway-system"}, {"name": "other"}],
    ],
)
def test_parents(parents):
    """
    The parent is the previews' Gateway and no other, above all not production's.
    """
    found = route()
    found["spec"]["parentRefs"] = parents
    if parents is None:
        del found["spec"]["parentRefs"]

    assert "exactly the parent Gateway" in refused(found)


@pytest.mark.parametrize(
    "rule",
    [
        {"backendRefs": [{"name": "monolith"}]},
        {"backendRefs": [{"name": "monolith-pr-8"}]},
        {"backendRefs": [{"name": "monolith-pr-7"}, {"name": "monolith"}]},
        {"backendRefs": [{"name": "monolith-pr-7", "namespace": "argocd"}]},
        {"backendRefs": [{"name": "monolith-pr-7", "kind": "Backend"}]},
        {"backendRefs": [{"name": "monolith-pr-7", "group": "gateway.envoyproxy.io"}]},
        {"backendRefs": [{"name": "monolith-pr-7", "filters": [{"type": "RequestMirror"}]}]},
        {"filters": [{"type": "RequestMirror"}]},
        {"filters": [{"type": "RequestHeaderModifier"}, {"type": "RequestMirror"}]},
        {"filters": [{"type": "RequestRedirect"}]},
        {"filters": [{"type": "ExtensionRef"}]},
    ],
)
def test_backends(rule):
    """
    Nothing but the preview's own Service is behind the route, by no way there is.
    """
    found = route()
    found["spec"]["rules"].append(rule)

    assert "only its own Service" in refused(found)


def test_defaults_filled_in():
    """
    What the API server fills in does not make a good route a bad one; header filters neither.
    """
    found = route()
    found["spec"]["parentRefs"][0] |= {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "sectionName": "previews",
    }
    found["spec"]["rules"][0]["backendRefs"][0] |= {"group": "", "kind": "Service", "weight": 1}
    found["spec"]["rules"][0]["filters"] = [{"type": "RequestHeaderModifier"}]

    assert refusals(found) == []


@pytest.mark.parametrize(
    "spec",
    [
        {"hostnames": ["7.pr.jomcgi.dev"], "parentRefs": [{"name": "cloudflare-ingress"}]},
        {"hostnames": ["private.jomcgi.dev", "7.pr.jomcgi.dev"]},
        {"hostnames": ["pr-7.jomcgi.dev"], "parentRefs": [{"name": "cloudflare-ingress"}]},
        {"parentRefs": [{"name": "previews", "namespace": "envoy-gateway-system"}]},
        {"parentRefs": [{"name": "x"}, {"name": "previews"}]},
    ],
    ids=["hostname", "second-hostname", "name", "gateway", "second-gateway"],
)
def test_untraced(spec):
    """
    A route takes a preview's hostname or Gateway only as the preview's, whatever its labels.
    """
    found = untraced(route())
    found["spec"] = spec

    assert refusals(found)
