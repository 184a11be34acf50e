import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from preview.access_verdict import Verdict
from preview.cli import main
from preview.rules import KEEP
from preview.sweep import KINDS
from tests.deploy.admission import POLICIES
from tests.deploy.manifests import DEPLOY

ROOT = DEPLOY.parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"projects/monolith/deploy[\w/.-]*", TEXT))))
def test_paths(path):
    """
    Every file that an operator is told to apply is there.
    """
    assert (ROOT / path.rstrip(".")).exists()


def test_policies():
    """
    Every admission policy is explained, and no other is named; GitHub's names look alike.
    """
    named = set(re.findall(r"`(preview-[a-z-]+)`", TEXT)) - {"preview-access", KEEP}

    assert named == {policy["metadata"]["name"] for policy in POLICIES}


def test_refusal():
    """
    The refusal that the operator is told to look for is what the policy says.
    """
    (quoted,) = re.findall(r'refused with "([^"]+)"', TEXT)
    messages = [each["message"] for policy in POLICIES for each in policy["spec"]["validations"]]

    assert any(message.startswith(quoted) for message in messages)


def test_rights():
    """
    The rights to sweep name every kind that is listed.
    """
    (rights,) = re.findall(r"^Rights: .*$", TEXT, re.MULTILINE)

    assert all(Path(kind.path).name in rights for kind in KINDS)


def test_exit_codes():
    """
    The documented exit codes are those that the command's help names.
    """
    table = TEXT.partition("\n| exit code | means |\n")[2].partition("\n\n")[0]
    documented = re.findall(r"^\| (\d+) \|", table, re.MULTILINE)
    text = CliRunner().invoke(main, ["preview", "sweep", "--help"]).output

    assert documented == ["0", "1", "78"]
    assert re.findall(r"\b\d+\b", text) == documented


def test_verdicts():
    """
    Each verdict of check-access is documented with its exit code, and so is every other code.
    """
    table = TEXT.partition("| verdict | exit code | means | do |")[2].partition("\n\n")[0]
    verdicts = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", table, re.MULTILINE))
    (others,) = re.findall(r"^\| none \| ([\d, ]+) \|", table, re.MULTILINE)
    text = CliRunner().invoke(main, ["preview", "check-access", "--help"]).output
    (exits,) = re.findall(r"Exits (.+?)\.\n", text, re.DOTALL)

    assert verdicts == {verdict.name: str(verdict.exit_code) for verdict in Verdict}
    assert sorted(re.findall(r"\b\d+\b", exits)) == sorted(
        [*verdicts.values(), *others.split(", ")]
    )
