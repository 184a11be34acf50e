import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from shared.settings import Settings

SOURCE = Path(__file__).parents[1]
STARTERS = {"create_task", "ensure_future", "start_soon", "Thread", "Timer", "run_in_executor"}
STARTERS |= {"ThreadPoolExecutor", "ProcessPoolExecutor", "Process", "create_subprocess_exec"}
STARTERS |= {"create_subprocess_shell", "call_later", "call_soon_threadsafe", "Popen", "fork"}
STARTERS |= {"subprocess_exec", "subprocess_shell", "posix_spawn", "posix_spawnp", "forkpty"}
STARTERS |= {"call_soon", "call_at", "run_coroutine_threadsafe", "to_thread", "start_new_thread"}
STARTERS |= {"BackgroundTask", "BackgroundTasks", "run_in_threadpool", "popen", "system", "execv"}
STARTING_MODULES = {"subprocess", "multiprocessing", "threading", "_thread", "concurrent", "sched"}
STARTS_NOTHING = {"RLock", "enumerate"}
"""What may be imported from them by name."""
MAY_START = {
    "app/startup.py",  # the only starter
    "shared/scheduler.py",  # its own loop, which app/startup.py starts
}


def started_in(text):
    """Name what a module uses to start work in the background."""
    nodes = list(ast.walk(ast.parse(text)))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    used |= {alias.name for node in imports for alias in node.names}
    modules = {
        alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names
    }
    modules |= {
        str(node.module)
        for node in imports
        if isinstance(node, ast.ImportFrom)
        and not {alias.name for alias in node.names} <= STARTS_NOTHING
    }
    return used & STARTERS | {name.partition(".")[0] for name in modules} & STARTING_MODULES


def test_background_work():
    """
    Nothing but a startup point starts background work, in whatever spelling.
    """
    modules = [path for name in ("app", "shared") for path in (SOURCE / name).rglob("*.py")]
    found = {str(path.relative_to(SOURCE)) for path in modules if started_in(path.read_text())}

    assert found == MAY_START


@pytest.mark.parametrize(
    "text",
    [
        "import asyncio\nasyncio.create_task(x())",
        "from asyncio import ensure_future as go\ngo(x())",
        "async with TaskGroup() as tasks:\n    tasks.create_task(x())".replace(
            "async with", "with"
        ),
        "loop.run_in_executor(None, x)",
        "threading.Thread(target=x).start()",
        "from threading import Thread as Worker\nWorker(target=x).start()",
        "from concurrent import futures\nfutures.ThreadPoolExecutor().submit(x)",
        "from subprocess import run\nrun(['git', 'push'])",
        "import subprocess as sp\nsp.check_call(['git', 'push'])",
        "asyncio.create_subprocess_exec('git')",
        "os.system('git push')",
        "multiprocessing.Process(target=x).start()",
        "def route(after: BackgroundTasks):\n    after.add_task(x)",
        "loop.call_later(5, x)",
    ],
    ids=[
        "task", "renamed", "group", "executor", "thread", "renamed-thread", "pool", "run",
        "renamed-module", "program", "shell", "process", "after-an-answer", "later",
    ],
)  # fmt: skip
def test_background_work_is_seen(text):
    """
    The check above sees each way to start work.
    """
    assert started_in(text)


def test_no_settings_at_import():
    """
    Importing the app reads none of our variables, so a test or a tool may import it anywhere.
    """
    names = [str(field.validation_alias) for field in Settings.model_fields.values()]
    script = f"""
import os

read = set()

class Recorded(os.environ.__class__):
    def __getitem__(self, key):
        read.add(key)
        return super().__getitem__(key)

os.environ.__class__ = Recorded
import app.main, app.api.preview, app.api.notes, app.bot, app.jobs, shared.scheduler, preview.twin
ours = read & set({names!r})
os.environ.get("PR_ENV")
print(sorted(ours), "PR_ENV" in read)
"""
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert said.stdout == "[] True\n"


def test_guard_needs_nothing():
    """
    The guard's module needs only the standard library and our errors.
    """
    tree = ast.parse((SOURCE / "shared/guard.py").read_text())
    imported = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names} == {
        "shared.errors"
    }


def test_plugin_is_shipped(tmp_path):
    """
    The wheel has the pytest plugin and its entry point, and `monolith` runs where pytest is not.
    """
    root = SOURCE.parents[1]
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=root, capture_output=True, check=True)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        modules = [name for name in wheel.namelist() if name.startswith("shared/")]
        (points,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
        said = wheel.read(points).decode()
    script = (
        f"import sys; sys.path.insert(0, {str(path)!r}); sys.modules['pytest'] = None\n"
        "import shared.settings; print(shared.settings.__file__)\n"
        "from preview.cli import main; main(['--help'], standalone_mode=False)\n"
        "try: import shared.testing\nexcept ImportError: print('no plugin')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "shared/testing.py" in modules
    assert "[pytest11]\nmonolith = shared.testing" in said
    assert ran.stdout.startswith(f"{path}/")
    assert "Usage" in ran.stdout
    assert ran.stdout.endswith("no plugin\n")


def test_locks_are_complete():
    """
    Every requirement of pyproject.toml is locked with a hash.
    """
    root = SOURCE.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    wanted += [
        line for extra in project["project"]["optional-dependencies"].values() for line in extra
    ]
    lock = (root / "requirements/dev.lock").read_text()
    names = [re.split(r"[>=\[]", line)[0].replace(".", "-") for line in wanted]

    assert [name for name in names if f"\n{name}==" not in f"\n{lock}"] == []
    assert lock.count("==") <= lock.count("--hash=sha256:")
