import pytest
from hypothesis import given

from shared.identity import SOURCE
from tests.chart.rendering import only, over, preview, production, render
from tests.chart.strategies import previews

SHA = "2" * 40
FORBIDDEN = {"backup", "plugins", "externalClusters", "replica", "walStorage", "tablespaces"}


@given(previews())
def test_clone(values):
    """
    A clone is one instance that recovers from a snapshot alone and writes to no archive.
    """
    cluster = only(render(values), "Cluster")
    recovery = cluster["spec"]["bootstrap"]["recovery"]

    assert cluster["metadata"]["name"] == f"{SOURCE}-pr-{values['preview']['id']}"
    assert cluster["spec"]["instances"] == 1
    assert FORBIDDEN & cluster["spec"].keys() == set()
    assert "source" not in recovery
    assert (recovery["database"], recovery["owner"]) == ("monolith", "app")


def test_like_production():
    """
    A clone has production's image, size and extensions, whichever they are.
    """
    both = {
        "postgres": {
            "image": "example.org/postgresql:19.1",
            "size": "7Gi",
            "extensions": [{"name": "vector", "image": {"reference": "example.org/vector:1"}}],
        }
    }
    clone = only(render(over(both, preview(7, SHA))), "Cluster")["spec"]
    source = only(render(over(both, production())), "Cluster")["spec"]

    assert clone["imageName"] == source["imageName"] == "example.org/postgresql:19.1"
    assert clone["storage"]["size"] == source["storage"]["size"] == "7Gi"
    assert clone["postgresql"]["extensions"] == source["postgresql"]["extensions"] != []


def test_on_demand():
    """
    By default the clone is made from a snapshot of the primary's volume that goes with the release.
    """
    manifests = render(preview(7, SHA))
    snapshot = only(manifests, "VolumeSnapshot")
    recovery = only(manifests, "Cluster")["spec"]["bootstrap"]["recovery"]

    assert snapshot["spec"] == {
        "volumeSnapshotClassName": "longhorn-snap",
        "source": {"persistentVolumeClaimName": f"{SOURCE}-1"},
    }
    assert recovery["volumeSnapshots"]["storage"] == {
        "name": snapshot["metadata"]["name"],
        "kind": "VolumeSnapshot",
        "apiGroup": "snapshot.storage.k8s.io",
    }


def test_backup():
    """
    With method backup the clone is made from a Backup of production, online and from the primary.
    """
    wish = {"preview": {"snapshotMethod": "backup", "snapshotGeneration": "2"}}
    manifests = render(over(wish, preview(7, SHA)))
    backup = only(manifests, "Backup")
    recovery = only(manifests, "Cluster")["spec"]["bootstrap"]["recovery"]

    assert (
        recovery["backup"] == {"name": backup["metadata"]["name"]} == {"name": f"{SOURCE}-pr-7-2"}
    )
    assert backup["spec"] == {
        "cluster": {"name": SOURCE},
        "method": "volumeSnapshot",
        "target": "primary",
        "online": True,
        "onlineConfiguration": {"immediateCheckpoint": True, "waitForArchive": False},
    }


def test_named():
    """
    With a name the clone is made from that VolumeSnapshot.
    """
    wish = {"preview": {"snapshotName": "of-last-night"}}
    clone = only(render(over(wish, preview(7, SHA))), "Cluster")
    storage = clone["spec"]["bootstrap"]["recovery"]["volumeSnapshots"]["storage"]

    assert storage["name"] == "of-last-night"


@pytest.mark.parametrize("kind", ["VolumeSnapshot", "Cluster"])
def test_no_commit(kind):
    """
    Snapshot and clone are the same to the byte whichever commit runs.
    """
    one, other = (only(render(preview(7, digit * 40)), kind) for digit in "12")

    assert one == other


def test_source():
    """
    Production's database can be snapshotted online, keeps no snapshot, outlives its Application.
    """
    cluster = only(render(production()), "Cluster")

    assert cluster["metadata"]["name"] == SOURCE
    assert cluster["metadata"]["annotations"] == {
        "argocd.argoproj.io/sync-options": "Prune=false,Delete=false"
    }
    assert cluster["spec"]["backup"] == {
        "target": "primary",
        "volumeSnapshot": {
            "className": "longhorn-snap",
            "snapshotOwnerReference": "backup",
            "online": True,
            "onlineConfiguration": {"immediateCheckpoint": True, "waitForArchive": False},
        },
    }
