"""
The admission policies of deploy/, evaluated by Google's CEL runtime.

It differs from the API server in three ways. It has no Kubernetes libraries and no optional
types, so an expression that needs them does not compile here. It evaluates every variable, the
API server only those that are used. And an expression that ends in an error fails the test here,
where the API server would refuse the request.
"""

from functools import cache
from typing import Any

from cel_expr_python import cel

from tests.deploy.manifests import DEPLOY, Object, documents

RESOURCES = {
    "Backup": "backups",
    "BackendTrafficPolicy": "backendtrafficpolicies",
    "Cluster": "clusters",
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "Gateway": "gateways",
    "HTTPRoute": "httproutes",
    "Job": "jobs",
    "NetworkPolicy": "networkpolicies",
    "Pod": "pods",
    "ReplicaSet": "replicasets",
    "ReferenceGrant": "referencegrants",
    "Secret": "secrets",
    "SecurityPolicy": "securitypolicies",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "VolumeSnapshot": "volumesnapshots",
}

_ENV = cel.NewEnv(
    variables={"object": cel.Type.DYN, "request": cel.Type.DYN, "variables": cel.Type.DYN}
)


def refusals(found: Object) -> list[str]:
    """Return what the policies say against an object that is created in namespace monolith."""
    return [message for policy in POLICIES for message in judge(policy, found)]


def refused(found: Object) -> str:
    """Return the one refusal of an object; more than one would hide what caught it."""
    (refusal,) = refusals(found)
    return refusal


def judge(policy: Object, found: Object) -> list[str]:
    """Return what one policy says against an object."""
    spec = policy["spec"]
    group, _, version = found["apiVersion"].rpartition("/")
    kind = {"group": group, "version": version, "kind": found["kind"]}
    if not any(_covers(rule, kind) for rule in spec["matchConstraints"]["resourceRules"]):
        return []
    data: Object = {"object": found, "request": {"kind": kind}, "variables": {}}
    if not all(_evaluate(each["expression"], data) for each in spec.get("matchConditions", [])):
        return []
    for variable in spec.get("variables", []):
        data["variables"][variable["name"]] = _evaluate(variable["expression"], data)
    return [
        each["message"] for each in spec["validations"] if not _evaluate(each["expression"], data)
    ]


def _covers(rule: Object, kind: Object) -> bool:
    return bool(
        {"*", kind["group"]} & set(rule["apiGroups"])
        and {"*", RESOURCES[kind["kind"]]} & set(rule["resources"])
    )


@cache
def _compiled(expression: str) -> cel.Expression:
    return _ENV.compile(expression)


def _evaluate(expression: str, data: Object) -> Any:
    value = _compiled(expression).eval(data=data)
    if value.type() == cel.Type.ERROR:
        msg = f"{expression}\n{value.plain_value()}"
        raise AssertionError(msg)
    return value.plain_value()


POLICIES = [
    found
    for path in sorted((DEPLOY / "platform" / "admission").glob("*.yaml"))
    for found in documents(path)
    if found["kind"] == "ValidatingAdmissionPolicy"
]
