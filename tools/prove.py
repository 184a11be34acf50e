"""Mutate the guard's core, and fail where a mutant survives its tests without a written reason."""

import argparse
import ast
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

from preview.binaries import Binaries
from tests.source import HANDED, running_clone, running_source

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "projects" / "monolith"
COPIED = ("shared", "app", "preview", "tests", "migrations")

CORE = {
    "shared/audit.py": ("tests/shared/test_audit.py",),
    "shared/database.py": ("tests/shared/test_database.py",),
    "shared/dsn.py": ("tests/shared/test_dsn.py",),
    "shared/guard.py": ("tests/shared/test_guard.py",),
    "shared/identity.py": ("tests/shared/test_identity.py",),
    "shared/outward.py": ("tests/shared/test_outward.py",),
    "shared/seal.py": ("tests/shared/test_seal.py",),
    "shared/settings.py": ("tests/shared/test_settings.py",),
    "shared/tripwire.py": ("tests/shared/test_tripwire.py", "tests/shared/test_known.py"),
    "app/startup.py": ("tests/app/test_program.py", "tests/app/test_startup.py"),
}
"""Each module of the core, and the tests that must kill every mutant of it."""

PROGRESS_SECONDS = 30.0
OURS = ("tools/prove.py", "tools/survivors.toml")
CONFIG = """
[tool.mutmut]
source_paths = ["shared", "app"]
only_mutate = {modules}
also_copy = ["preview", "tests", "migrations"]
pytest_add_cli_args = ["-m", "not own_process"]
pytest_add_cli_args_test_selection = {tests}

[tool.pytest.ini_options]
addopts = ["-p", "no:cacheprovider", "--import-mode=importlib"]
asyncio_default_fixture_loop_scope = "function"
pythonpath = ["."]
asyncio_mode = "auto"
markers = ["own_process"]
timeout = 20
"""


