"""Objects as a preview's Application and the controllers behind it would create them."""

import copy
from typing import Any

Object = dict[str, Any]

PR = "monolith.jomcgi.dev/pr"
PART_OF = "app.kubernetes.io/part-of"
TRACKING = "argocd.argoproj.io/tracking-id"


def labels(number: int) -> dict[str, str]:
    """Return the labels of everything that belongs to a preview."""
    return {PART_OF: "monolith-preview", PR: str(number)}


def tracked(found: Object, application: str) -> Object:
    """Write what Argo CD writes on all that it applies, over whatever is there."""
    group, name = found["apiVersion"].rpartition("/")[0], found["metadata"]["name"]
    annotations = found["metadata"].setdefault("annotations", {})
    annotations[TRACKING] = f"{application}:{group}/{found['kind']}:monolith/{name}"
    return found


def pod_spec(number: int) -> Object:
    """Return a preview's pod as the chart means it."""
    clone = f"monolith-pg-pr-{number}"
    muted = {"name": "PR_ENV", "value": "true"}
    uri = {"secretKeyRef": {"name": f"{clone}-app", "key": "uri"}}
    return {
        "automountServiceAccountToken": False,
        "initContainers": [
            {"name": "check", "env": [muted, {"name": "DATABASE_URL", "valueFrom": uri}]}
        ],
        "containers": [
            {
                "name": "monolith",
                "securityContext": {"allowPrivilegeEscalation": False},
                "env": [
                    {"name": "PR_NUMBER", "value": str(number)},
                    muted,
                    {"name": "DATABASE_URL", "valueFrom": uri},
                ],
            }
        ],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "ca", "secret": {"secretName": f"{clone}-ca"}},
        ],
    }


def deployment(number: int = 7) -> Object:
    """Return the Deployment of a preview."""
    found = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"monolith-pr-{number}", "labels": labels(number)},
        "spec": {
            "template": {"metadata": {"labels": labels(number)}, "spec": pod_spec(number)},
        },
    }
    return tracked(found, f"monolith-pr-{number}")


def replica_set(number: int = 7) -> Object:
    """Return what the Deployment's controller makes; it copies the annotations."""
    found = copy.deepcopy(deployment(number))
    found["kind"] = "ReplicaSet"
    found["metadata"]["name"] += "-5d9f"
    return found


def pod(number: int = 7) -> Object:
    """Return what the ReplicaSet's controller makes."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": f"monolith-pr-{number}-5d9f-", "labels": labels(number)},
        "spec": pod_spec(number),
    }


def cluster(number: int = 7) -> Object:
    """Return the clone of a preview."""
    name = f"monolith-pg-pr-{number}"
    found = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name, "labels": labels(number)},
        "spec": {
            "instances": 1,
            "bootstrap": {
                "recovery": {
                    "database": "monolith",
                    "owner": "app",
                    "volumeSnapshots": {"storage": {"name": name, "kind": "VolumeSnapshot"}},
                }
            },
        },
    }
    return tracked(found, f"monolith-pr-{number}")


def snapshot(number: int = 7) -> Object:
    """Return the snapshot that the clone is made from."""
    found = {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": f"monolith-pg-pr-{number}", "labels": labels(number)},
        "spec": {"source": {"persistentVolumeClaimName": "monolith-pg-1"}},
    }
    return tracked(found, f"monolith-pr-{number}")


def route(number: int = 7) -> Object:
    """Return the route of a preview."""
    found = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": f"monolith-pr-{number}", "labels": labels(number)},
        "spec": {
            "parentRefs": [{"name": "previews", "namespace": "envoy-gateway-system"}],
            "hostnames": [f"{number}.pr.jomcgi.dev"],
            "rules": [{"backendRefs": [{"name": f"monolith-pr-{number}", "port": 8000}]}],
        },
    }
    return tracked(found, f"monolith-pr-{number}")


def security_policy() -> Object:
    """Return a policy of production's own route."""
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "SecurityPolicy",
        "metadata": {"name": "monolith-cf-access", "labels": {PART_OF: "monolith"}},
        "spec": {"targetRefs": [{"kind": "HTTPRoute", "name": "monolith"}]},
    }


def untraced(found: Object) -> Object:
    """Turn an object of a preview into one of production, with production's labels."""
    found["metadata"] = {"name": "monolith", "labels": {PART_OF: "monolith"}}
    if "template" in found["spec"]:
        found["spec"]["template"]["metadata"] = {"labels": {PART_OF: "monolith"}}
    return tracked(found, "monolith")


def spec_of(found: Object) -> Object:
    """Return the pod that an object is or makes."""
    spec: Object = found["spec"] if found["kind"] == "Pod" else found["spec"]["template"]["spec"]
    return spec
