"""What deploy/cloudflare says, read without Terraform, and the schema that judges it."""

import re
from collections.abc import Iterator
from typing import Any

import hcl2
import yaml
from hcl2.utils import SerializationOptions

from tests.deploy.manifests import DEPLOY

FOLDER = DEPLOY / "cloudflare"
SCHEMA = yaml.safe_load((DEPLOY.parent / "tests/deploy/cloudflare_schema.yaml").read_text())
META = {"depends_on", "lifecycle"}
"""What Terraform itself takes in every resource."""

Object = dict[str, Any]

_PLAIN = SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)
_LITERALS = {"string": str, "bool": bool, "number": int, "list": list, "object": dict}


def parsed(text: str) -> Object:
    """Return HCL as plain values; what is no literal stays an expression, in `${…}`."""
    found: Object = hcl2.loads(text, serialization_options=_PLAIN)
    return found


def blocks(kind: str) -> Iterator[tuple[tuple[str, ...], Object]]:
    """Find the blocks of one kind in every file, by their labels."""
    for path in sorted(FOLDER.glob("*.tf")):
        for block in parsed(path.read_text()).get(kind, []):
            labels: tuple[str, ...] = ()
            for _ in range({"resource": 2, "locals": 0, "terraform": 0}.get(kind, 1)):
                ((label, block),) = block.items()  # noqa: PLW2901  one label further in
                labels = (*labels, label)
            yield labels, block


RESOURCES = {".".join(labels): block for labels, block in blocks("resource")}
VARIABLES = {labels[0]: block for labels, block in blocks("variable")}
OUTPUTS = {labels[0]: block for labels, block in blocks("output")}
LOCALS = next(block for _, block in blocks("locals"))


def resource(kind: str, name: str) -> Object:
    """Return one resource."""
    found: Object = RESOURCES[f"cloudflare_{kind}.{name}"]
    return found


def value(expression: Any) -> Any:
    """Fill in what locals and the variables' defaults say; other expressions stay as they are."""
    if isinstance(expression, list):
        return [value(each) for each in expression]
    if isinstance(expression, dict):
        return {name: value(each) for name, each in expression.items()}
    if not isinstance(expression, str):
        return expression

    def fill(reference: re.Match[str]) -> str:
        place, name = reference.groups()
        said = LOCALS[name] if place == "local" else VARIABLES[name].get("default")
        return reference[0] if said is None else str(value(said))

    return re.sub(r"\$\{(local|var)\.(\w+)\}", fill, expression)


def objects(expression: Any) -> list[Object]:
    """Return the objects of a list, or the one that a `for` makes of each element."""
    if isinstance(expression, dict):
        return [expression]
    if isinstance(expression, list):
        return expression
    (made,) = re.findall(r"\A\$\{\[for \w+ in .+? : (\{.*\})\]\}\Z", expression)
    return [parsed(f"made = {made}\n")["made"]]


def problems(kind: str, attributes: Object) -> list[str]:
    """Judge a resource's attributes by name, nesting and literal type."""
    known = SCHEMA["resources"].get(kind)
    if not known:
        return [f"{kind} is unknown"]
    own = {name: each for name, each in attributes.items() if name not in META}
    lacking = [f"{kind} lacks {name}" for name in known["required"] if name not in own]
    return lacking + list(_judged(kind, own, known["optional"]))


def _judged(path: str, found: Object, known: Object) -> Iterator[str]:
    for name, each in found.items():
        expected = known.get(name)
        if expected is None:
            yield f"{path}.{name} is unknown"
        elif isinstance(expected, dict):
            for nested in objects(each):
                yield from _judged(f"{path}.{name}", nested, expected)
        elif not str(each).startswith("${") and type(each) is not _LITERALS[expected]:
            yield f"{path}.{name} is no {expected}"
