import re
import sys
from pathlib import Path
from subprocess import run

import pytest
import yaml

from shared.settings import Settings
from tests.chart.rendering import containers, preview, render

ROOT = Path(__file__).parents[4]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
WORKFLOW = (ROOT / ".github/workflows/image.yaml").read_text()
IGNORE = (ROOT / ".dockerignore").read_text().splitlines()
SHA = "2" * 40


def test_lint():
    """
    The Dockerfile gives hadolint nothing to say.
    """
    hadolint = Path(sys.executable).with_name("hadolint")
    found = run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (found.returncode, found.stdout) == (0, "")


def test_bases_pinned():
    """
    Every base image is pinned by digest, and all stages have the same.
    """
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)

    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.search(r"@sha256:[0-9a-f]{64}$", bases[0])


def test_actions_pinned():
    """
    Every action is pinned to a whole commit, with its version in a comment.
    """
    uses = re.findall(r"uses: (.+)", WORKFLOW)

    assert len(uses) == 4
    assert [use for use in uses if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", use)] == []


def test_copied():
    """
    What .dockerignore lets through is what the Dockerfile copies: the workflow builds anew only
    where one of these has changed.
    """
    allowed = [line[1:] for line in IGNORE if line.startswith("!")]
    copied = [
        part.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.MULTILINE)
        for part in line.split()[:-1]
    ]

    assert IGNORE[1] == "*"
    assert [path for path in allowed if not (ROOT / path).exists()] == []
    assert [path for path in allowed if not path.startswith(tuple(copied))] == ["Dockerfile"]
    assert [path for path in copied if not any(a.startswith(path) for a in allowed)] == []


def test_hashes():
    """
    Nothing is installed that a lock does not name with its hash.
    """
    installs = re.findall(r"(?:pip install|uv build)[^\n]*", DOCKERFILE)

    assert len(installs) == 4
    assert [line for line in installs if "--require-hashes" not in line] == [
        "pip install --no-cache --compile-bytecode --no-deps --python /app/venv dist/*.whl"
    ]


def test_run():
    """
    The image runs the app without a shell, as a numeric user that is not root, on every address.
    """
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)

    assert user is not None
    assert int(user[1]) > 0
    assert DOCKERFILE.endswith('CMD ["monolith", "serve"]\n')
    assert Settings.model_fields["listen_host"].validation_alias == "LISTEN_HOST"
    assert "LISTEN_HOST=0.0.0.0" in DOCKERFILE


def test_chart_agrees():
    """
    Chart and image agree on the user, the port, the migrations' place and the tag's form.
    """
    manifests = render(preview(7, SHA))
    _, judge, *_, app = containers(manifests)
    pod = next(m for m in manifests if m["kind"] == "Deployment")["spec"]["template"]["spec"]
    steps = yaml.safe_load(WORKFLOW)["jobs"]["image"]["steps"]

    assert f"USER {pod['securityContext']['runAsUser']}:" in DOCKERFILE
    assert f"EXPOSE {app['ports'][0]['containerPort']}" in DOCKERFILE
    assert f"COPY projects/monolith/migrations/ {judge['command'][-2]}/" in DOCKERFILE
    assert steps[-1]["with"]["tags"] == "${{ env.IMAGE }}:sha-${{ env.COMMIT }}"
    assert app["image"].endswith(f"/monolith:sha-{SHA}")


@pytest.mark.parametrize("promise", ["provenance", "sbom"])
def test_provenance(promise):
    """
    The image is pushed with where it came from and what is in it.
    """
    push = yaml.safe_load(WORKFLOW)["jobs"]["image"]["steps"][-1]["with"]

    assert push["push"] is True
    assert push[promise] in (True, "mode=max")


def test_permissions():
    """
    The workflow may write packages and nothing else, and builds no fork's code.
    """
    workflow = yaml.safe_load(WORKFLOW)
    job = workflow["jobs"]["image"]

    assert workflow["permissions"] == {}
    assert job["permissions"] == {"contents": "read", "packages": "write"}
    assert "head.repo.full_name == github.repository" in job["if"]
