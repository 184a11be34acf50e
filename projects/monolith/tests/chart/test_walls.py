import pytest
from hypothesis import given

from tests.chart.rendering import containers, only, over, pod, preview, production, render
from tests.chart.strategies import previews

SHA = "2" * 40
DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}


def selects(selector, labels):
    """Say whether a label selector selects these labels, as Kubernetes does."""
    wanted = selector.get("matchLabels", {}).items()
    return wanted <= labels.items() and all(
        {
            "DoesNotExist": expression["key"] not in labels,
            "In": labels.get(expression["key"]) in expression.get("values", ()),
        }[expression["operator"]]
        for expression in selector.get("matchExpressions", ())
    )


def admits(policy, labels):
    """Say whether a policy lets in a pod of the same namespace with these labels."""
    return any(
        "podSelector" in peer
        and peer.get("namespaceSelector", {}) == {}
        and selects(peer["podSelector"], labels)
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
    )


@given(previews())
def test_default_deny(values):
    """
    Walls stand around app and clone in both directions, and nothing is open to everybody.
    """
    manifests = render(values)
    number = values["preview"]["id"]
    walls = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    app, clone = walls if walls[0]["metadata"]["name"] == f"monolith-pr-{number}" else walls[::-1]
    rules = [
        rule[way]
        for wall in walls
        for direction, way in (("ingress", "from"), ("egress", "to"))
        for rule in wall["spec"][direction]
    ]

    assert selects(app["spec"]["podSelector"], pod(manifests)["metadata"]["labels"])
    assert selects(clone["spec"]["podSelector"], {"cnpg.io/cluster": f"monolith-pg-pr-{number}"})
    assert [wall["spec"]["policyTypes"] for wall in walls] == [["Ingress", "Egress"]] * 2
    assert all(rules)
    assert all(peer for rule in rules for peer in rule)


def test_app():
    """
    The previews' Gateway gets in; DNS, the clone's port and Access's keys are the only way out.
    """
    spec = only(render(preview(7, SHA)), "NetworkPolicy", "monolith-pr-7")["spec"]
    gateway = {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": "envoy-gateway-system"}
        },
        "podSelector": {"matchLabels": {"gateway.envoyproxy.io/owning-gateway-name": "previews"}},
    }

    assert spec["ingress"] == [{"from": [gateway], "ports": [{"port": 8000}]}]
    assert [rule["to"] for rule in spec["egress"]] == [
        [DNS],
        [{"podSelector": {"matchLabels": {"cnpg.io/cluster": "monolith-pg-pr-7"}}}],
        [{"ipBlock": {"cidr": c}} for c in ("104.16.0.0/13", "104.24.0.0/14", "172.64.0.0/13")],
    ]
    assert [rule["ports"] for rule in spec["egress"][1:]] == [[{"port": 5432}], [{"port": 443}]]


def test_clone():
    """
    Its own pod and the operator get in; DNS and the Kubernetes API are the only way out.
    """
    spec = only(render(preview(7, SHA)), "NetworkPolicy", "monolith-pg-pr-7")["spec"]
    own, operator = spec["ingress"]
    mine, other = (pod(render(preview(n, SHA)))["metadata"]["labels"] for n in (7, 8))

    assert selects(own["from"][0]["podSelector"], mine)
    assert not selects(own["from"][0]["podSelector"], other)
    assert own["ports"] == [{"port": 5432}]
    assert operator["from"][0]["podSelector"] == {
        "matchLabels": {"app.kubernetes.io/name": "cloudnative-pg"}
    }
    assert operator["ports"] == [{"port": 8000}, {"port": 5432}]
    assert spec["egress"][0]["to"] == [DNS]
    assert spec["egress"][1]["ports"] == [{"port": 443}, {"port": 6443}]
    assert len(spec["egress"]) == 2


@pytest.mark.parametrize(
    ("labels", "admitted"),
    [
        (lambda: pod(render(production()))["metadata"]["labels"], True),
        (lambda: {"app": "somebody-else"}, True),
        (lambda: {"cnpg.io/cluster": "monolith-pg"}, True),
        (lambda: pod(render(preview(7, SHA)))["metadata"]["labels"], False),
        (lambda: {"cnpg.io/cluster": "monolith-pg-pr-7"}, False),
    ],
    ids=["production", "other", "replica", "preview", "clone"],
)
def test_source(labels, admitted):
    """
    Production's database refuses pods of previews and of clones, and nobody else.
    """
    policy = only(render(production()), "NetworkPolicy")

    assert policy["spec"]["podSelector"] == {"matchLabels": {"cnpg.io/cluster": "monolith-pg"}}
    assert admits(policy, labels()) is admitted


@given(previews())
def test_one_list(values):
    """
    Wall and tripwire open the same doors: each entry of preview.egressAllow is in both.
    """
    allowed = values["preview"].get("egressAllow", [])
    manifests = render(values)
    wall = only(manifests, "NetworkPolicy", f"monolith-pr-{values['preview']['id']}")["spec"]
    said = [v["value"] for v in containers(manifests)[-1]["env"] if v["name"] == "EGRESS_ALLOW"]

    assert said == [",".join(f"{to['host']}:{to['port']}" for to in allowed)] * bool(allowed)
    assert wall["egress"][3:] == [
        {"to": [{"ipBlock": {"cidr": c}} for c in to["cidrs"]], "ports": [{"port": to["port"]}]}
        for to in allowed
    ]


def test_no_mesh():
    """
    No mesh delivers to a preview behind the walls' backs; production's mesh stays.
    """
    manifests = render(preview(7, SHA))
    off = {"linkerd.io/inject": "disabled"}
    clone = only(manifests, "Cluster")["spec"]

    assert pod(manifests)["metadata"]["annotations"] == off
    assert clone["inheritedMetadata"] == {"annotations": off}
    assert "annotations" not in pod(render(over({}, production())))["metadata"]
