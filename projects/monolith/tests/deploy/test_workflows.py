import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from preview.access_hosts import Wildcard
from preview.errors import AccessCheckError
from preview.pulls import IMAGE_JOB
from tests.fake_github import RIGHTS

WORKFLOWS = Path(__file__).parents[4] / ".github/workflows"
EVERY = sorted(WORKFLOWS.glob("*.yaml"))
HIGH = 14
"""How zizmor leaves where it found something grave."""
CODES = [0, 2, 3, 4, 64, 78]


def workflow(name):
    """Read one workflow; YAML takes the key `on` for true."""
    read = yaml.safe_load((WORKFLOWS / f"{name}.yaml").read_text())
    return {("on" if key is True else key): value for key, value in read.items()}


@pytest.fixture
def label():
    """The job that gives and takes labels."""
    return workflow("preview")["jobs"]["label"]


def zizmor(*paths):
    """Audit workflows; return the exit code."""
    program = str(Path(sys.executable).with_name("zizmor"))
    command = [program, "--quiet", "--offline", "--persona=auditor", *map(str, paths)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def run_step(step, directory, code=0, wildcard="*.pr.example.com", gh="printf '7\\n9\\n'"):
    """Run the script of the step that checks Access; return what was asked for and its output."""
    bin_ = directory / "bin"
    for name, script in {
        bin_ / "gh": gh,
        directory / ".venv/bin/monolith": f'printf "%s\\n" "$@" > asked; echo "{{}}"; exit {code}',
    }.items():
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text(f"#!/bin/sh\n{script}\n")
        name.chmod(0o755)
    subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]],
        cwd=directory,
        env={
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "WILDCARD": wildcard,
            "RUNNER_TEMP": str(directory),
            "GITHUB_OUTPUT": str(directory / "output"),
        },
        check=True,
    )
    return (directory / "asked").read_text().split(), (directory / "output").read_text()


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_pinned(path):
    """
    Every action of every workflow is one commit, which nobody can move.
    """
    used = re.findall(r"uses: (\S+)", path.read_text())

    assert used
    assert [name for name in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name)] == []


def test_audit(tmp_path):
    """
    The audit that make check runs sees a workflow that trusts a pull request.
    """
    assert zizmor(*EVERY) == 0
    bad = tmp_path / "preview.yaml"
    bad.write_text((WORKFLOWS / bad.name).read_text().replace("# zizmor: ignore", "#"))

    assert zizmor(bad) == HIGH


class TestPreview:
    """The workflow that gives and takes labels."""

    def test_runs_nothing_of_a_pull_request(self, label):
        """
        It checks out the default branch, and no expression of an event reaches a script.
        """
        (checkout,) = [step for step in label["steps"] if "checkout" in step.get("uses", "")]
        assert checkout["with"] == {
            "ref": "${{ github.event.repository.default_branch }}",
            "persist-credentials": False,
        }
        scripts = "\n".join(step.get("run", "") for step in label["steps"])

        assert "make setup" in scripts
        assert "${{" not in scripts

    def test_permissions(self, label):
        """
        It has exactly the rights with which the command is tested, and nothing else has any.
        """
        given = {name.replace("-", "_"): right for name, right in label["permissions"].items()}

        assert given | {"metadata": "read"} == RIGHTS
        assert workflow("preview")["permissions"] == {}

    def test_one_writer(self):
        """
        One run at a time for the whole repository, and none is cut off by the next.
        """
        assert workflow("preview")["concurrency"] == {
            "group": "preview-label",
            "cancel-in-progress": False,
        }

    def test_events(self):
        """
        It runs when a label, a pull request or an image changes, four times an hour, and by hand.
        """
        events = workflow("preview")["on"]
        types = set(events["pull_request_target"]["types"])

        assert types >= {"opened", "reopened", "synchronize", "edited", "ready_for_review"}
        assert types >= {"labeled", "unlabeled", "closed", "converted_to_draft"}
        assert events["workflow_run"]["workflows"] == [workflow("image")["name"]]
        assert len(events["schedule"][0]["cron"].split()[0].split(",")) == 4
        assert "workflow_dispatch" in events

    def test_secrets(self, label):
        """
        Its secrets are an environment's, which only main's runs get; no run is a deployment to it.
        """
        assert label["environment"] == {"name": "preview-access", "deployment": False}

    def test_image_job(self):
        """
        The job whose success means that an image exists has the name that is asked for.
        """
        assert workflow("image")["jobs"]["image"]["name"] == IMAGE_JOB

    @pytest.mark.parametrize("code", CODES)
    def test_check_access(self, label, tmp_path, code):
        """
        Access is checked for every labelled preview before any label is given; whatever comes of
        it, labels are looked after, and the run is green only for 0.
        """
        *_, check, write, judge = label["steps"]
        asked, output = run_step(check, tmp_path, code)
        verdict = subprocess.run(
            ["bash", "-e", "-c", judge["run"]],
            env={"CODE": output.strip().removeprefix("code=")},
            check=False,
        )

        assert asked == [
            *("preview", "check-access", "--json", "--shut", "--wildcard", "*.pr.example.com"),
            *("0.pr.example.com", "7.pr.example.com", "9.pr.example.com"),
        ]
        assert (tmp_path / "access.json").read_text() == "{}\n"
        assert "preview label" in write["run"]
        assert '--access-report "$RUNNER_TEMP/access.json"' in write["run"]
        assert judge["if"] == "always()"
        assert (verdict.returncode == 0) is (code == 0)

    @pytest.mark.parametrize("gh", ["true", "exit 1"], ids=["no preview", "GitHub is down"])
    @pytest.mark.parametrize("wildcard", ["*.pr.example.com", "pr-*.example.com"])
    def test_first_check(self, label, tmp_path, wildcard, gh):
        """
        Before there is any preview, Access can be proven, whatever previews are called.
        """
        with pytest.raises(AccessCheckError):
            Wildcard.parse("pr-*.example.com").hosts(())
        asked, _ = run_step(label["steps"][-3], tmp_path, wildcard=wildcard, gh=gh)
        live = tuple(asked[asked.index(wildcard) + 1 :])

        assert live == (wildcard.replace("*", "0"),)
        assert Wildcard.parse(wildcard).hosts(live)[0].name == live[0]

    def test_no_check(self, label):
        """
        A run that never got to check Access is red, too.
        """
        judge = label["steps"][-1]["run"]

        assert subprocess.run(["bash", "-c", judge], env={"CODE": ""}, check=False).returncode == 1
