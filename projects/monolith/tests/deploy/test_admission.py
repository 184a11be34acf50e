import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deploy.admission import POLICIES, judge, refusals, refused
from tests.deploy.manifests import DEPLOY, documents, manifest
from tests.deploy.objects import (
    PART_OF,
    PR,
    cluster,
    deployment,
    pod,
    replica_set,
    route,
    security_policy,
    snapshot,
    spec_of,
    tracked,
    untraced,
)

MAKERS = [deployment, replica_set, pod]
OTHERS_SECRETS = ["monolith-pg-app", "monolith-pg-pr-8-app", "monolith-secrets", "monolith-pg-pr-7"]
numbers = st.integers(1, 999_999_999)
secrets = st.sampled_from(OTHERS_SECRETS) | st.text(max_size=40).filter(
    lambda name: name not in {"monolith-pg-pr-7-app", "monolith-pg-pr-7-ca"}
)
IN_ENVIRONMENT: dict[str, Callable[[str], dict[str, Any]]] = {
    "env": lambda name: {
        "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]
    },
    "envFrom": lambda name: {"envFrom": [{"secretRef": {"name": name}}]},
    "envFrom-beside": lambda name: {
        "envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": name}}]
    },
}
IN_VOLUMES: dict[str, Callable[[str], dict[str, Any]]] = {
    "volume": lambda name: {"secret": {"secretName": name}},
    "projected": lambda name: {"projected": {"sources": [{"secret": {"name": name}}]}},
    "projected-beside": lambda name: {
        "projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": name}}]}
    },
}
CONTAINERS = ["containers", "initContainers", "ephemeralContainers"]

EVERYWHERE = ["label", "part-of", "name", "annotation"]
TRACES: dict[str, Callable[[dict[str, Any]], object]] = {
    "label": lambda found: found["metadata"]["labels"].update({PR: "7"}),
    "part-of": lambda found: found["metadata"]["labels"].update({PART_OF: "monolith-preview"}),
    "name": lambda found: found["metadata"].update(name="monolith-pr-7"),
    "clone": lambda found: found["metadata"].update(name="monolith-pg-pr-7"),
    "generated": lambda found: found["metadata"].update(generateName="monolith-pr-7-5d9f-"),
    "annotation": lambda found: tracked(found, "monolith-pr-7"),
    "template": lambda found: labels_of_template(found).update({PR: "7"}),
    "part": lambda found: labels_of_template(found).update({PART_OF: "monolith-preview"}),
}


def labels_of_template(found):
    """Return the labels that a Deployment gives its pods."""
    return found["spec"]["template"]["metadata"]["labels"]


class TestAdmitted:
    """The positive control of every refusal below."""

    @pytest.mark.parametrize("make", [*MAKERS, cluster, snapshot, route])
    @given(number=numbers)
    def test_preview(self, make, number):
        """
        Everything that a preview is made of is admitted, for every number.
        """
        assert refusals(make(number)) == []

    @pytest.mark.parametrize("name", ["monolith-pr-7-settings", "monolith-pg-pr-7-2"])
    def test_longer_name(self, name):
        """
        A preview may have more objects of its kinds, under names that begin with its own.
        """
        found = snapshot()
        found["metadata"]["name"] = name

        assert refusals(found) == []

    @pytest.mark.parametrize("make", MAKERS)
    @pytest.mark.parametrize("kind", ["configMap", "downwardAPI", "emptyDir"])
    def test_volumes(self, make, kind):
        """
        A preview may mount what holds no secret.
        """
        found = make()
        spec_of(found)["volumes"].append({"name": "x", kind: {}})

        assert refusals(found) == []

    @pytest.mark.parametrize("make", [*MAKERS, cluster, snapshot, route])
    def test_production(self, make):
        """
        An object without any trace of a preview is left alone, whatever is in it.
        """
        found = untraced(make())
        if make in MAKERS:
            spec_of(found)["containers"][0] = {
                "name": "monolith",
                "envFrom": [{"secretRef": {"name": "monolith-secrets"}}],
            }
        if make is cluster:
            found["spec"] |= {"instances": 3, "backup": {}, "plugins": []}
        if make is route:
            found["spec"] |= {"hostnames": ["private.jomcgi.dev"], "parentRefs": [{"name": "x"}]}

        assert refusals(found) == []

    @pytest.mark.parametrize("make", [deployment, pod, cluster, route])
    def test_being_deleted(self, make):
        """
        Nothing that is being deleted is held up, also if it should never have been there.
        """
        found = make()
        found["metadata"]["labels"] = {PR: "wrong"}

        assert refusals(found)
        found["metadata"]["deletionTimestamp"] = "2026-11-23T10:00:00Z"
        assert refusals(found) == []


class TestTraces:
    """Leaving a label off does not get anybody past the rules."""

    @pytest.mark.parametrize("label", [PR, PART_OF])
    @pytest.mark.parametrize("make", [deployment, pod, cluster, route, snapshot])
    def test_label_left_off(self, make, label):
        """
        An object of a preview that lacks a label is refused for it, not let past.
        """
        found = make()
        del found["metadata"]["labels"][label]
        if make is deployment:
            del found["spec"]["template"]["metadata"]["labels"][label]

        assert refusals(found)

    @pytest.mark.parametrize("metadata", [{}, {"labels": {}}, {"annotations": {}}])
    def test_template_without_labels(self, metadata):
        """
        A Deployment whose pods would carry no trace is refused for just that.
        """
        found = deployment()
        found["spec"]["template"]["metadata"] = metadata

        assert any("expected the labels" in said for said in refusals(found))

    @pytest.mark.parametrize(
        ("policy", "make", "trace"),
        [
            *(("preview-pods", deployment, trace) for trace in [*EVERYWHERE, "template", "part"]),
            *(("preview-pods", pod, trace) for trace in [*EVERYWHERE, "generated"]),
            *(("preview-clones", cluster, trace) for trace in [*EVERYWHERE, "clone"]),
            *(("preview-routes", route, trace) for trace in EVERYWHERE),
            *(("preview-gateway-policies", security_policy, trace) for trace in EVERYWHERE),
        ],
    )
    def test_any_trace(self, policy, make, trace):
        """
        One trace of a preview is enough for each policy to hold production's object to its rules.
        """
        found = untraced(make())
        if make is route:
            found["spec"] = {"hostnames": ["private.jomcgi.dev"]}
        (judging,) = [each for each in POLICIES if each["metadata"]["name"] == policy]
        assert judge(judging, found) == []

        TRACES[trace](found)
        assert judge(judging, found)

    @pytest.mark.parametrize("make", [deployment, cluster, snapshot, route])
    def test_other_number(self, make):
        """
        The Application of one preview cannot write to another's objects, nor to production's.
        """
        assert refusals(tracked(make(7), "monolith-pr-8"))
        assert refusals(tracked(make(7), "monolith-pr-71"))
        found = tracked(make(7), "monolith-pr-7")
        found["metadata"]["name"] = "monolith-pg"
        assert refusals(found)

    @pytest.mark.parametrize("number", ["0", "07", "7x", "", "1234567890", "-7"])
    @pytest.mark.parametrize("make", [deployment, pod, cluster, route, snapshot])
    def test_no_number(self, make, number):
        """
        What is not a pull request's number is refused as one, everywhere.
        """
        assert refusals(make(number))


class TestObjects:
    """What a preview's Application may make at all."""

    def test_same_list(self):
        """
        The policy and the AppProject permit the same kinds.
        """
        (policy,) = [found for found in POLICIES if found["metadata"]["name"] == "preview-objects"]
        listed = re.findall(r"'([^']*/[^']+)'", policy["spec"]["validations"][0]["expression"])
        project = manifest("appproject.yaml")["spec"]

        assert {name for name in listed if name != "/"} == {
            f"{kind['group']}/{kind['kind']}" for kind in project["namespaceResourceWhitelist"]
        }
        assert project["clusterResourceWhitelist"] == []

    @pytest.mark.parametrize(
        ("version", "kind"),
        [("v1", "Pod"), ("v1", "Secret"), ("batch/v1", "Job"), ("networking.k8s.io/v1", "Gateway")],
    )
    def test_other_kind(self, version, kind):
        """
        A preview's Application may not make any other kind, above all no Secret and no Job.
        """
        found = deployment()
        found["spec"] = pod()["spec"]
        found |= {"apiVersion": version, "kind": kind}

        assert "Refused to admit this kind" in refused(tracked(found, "monolith-pr-7"))


@pytest.mark.parametrize("make", MAKERS)
class TestPods:
    """A preview's pod is muted, and knows no secret but its own clone's."""

    @pytest.mark.parametrize("where", CONTAINERS[:2])
    @given(value=st.text(max_size=8).filter(lambda text: text != "true"))
    def test_other_value(self, make, where, value):
        """
        PR_ENV is the string true, in every container, and nothing else will do.
        """
        found = make()
        spec_of(found)[where][0]["env"] = [{"name": "PR_ENV", "value": value}]

        assert "expected PR_ENV=true" in refused(found)

    @pytest.mark.parametrize(
        "env",
        [
            None,
            [],
            [{"name": "PR_ENV"}],
            [{"name": "pr_env", "value": "true"}],
            [{"name": "PR_ENV", "value": "True"}],
            [{"name": "PR_ENV", "value": "true"}, {"name": "PR_ENV", "value": "false"}],
            [{"name": "PR_ENV", "value": "true"}, {"name": "PR_ENV", "value": "true"}],
            [{"name": "PR_ENV", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}],
        ],
        ids=["none", "empty", "unset", "misspelt", "True", "overridden", "twice", "valueFrom"],
    )
    @pytest.mark.parametrize("where", CONTAINERS[:2])
    def test_not_literal(self, make, where, env):
        """
        PR_ENV stands there once and literally; what only looks like it is refused.
        """
        found = make()
        spec_of(found)[where][0] |= {"env": env}
        if env is None:
            del spec_of(found)[where][0]["env"]

        assert "expected PR_ENV=true" in refused(found)

    def test_sidecar(self, make):
        """
        A container that was added beside the app, by a mesh for one, is held to the same rules.
        """
        found = make()
        spec_of(found)["containers"].append({"name": "proxy"})

        assert "expected PR_ENV=true" in refused(found)

    def test_guest(self, make):
        """
        A debug container may come without PR_ENV, but not with another value.
        """
        found = make()
        spec_of(found)["ephemeralContainers"] = [{"name": "debug"}]
        assert refusals(found) == []

        spec_of(found)["ephemeralContainers"][0]["env"] = [
            {"name": "TERM", "value": "xterm"},
            {"name": "PR_ENV", "value": "false"},
        ]
        assert "expected PR_ENV=true" in refused(found)

    @pytest.mark.parametrize("where", CONTAINERS)
    @pytest.mark.parametrize("how", IN_ENVIRONMENT)
    @given(name=secrets)
    def test_secret_in_environment(self, make, where, how, name):
        """
        No container gets a secret that is not its own clone's, one key of it or all.
        """

        def found(secret):
            made = make()
            muted = [{"name": "PR_ENV", "value": "true"}]
            extra = IN_ENVIRONMENT[how](secret)
            container = {"name": "x", **extra, "env": muted + extra.get("env", [])}
            spec_of(made).setdefault(where, []).append(container)
            return made

        assert "no secret in its environment" in refused(found(name))
        assert refusals(found("monolith-pg-pr-7-app")) == []

    @pytest.mark.parametrize("how", IN_VOLUMES)
    @given(name=secrets)
    def test_secret_in_volume(self, make, how, name):
        """
        No volume holds a secret that is not its own clone's.
        """

        def found(secret):
            made = make()
            spec_of(made)["volumes"].append({"name": "x", **IN_VOLUMES[how](secret)})
            return made

        assert "expected volumes of kind" in refused(found(name))
        assert refusals(found("monolith-pg-pr-7-ca")) == []

    @pytest.mark.parametrize(
        "volume",
        [
            {"persistentVolumeClaim": {"claimName": "monolith-pg-1"}},
            {"hostPath": {"path": "/var/lib"}},
            {"csi": {"driver": "secrets-store.csi.k8s.io"}},
            {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"nfs": {"server": "x", "path": "/"}},
            {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            {"projected": {"sources": [{"clusterTrustBundle": {"path": "ca"}}]}},
            {"secret": {"secretName": ""}},
            {"secret": {}},
            {},
        ],
        ids=lambda volume: next(iter(volume), "none"),
    )
    def test_other_volume(self, make, volume):
        """
        A preview mounts no disk of production's, nothing of the node and no token.
        """
        found = make()
        spec_of(found)["volumes"].append({"name": "x", **volume})

        assert "expected volumes of kind" in refused(found)

    @pytest.mark.parametrize("token", [True, None], ids=["true", "unset"])
    def test_token(self, make, token):
        """
        No token of a service account gets into a preview's pod, also not by default.
        """
        found = make()
        spec_of(found)["automountServiceAccountToken"] = token
        if token is None:
            del spec_of(found)["automountServiceAccountToken"]

        assert "automountServiceAccountToken: false" in refused(found)

    @pytest.mark.parametrize("field", ["hostNetwork", "hostPID", "hostIPC", "privileged"])
    def test_node(self, make, field):
        """
        A preview's pod shares nothing with the node, where no network policy would hold it.
        """

        def found(*, value):
            made = make()
            if field == "privileged":
                spec_of(made)["containers"][0]["securityContext"] = {field: value}
            else:
                spec_of(made)[field] = value
            return made

        assert "nothing shared with the node" in refused(found(value=True))
        assert refusals(found(value=False)) == []


class TestClones:
    """A clone is small, alone, and cannot write where production's database writes."""

    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("instances", 2, "expected one instance"),
            ("instances", 0, "expected one instance"),
            ("backup", {"target": "primary"}, "neither backup nor plugins"),
            ("plugins", [{"name": "barman-cloud.cloudnative-pg.io"}], "neither backup nor plugins"),
            ("externalClusters", [{"name": "origin"}], "bootstrap.recovery with no source"),
            ("replica", {"enabled": True}, "bootstrap.recovery with no source"),
            ("walStorage", {"size": "1Gi"}, "a single volume"),
            ("tablespaces", [{"name": "t"}], "a single volume"),
            ("superuserSecret", {"name": "monolith-pg-superuser"}, "no secret but those"),
            ("certificates", {"serverCASecret": "monolith-pg-ca"}, "no secret but those"),
            ("managed", {"roles": []}, "no secret but those"),
            ("env", [], "no secret but those"),
            ("envFrom", [], "no secret but those"),
            ("projectedVolumeTemplate", {}, "no secret but those"),
        ],
    )
    def test_field(self, field, value, words):
        """
        A clone with a field that reaches beyond itself is refused, field by field.
        """
        found = cluster()
        found["spec"][field] = value

        assert words in refused(found)

    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("source", "origin", "bootstrap.recovery with no source"),
            ("secret", {"name": "monolith-pg-app"}, "no secret but those"),
        ],
    )
    def test_recovery(self, field, value, words):
        """
        A clone recovers from its snapshot alone, and gets a password of its own.
        """
        found = cluster()
        found["spec"]["bootstrap"]["recovery"][field] = value

        assert words in refused(found)

    def test_not_a_copy(self):
        """
        A preview's database is a clone, never an empty one that would pass for it.
        """
        found = cluster()
        found["spec"]["bootstrap"] = {"initdb": {"database": "monolith"}}

        assert any("bootstrap.recovery with no source" in said for said in refusals(found))

    @pytest.mark.parametrize("name", ["monolith-pg", "monolith-pg-pr-8", "monolith-pg-pr-7-b", "x"])
    def test_name(self, name):
        """
        A clone has exactly the name of its pull request, because the identity check reads it.
        """
        found = cluster()
        found["metadata"]["name"] = name

        assert any("expected the name monolith-pg-pr-<n>" in said for said in refusals(found))