def main() -> int:
    """Mutate the whole core, or what has changed of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changed", metavar="BASE", help="only what has changed since this commit")
    base = parser.parse_args().changed
    modules = changed_since(base) if base else list(CORE)
    if not modules:
        sys.stdout.write(f"0 mutants: nothing of the core has changed since {base}\n")
        return 0
    return prove(modules)


def changed_since(base: str) -> list[str]:
    """Name the modules of the core that changed since `base`, or whose tests did."""
    git = ["git", "-C", str(ROOT), "diff", "--name-only", "--merge-base", base]
    changed = set(subprocess.run(git, check=True, capture_output=True, text=True).stdout.split())
    if changed & set(OURS):
        return list(CORE)
    prefix = SOURCE.relative_to(ROOT).as_posix()
    return [
        module
        for module, tests in CORE.items()
        if {f"{prefix}/{path}" for path in (module, *tests)} & changed
    ]


def prove(modules: list[str]) -> int:
    """Run mutmut on a copy of the code, and judge its survivors."""
    with tempfile.TemporaryDirectory(prefix="prove-") as folder:
        copy = Path(folder)
        copy.chmod(0o711)  # whoever runs Postgres must get through
        for name in COPIED:
            shutil.copytree(SOURCE / name, copy / name)
        for module in modules:
            (copy / module).write_text(undecorated((copy / module).read_text()))
        tests = [path for module in modules for path in CORE[module]]
        (copy / "pyproject.toml").write_text(CONFIG.format(modules=modules, tests=tests))
        found = asyncio.run(mutate_with_postgres(copy))
        reasons = tomllib.loads((ROOT / "tools" / "survivors.toml").read_text())
        named = {module.removesuffix(".py").replace("/", ".") for module in modules}
        explained = {name for name in reasons if module_of(name) in named}
        return report(found, explained, copy) if found else 1


def module_of(mutant: str) -> str:
    """Name the module that a mutant is one of."""
    return mutant.rpartition(".")[0]


async def mutate_with_postgres(copy: Path) -> dict[str, str]:
    """Start one source and one clone for all mutants."""
    binaries = Binaries.locate(copy)
    async with running_source(copy, binaries) as source, running_clone(copy, source, binaries):
        return mutate(copy)


def undecorated(text: str) -> str:
    """
    Write `@decorator` above a function as `name = decorator(name)` below it.

    mutmut passes over decorated functions, which are properties and every context manager.
    """
    lines = text.splitlines()
    tree = ast.parse(text)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    nodes = [node for part in (tree, *classes) for node in part.body]
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in sorted(functions, key=lambda node: node.lineno, reverse=True):
        names = [ast.unparse(decorator) for decorator in function.decorator_list]
        if names and names != ["classmethod"]:
            indent = " " * function.col_offset
            lines[function.end_lineno : function.end_lineno] = [
                f"{indent}{function.name} = {name}({function.name})" for name in reversed(names)
            ]
            del lines[function.decorator_list[0].lineno - 1 : function.lineno - 1]
    return "\n".join(lines) + "\n"


def mutate(copy: Path) -> dict[str, str]:
    """Return what became of each mutant; of none, where mutmut itself failed."""
    run = [sys.executable, "-m", "mutmut", "run", "--max-children", str(os.cpu_count() or 1)]
    handed = os.environ | {HANDED: str(copy)}
    output = copy / "output"
    with (
        output.open("wb") as written,
        subprocess.Popen(run, cwd=copy, env=handed, stdout=written) as mutmut,
    ):
        while (failed := waited(mutmut)) is None:
            sys.stderr.write(f"{progress(output.read_text(errors='replace'))}\n")
    results = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
    said = subprocess.run(results, cwd=copy, capture_output=True, text=True, check=False).stdout
    found = dict(re.findall(r"^\s*(\S+__mutmut_\d+): (.+)$", said, re.MULTILINE))
    if failed or not found:
        sys.stderr.write(output.read_text().replace("\r", "\n")[-2000:])
        return {}
    return found


def waited(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the end of a program a while; return its exit code, None while it runs."""
    try:
        return process.wait(PROGRESS_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def progress(output: str) -> str:
    """Say how far mutmut has come, which it writes over and over as `12/1673`."""
    counts = re.findall(r"\b(\d+)/(\d+)\b", output)
    return "{} of {} mutants tried".format(*counts[-1]) if counts else "preparing the mutants"


def report(found: dict[str, str], explained: set[str], copy: Path) -> int:
    """Print what became of the mutants, and each survivor without a reason as a diff."""
    survivors = {name for name, end in found.items() if end not in ("killed", "timeout")}
    for name in sorted(survivors - explained):
        show = [sys.executable, "-m", "mutmut", "show", name]
        diff = subprocess.run(show, cwd=copy, capture_output=True, text=True, check=False)
        sys.stdout.write(f"{found[name]}: {name}\n{diff.stdout}\n")
    for name in sorted(explained - survivors):
        sys.stdout.write(
            f"tools/survivors.toml gives a reason for {name}, which does not survive\n"
        )
    for module, ends in by_module(found).items():
        counts = ", ".join(f"{number} {end}" for end, number in sorted(ends.items()))
        sys.stdout.write(f"{module}: {ends.total()} mutants, {counts}\n")
    unexplained = len(survivors - explained)
    sys.stdout.write(
        f"{len(found)} mutants, {len(found) - len(survivors)} killed, "
        f"{len(survivors) - unexplained} explained, {unexplained} unexplained\n"
    )
    return int(survivors != explained)


def by_module(found: dict[str, str]) -> dict[str, Counter[str]]:
    """Count the mutants of each module by what became of them."""
    counts: dict[str, Counter[str]] = {}
    for name, end in found.items():
        counts.setdefault(module_of(name), Counter())[end] += 1
    return counts


if __name__ == "__main__":
    sys.exit(main())
