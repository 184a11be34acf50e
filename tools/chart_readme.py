"""Write the chart's README from README.md.gotmpl and the `# --` comments of values.yaml."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "projects" / "monolith" / "chart"
TABLE = '{{ template "chart.valuesTable" . }}'


def rows(text: str) -> list[tuple[str, str, str]]:
    """Return key, default and description of every value with a `# --` comment."""
    values = yaml.safe_load(text)
    found, path, said = [], [], ""
    for line in text.splitlines():
        comment = re.match(r"\s*# -- (.+)", line)
        key = re.match(r"( *)(\w+):", line)
        if comment:
            said = comment[1]
        elif key:
            path = [*path[: len(key[1]) // 2], key[2]]
            if said:
                found.append((".".join(path), default(values, path), said))
            said = ""
    return found


def default(values: Any, path: list[str]) -> str:
    """Return the value at `path` as JSON."""
    for key in path:
        values = values[key]
    return json.dumps(values)


def readme() -> str:
    """Return what README.md must say."""
    lines = ["| key | default | |", "| --- | --- | --- |"]
    for key, value, said in rows((CHART / "values.yaml").read_text()):
        lines.append(f"| `{key}` | `{value}` | {said} |")
    return (CHART / "README.md.gotmpl").read_text().replace(TABLE, "\n".join(lines))


if __name__ == "__main__":
    path = CHART / "README.md"
    if "--check" not in sys.argv:
        path.write_text(readme())
    elif not path.exists() or path.read_text() != readme():
        sys.exit(
            "Refused to accept chart/README.md: expected it to say what values.yaml says. "
            "Run: make docs."
        )
