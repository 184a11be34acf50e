"""Judge manifests as strictly as an API server that refuses unknown fields."""

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.37"
InvalidError = (jsonschema.ValidationError, kubernetes_validate.ValidationError)

_VALUE = ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string")


@cache
def custom(directory: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Read every CRD: apiVersion and kind to schema."""
    found = {}
    for path in directory.glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())
        for version in crd["spec"]["versions"]:
            key = f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]
            found[key] = _strict(version["schema"]["openAPIV3Schema"])
    return found


def validate(manifest: dict[str, Any], crds: Path) -> None:
    """
    Raise unless the manifest is valid to the last field.

    Args:
        manifest: one object.
        crds: a directory with the schemas of the custom resources.
    """
    schema = custom(crds).get((manifest["apiVersion"], manifest["kind"]))
    if schema is None:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    else:
        jsonschema.Draft202012Validator(schema).validate(manifest)


def unwritten(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Name the fields of list items that are left to a default of the CRD."""
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return [
            found
            for key, inner in value.items()
            for found in unwritten(inner, known.get(key, {}), f"{path}.{key}")
        ]
    if not isinstance(value, list):
        return []
    items = schema.get("items", {})
    found = [
        f"{path}[].{key}"
        for item in value
        if isinstance(item, dict)
        for key, inner in items.get("properties", {}).items()
        if "default" in inner and key not in item
    ]
    return found + [inner for item in value for inner in unwritten(item, items, f"{path}[]")]


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in schema.items() if key != "format"}
    if "x-kubernetes-int-or-string" in made:
        made.pop("type", None)
    if "properties" in made:
        made["properties"] = {key: _strict(value) for key, value in made["properties"].items()}
        if not any(key in made for key in _VALUE):
            made["additionalProperties"] = False
    elif isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = _strict(made["additionalProperties"])
    if isinstance(made.get("items"), dict):
        made["items"] = _strict(made["items"])
    return made
