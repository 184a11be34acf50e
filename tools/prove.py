"""Mutate the guard's core, and fail where a mutant survives its tests without a written reason."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "projects" / "monolith"
REASONS = tomllib.loads((ROOT / "tools" / "survivors.toml").read_text())

CORE = ["audit", "dsn", "guard", "identity", "settings"]
CONFIG = f"""
[tool.mutmut]
source_paths = ["shared"]
only_mutate = {[f"shared/{name}.py" for name in CORE]}
also_copy = ["app", "preview", "tests", "migrations"]
pytest_add_cli_args_test_selection = {[f"tests/shared/test_{name}.py" for name in CORE]}

[tool.pytest.ini_options]
addopts = ["-p", "no:cacheprovider"]
asyncio_default_fixture_loop_scope = "function"
pythonpath = ["."]
asyncio_mode = "auto"
"""


def main() -> int:
    """Run mutmut on a copy of the code, and compare its survivors with the reasons."""
    with tempfile.TemporaryDirectory(prefix="prove-") as folder:
        copy = Path(folder)
        for name in ("shared", "app", "preview", "tests", "migrations"):
            shutil.copytree(SOURCE / name, copy / name)
        (copy / "pyproject.toml").write_text(CONFIG)
        run = [sys.executable, "-m", "mutmut", "run", "--max-children", str(os.cpu_count() or 1)]
        with (copy / "output").open("wb") as output:
            failed = subprocess.run(run, cwd=copy, stdout=output, check=False)
        results = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
        said = subprocess.run(results, cwd=copy, capture_output=True, text=True, check=False).stdout
        found = dict(re.findall(r"^\s*(\S+__mutmut_\d+): (.+)$", said, re.MULTILINE))
        if failed.returncode or not found:
            sys.stderr.write((copy / "output").read_text().replace("\r", "\n")[-2000:])
            return 1
        return report(found, copy)


def report(found: dict[str, str], copy: Path) -> int:
    """Print what became of the mutants, and each survivor without a reason as a diff."""
    survivors = {name for name, end in found.items() if end not in ("killed", "timeout")}
    for name in sorted(survivors - REASONS.keys()):
        show = [sys.executable, "-m", "mutmut", "show", name]
        diff = subprocess.run(show, cwd=copy, capture_output=True, text=True, check=False)
        sys.stdout.write(f"{found[name]}: {name}\n{diff.stdout}\n")
    for name in sorted(REASONS.keys() - survivors):
        sys.stdout.write(
            f"tools/survivors.toml gives a reason for {name}, which does not survive\n"
        )
    counts = ", ".join(f"{number} {end}" for end, number in Counter(found.values()).items())
    sys.stdout.write(f"{len(found)} mutants of {', '.join(CORE)}: {counts}\n")
    return int(survivors != REASONS.keys())


if __name__ == "__main__":
    sys.exit(main())