class TestGatewayPolicies:
    """Nobody takes a preview's route out from under the Gateway's policy."""

    def test_production(self):
        """
        Production's own policies are left alone.
        """
        assert refusals(security_policy()) == []

    @pytest.mark.parametrize("kind", ["SecurityPolicy", "BackendTrafficPolicy"])
    @pytest.mark.parametrize(
        "trace",
        [
            {"labels": {PR: "7"}},
            {"labels": {PART_OF: "monolith-preview"}},
            {"name": "monolith-pr-7"},
        ],
    )
    def test_of_a_preview(self, kind, trace):
        """
        A preview may not create a policy of the Gateway, of any kind.
        """
        found = security_policy() | {"kind": kind}
        found["metadata"] |= trace

        assert "Gateway policy of a preview" in refused(found)

    @pytest.mark.parametrize(
        ("version", "kind"),
        [
            ("gateway.networking.k8s.io/v1", "Gateway"),
            ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
        ],
    )
    def test_other_kinds(self, version, kind):
        """
        Nor a Gateway of its own, nor a grant that opens another namespace to it.
        """
        found = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": {}}
        assert refusals(found) == []

        assert any(
            "Gateway policy of a preview" in said
            for said in refusals(tracked(found, "monolith-pr-7"))
        )

    @pytest.mark.parametrize(
        "spec",
        [
            {"targetRefs": [{"kind": "HTTPRoute", "name": "monolith-pr-7"}]},
            {"targetRef": {"kind": "HTTPRoute", "name": "monolith-pr-7"}},
            {"targetSelectors": [{"kind": "HTTPRoute", "matchLabels": {PR: "7"}}]},
            {"targetSelectors": [{"kind": "HTTPRoute"}]},
        ],
        ids=["refs", "ref", "selector", "everything"],
    )
    def test_aimed_at_a_preview(self, spec):
        """
        A policy without any label of a preview may not aim at a preview's route either.
        """
        found = security_policy() | {"spec": spec}

        assert "names one or selects by label" in refused(found)


def test_bound():
    """
    Every policy is bound, denies, and refuses what it cannot evaluate.
    """
    found = [
        each
        for path in (DEPLOY / "platform" / "admission").glob("*.yaml")
        for each in documents(path)
    ]
    bindings = {
        each["spec"]["policyName"]: each["spec"]["validationActions"]
        for each in found
        if each["kind"] == "ValidatingAdmissionPolicyBinding"
    }

    assert bindings == {each["metadata"]["name"]: ["Deny"] for each in POLICIES}
    assert {each["spec"]["failurePolicy"] for each in POLICIES} == {"Fail"}


def test_messages():
    """
    Every refusal says what was expected, what was found and what to do.
    """
    for policy in POLICIES:
        for validation in policy["spec"]["validations"]:
            assert re.fullmatch(
                r"Refused to admit [^:]+: expected .+, (the|its|it) .+\. [A-Z].+\.",
                validation["message"],
            )
