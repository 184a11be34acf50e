"""What deploy/ holds, and the schemas that judge it."""

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY.parent / "chart"
CRDS = Path(__file__).parents[5] / "shared" / "crds"
NO_SCHEMA = {"GatewayClass", "EnvoyProxy", "Kustomization"}
"""Kinds of which neither the schemas beside the repository nor kubernetes-validate know."""

_BUILT_IN = ("v1", "apps/", "networking.k8s.io/", "storage.k8s.io/", "admissionregistration.")

Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    """Return the objects of one file."""
    return [found for found in yaml.load_all(path.read_text(), yaml.CSafeLoader) if found]


def manifest(name: str) -> Object:
    """Return the first object of a file below deploy/."""
    return documents(DEPLOY / name)[0]


def is_custom(found: Object) -> bool:
    """Say whether the object's schema is a CRD's."""
    return not found["apiVersion"].startswith(_BUILT_IN)


def problems(found: Object) -> list[str]:
    """Judge an object as the API server would, and an unknown field as a problem."""
    if is_custom(found):
        schema = jsonschema.Draft202012Validator(_schema(found["apiVersion"], found["kind"]))
        return [error.message for error in schema.iter_errors(found)]
    try:
        kubernetes_validate.validate(found, "1.37", strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


@cache
def _schema(api_version: str, kind: str) -> Object:
    group, _, version = api_version.rpartition("/")
    for path in CRDS.glob(f"{group}_*.yaml"):
        for crd in documents(path):
            if crd["spec"]["names"]["kind"] != kind:
                continue
            served = {found["name"]: found for found in crd["spec"]["versions"]}
            schema: Object = _strict(served[version]["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            return schema
    msg = f"{CRDS} has no schema of {api_version} {kind}"
    raise LookupError(msg)


def _strict(schema: Any) -> Any:
    """Refuse what a structural schema would silently drop."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict
