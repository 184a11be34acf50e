import asyncio
import builtins
import json
import os
import sys

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from preview.cli import main
from preview.sweep import _CLAIM, _CLONE, _SNAPSHOT
from tests.fake_kubernetes import (
    APPLICATIONS,
    CLAIMS,
    CLUSTERS,
    CONTENTS,
    SNAPSHOTS,
    VOLUMES,
    FakeKubernetes,
)

LOOK_ALIKES = [
    "monolith-pg",
    "monolith-pg-pr",
    "monolith-pg-pr-",
    "monolith-pg-pr-0",
    "monolith-pg-pr-07",
    "monolith-pg-pr-7x",
    "monolith-pg-pr-1234567890",
    "monolith-pg-prod-7",
    "monolith-pr-7",
    "old-monolith-pg-pr-7",
]


@pytest.fixture
async def cluster():
    """A cluster in which production runs and PR 8 has a preview; nothing is left behind."""
    async with FakeKubernetes().serve() as fake:
        fake.add(APPLICATIONS, "monolith")
        fake.add(APPLICATIONS, "monolith-pr-8")
        for number in ("", "-pr-8"):
            leave(fake, f"monolith-pg{number}", policy="Retain")
        yield fake


def leave(fake, clone, *, namespace="monolith", policy="Delete"):
    """Put all that belongs to one database into the cluster; return the names."""
    claim, snapshot = f"{clone}-1", clone
    fake.add(CLUSTERS, clone)
    fake.add(CLAIMS, claim)
    fake.add(SNAPSHOTS, snapshot)
    volume = {"claimRef": {"namespace": namespace, "name": claim}}
    fake.add(VOLUMES, f"pvc-of-{clone}", spec={**volume, "persistentVolumeReclaimPolicy": policy})
    content = {"volumeSnapshotRef": {"namespace": namespace, "name": snapshot}}
    fake.add(CONTENTS, f"snapcontent-of-{clone}", spec={**content, "deletionPolicy": policy})
    return {clone, claim, snapshot, f"pvc-of-{clone}", f"snapcontent-of-{clone}"}


@pytest.fixture
def sweep(cluster, tmp_path):
    """Run `monolith preview sweep` as an operator does; gives exit code, stdout and stderr."""

    async def run(*arguments):
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(cluster.kubeconfig())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "preview", "preview", "sweep", *arguments),
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": str(kubeconfig)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    return run


def rows(out):
    """Give what was found, of a run with --json."""
    return [line for line in map(json.loads, out.splitlines()) if "kind" in line]


async def test_nothing_left(cluster, sweep):
    """
    Where every preview has its Application, nothing is left, whatever production keeps: exit 0.
    """
    code, out, err = await sweep()

    assert (code, err) == (0, "")
    assert "nothing is left of closed pull requests" in out


async def test_listed(cluster, sweep):
    """
    Clone, volume, claim, content and snapshot of a closed PR are listed: exit 1, no change.
    """
    names = leave(cluster, "monolith-pg-pr-7")
    code, out, _ = await sweep("--json")

    assert code == 1
    assert [row["kind"] for row in rows(out)] == [
        "clone",
        "volume",
        "claim",
        "snapshot content",
        "snapshot",
    ]
    assert {row["name"] for row in rows(out)} == names
    assert {(row["number"], row["state"]) for row in rows(out)} == {(7, "left")}
    assert (cluster.deleted, cluster.patched) == ([], [])


async def test_torn_down(cluster, sweep):
    """
    --delete tears down what a closed PR left, and nothing of production or of a living preview.
    """
    left = leave(cluster, "monolith-pg-pr-7")
    code, out, _ = await sweep("--delete")

    assert code == 0
    assert set(cluster.deleted) == left - {"pvc-of-monolith-pg-pr-7"}
    assert cluster.patched == []
    assert "clone monolith-pg-pr-7 of PR 7: asked to go" in out


async def test_retained(cluster, sweep):
    """
    What says Retain is told to go with its storage, before that which holds it is deleted.
    """
    leave(cluster, "monolith-pg-pr-7", policy="Retain")
    code, out, _ = await sweep("--delete", "--json")

    assert code == 0
    assert cluster.patched == ["pvc-of-monolith-pg-pr-7", "snapcontent-of-monolith-pg-pr-7"]
    assert [row.get("policy") for row in rows(out)] == [None, "Retain", None, "Retain", None]


@pytest.mark.parametrize("name", LOOK_ALIKES)
async def test_look_alikes(cluster, sweep, name):
    """
    A name that only looks like a preview's is never listed or deleted; the real one beside it is.
    """
    cluster.objects[CLUSTERS].clear()
    leave(cluster, name, policy="Retain")
    leave(cluster, "monolith-pg-pr-9")
    _, out, _ = await sweep("--delete", "--json")

    assert {row["number"] for row in rows(out)} == {9}
    assert "monolith-pg-pr-9" in cluster.deleted
    assert not [gone for gone in cluster.deleted + cluster.patched if "pr-9" not in gone]


async def test_other_namespace(cluster, sweep):
    """
    A volume or content that belongs to another namespace is not ours, whatever its claim is named.
    """
    leave(cluster, "monolith-pg-pr-7", namespace="elsewhere", policy="Retain")
    code, out, _ = await sweep("--delete", "--json")

    assert code == 0
    assert {row["kind"] for row in rows(out)} == {"clone", "claim", "snapshot"}
    assert cluster.patched == []


async def test_pages(cluster, sweep):
    """
    Every page is read: an Application on a later page keeps its preview, a leftover there is found.
    """
    cluster.page = 1
    leave(cluster, "monolith-pg-pr-7")
    _, out, _ = await sweep("--delete", "--json")

    assert {row["number"] for row in rows(out)} == {7}
    assert len(cluster.deleted) == 4


@pytest.mark.parametrize("path", [APPLICATIONS, CLUSTERS, SNAPSHOTS, CONTENTS, CLAIMS, VOLUMES])
async def test_no_right_to_list(cluster, sweep, path):
    """
    Whoever may not list everything gets a refusal that says so, and nothing is deleted.
    """
    leave(cluster, "monolith-pg-pr-7")
    cluster.forbidden.add(("GET", path))
    code, _, err = await sweep("--delete")

    assert code == 78
    assert "Refused to sweep" in err
    assert "403 Forbidden" in err
    assert cluster.deleted == []


@pytest.mark.parametrize("path", [APPLICATIONS, SNAPSHOTS])
async def test_kind_unknown(cluster, sweep, path):
    """
    A cluster that does not know a kind is refused, not taken for one in which there are none.
    """
    leave(cluster, "monolith-pg-pr-7")
    del cluster.objects[path]
    code, _, err = await sweep("--delete")

    assert code == 78
    assert "404 NotFound" in err
    assert cluster.deleted == []


@pytest.mark.parametrize("applications", [[], ["monolith-pr-8"]], ids=["none", "no-production"])
async def test_wrong_argo_cd(cluster, sweep, applications):
    """
    Where production's Application is not listed, nothing is called left behind.
    """
    cluster.objects[APPLICATIONS].clear()
    for name in applications:
        cluster.add(APPLICATIONS, name)
    code, _, err = await sweep("--delete")

    assert code == 78
    assert "expected production's Application 'monolith'" in err
    assert cluster.deleted == []


async def test_reopened(cluster, sweep):
    """
    A preview whose Application came back after the listing is kept.
    """
    leave(cluster, "monolith-pg-pr-7")
    cluster.after_list[APPLICATIONS] = lambda: cluster.add(APPLICATIONS, "monolith-pr-7")
    code, out, _ = await sweep("--delete", "--json")

    assert code == 0
    assert {row["outcome"] for row in rows(out)} == {"kept, its Application exists again"}
    assert cluster.deleted == []


async def test_made_anew(cluster, sweep):
    """
    Only the object that was listed is deleted, not one that took its name meanwhile.
    """
    leave(cluster, "monolith-pg-pr-7")
    cluster.after_list[APPLICATIONS] = lambda: cluster.add(CLUSTERS, "monolith-pg-pr-7")
    code, out, _ = await sweep("--delete", "--json")

    assert code == 1
    assert rows(out)[0]["outcome"] == "refused, 409 Conflict"
    assert "monolith-pg-pr-7" in cluster.objects[CLUSTERS]


async def test_no_right_to_delete(cluster, sweep):
    """
    What could not be deleted is said, the rest is deleted all the same: exit 1.
    """
    leave(cluster, "monolith-pg-pr-7")
    cluster.forbidden.add(("DELETE", CLUSTERS))
    code, out, _ = await sweep("--delete", "--json")

    assert code == 1
    assert rows(out)[0]["outcome"] == "refused, 403 Forbidden"
    assert "monolith-pg-pr-7-1" in cluster.deleted


async def test_goes_already(cluster, sweep):
    """
    What is being deleted is listed as such and not deleted again.
    """
    cluster.add(
        CLUSTERS, "monolith-pg-pr-7", metadata={"deletionTimestamp": "2026-11-23T10:00:00Z"}
    )
    code, out, _ = await sweep("--json")

    assert (code, rows(out)[0]["state"]) == (1, "goes")
    assert (await sweep("--delete"))[0] == 0
    assert cluster.deleted == []


async def test_unreachable(cluster, sweep):
    """
    A cluster that does not answer is a refusal in one sentence, not a traceback.
    """
    cluster.url = "http://127.0.0.1:9"
    code, _, err = await sweep()

    assert code == 78
    assert "Refused to sweep" in err
    assert "Traceback" not in err


def test_no_cluster(monkeypatch, tmp_path):
    """
    Without a kubeconfig the refusal says what to set.
    """
    monkeypatch.setattr("kubernetes.config.load_config", _no_config)
    result = CliRunner().invoke(main, ["preview", "sweep"])

    assert result.exit_code == 78
    assert "Set KUBECONFIG." in result.output


def _no_config():
    from kubernetes.config import ConfigException  # noqa: PLC0415

    raise ConfigException


def test_extra_missing(monkeypatch):
    """
    Without the extra the refusal names the module and what to install.
    """
    real = builtins.__import__

    def without_kubernetes(name, *more):
        if name.partition(".")[0] == "kubernetes":
            raise ModuleNotFoundError(name=name)
        return real(name, *more)

    monkeypatch.delitem(sys.modules, "preview.sweep", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_kubernetes)
    result = CliRunner().invoke(main, ["preview", "sweep"])

    assert result.exit_code == 78
    assert "'kubernetes'" in result.output
    assert "make setup" in result.output


@given(st.text("monolithpgr-0123456789.\n\u0667 X", max_size=40), st.integers(1, 999_999_999))
def test_names(text, number):
    """
    A name is a preview's only if it is spelt from a number without leading zero; PR n's always is.
    """
    for pattern in (_CLONE, _SNAPSHOT, _CLAIM):
        match = pattern.fullmatch(text)
        assert match is None or text.startswith(f"monolith-pg-pr-{int(match[1])}")
    assert _CLONE.fullmatch(f"monolith-pg-pr-{number}")
    assert _SNAPSHOT.fullmatch(f"monolith-pg-pr-{number}-1")
    assert _CLAIM.fullmatch(f"monolith-pg-pr-{number}-1")
