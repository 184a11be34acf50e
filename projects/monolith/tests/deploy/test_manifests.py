import copy
import shutil
import subprocess

import lupa
import pytest
import yaml

from tests.chart.rendering import PREVIEW_VALUES, read
from tests.deploy.manifests import (
    CRDS,
    DEPLOY,
    NO_SCHEMA,
    documents,
    is_custom,
    manifest,
    problems,
)

FILES = {path.relative_to(DEPLOY).as_posix(): path for path in DEPLOY.rglob("*.yaml")}
UNLISTED = {
    "values.yaml": "Helm's",
    "platform/argocd-cm-patch.yaml": "a patch of Argo CD's own ConfigMap",
    "platform/snapshot-controller/kustomization.yaml": "applied once, from its own project",
    "platform/storage/storageclass-linked-clone.yaml": "replaces storageclass.yaml",
}
KNOWN = [
    (name, found)
    for name, path in FILES.items()
    if name != "values.yaml"
    for found in documents(path)
    if found.get("kind", "Kustomization") not in NO_SCHEMA
]
OBJECTS = [pytest.param(found, id=f"{name}-{found['kind']}") for name, found in KNOWN]


def schema_of(found):
    """Skip where the schemas of custom resources are not beside the repository."""
    if is_custom(found) and not CRDS.is_dir():
        pytest.skip(f"no schemas of custom resources in {CRDS}")


@pytest.mark.parametrize("found", OBJECTS)
def test_valid(found):
    """
    Every object of deploy/ is one that the API server accepts, down to the last field.
    """
    schema_of(found)

    assert problems(found) == []


@pytest.mark.parametrize("found", OBJECTS)
def test_unknown_field(found):
    """
    A field that the API server does not know is refused, not dropped.
    """
    schema_of(found)
    wrong = copy.deepcopy(found)
    wrong.setdefault("spec", wrong)["surprise"] = True
    (problem,) = problems(wrong)

    assert "surprise" in problem


def test_listed():
    """
    Every file is listed in exactly one kustomization, or named here with the reason why not.
    """
    listed = []
    for directory in (DEPLOY, DEPLOY / "platform"):
        for name in documents(directory / "kustomization.yaml")[0]["resources"]:
            path = directory / name
            assert path.exists(), path
            listed.append(path / "kustomization.yaml" if path.is_dir() else path)
    names = [path.relative_to(DEPLOY).as_posix() for path in listed]

    assert len(names) == len(set(names))
    assert set(names) | {"kustomization.yaml"} == set(FILES) - set(UNLISTED)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl on this machine")
def test_builds():
    """
    `kubectl kustomize` builds deploy/ without the network, and loses no object.
    """
    run = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY)], capture_output=True, text=True, check=False
    )
    built = list(yaml.safe_load_all(run.stdout))
    listed = [found for name, found in KNOWN if name not in UNLISTED]

    assert run.stderr == ""
    assert [found for found in listed if found not in built] == []
    assert len(built) == len(listed) + len(NO_SCHEMA - {"Kustomization"})


@pytest.mark.parametrize(
    ("status", "health"),
    [
        (None, "Progressing"),
        ({}, "Progressing"),
        ({"phase": "running"}, "Progressing"),
        ({"phase": "completed"}, "Healthy"),
        ({"phase": "failed", "error": "no space"}, "Degraded"),
        ({"phase": "invalid backup definition"}, "Degraded"),
    ],
    ids=["new", "empty", "running", "completed", "failed", "invalid"],
)
def test_backup_health(status, health):
    """
    A Backup holds the sync up until it is complete, and fails it when it failed.
    """
    patch = yaml.safe_load((DEPLOY / "platform/argocd-cm-patch.yaml").read_text())
    script = patch["data"]["resource.customizations.health.postgresql.cnpg.io_Backup"]
    lua = lupa.LuaRuntime()
    lua.globals().obj = lua.table_from(
        {"status": status} if status is not None else {}, recursive=True
    )
    found = lua.execute(script)

    assert found["status"] == health
    assert found["message"]


class TestStorage:
    """Nothing stays behind when a pull request closes."""

    def test_snapshot_class(self):
        """
        A snapshot is one in the cluster, not a backup, and its content goes with it.
        """
        found = manifest("platform/storage/volumesnapshotclass.yaml")

        assert found["parameters"] == {"type": "snap"}
        assert found["deletionPolicy"] == "Delete"

    @pytest.mark.parametrize("name", ["storageclass.yaml", "storageclass-linked-clone.yaml"])
    def test_storage_class(self, name):
        """
        A clone's volume goes with its claim, in both variants of the one class.
        """
        found = manifest(f"platform/storage/{name}")

        assert found["metadata"]["name"] == "longhorn-preview"
        assert found["reclaimPolicy"] == "Delete"

    def test_quota(self):
        """
        Three previews and production fit, a fourth does not; Applications are never counted.
        """
        hard = manifest("platform/storage/resourcequota.yaml")["spec"]["hard"]

        assert hard == {
            "count/clusters.postgresql.cnpg.io": "4",
            "count/volumesnapshots.snapshot.storage.k8s.io": "3",
        }


class TestGateway:
    """Nobody gets to a preview past Cloudflare Access."""

    def test_token(self):
        """
        A token counts only from our team, for our application, with a listed identity.
        """
        spec = manifest("platform/gateway/securitypolicy.yaml")["spec"]
        (provider,) = spec["jwt"]["providers"]

        assert provider["issuer"] + "/cdn-cgi/access/certs" == provider["remoteJWKS"]["uri"]
        assert provider["audiences"]
        assert not spec["jwt"].get("optional")
        assert spec["authorization"]["defaultAction"] == "Deny"
        for rule in spec["authorization"]["rules"]:
            claims = {
                claim["name"]: claim["values"] for claim in rule["principal"]["jwt"]["claims"]
            }
            assert claims["type"] == ["app"]
            assert claims.get("email") or claims.get("common_name")

    def test_app_agrees(self):
        """
        Gateway and app ask for the same team, audience, people and machines.
        """
        spec = manifest("platform/gateway/securitypolicy.yaml")["spec"]
        (provider,) = spec["jwt"]["providers"]
        rules = [rule["principal"]["jwt"]["claims"] for rule in spec["authorization"]["rules"]]
        claims = {claim["name"]: claim["values"] for rule in rules for claim in rule}

        assert read(PREVIEW_VALUES)["preview"]["access"] == {
            "teamDomain": provider["issuer"],
            "aud": provider["audiences"][0],
            "emails": claims["email"],
            "serviceClients": claims["common_name"],
        }
        assert len(provider["audiences"]) == 1

    def test_covers_the_gateway(self):
        """
        The policy covers the Gateway itself, so that no route can be without one.
        """
        gateway = manifest("platform/gateway/gateway.yaml")
        policy = manifest("platform/gateway/securitypolicy.yaml")

        assert policy["metadata"]["namespace"] == gateway["metadata"]["namespace"] != "monolith"
        assert policy["spec"]["targetRefs"] == [
            {
                "group": "gateway.networking.k8s.io",
                "kind": "Gateway",
                "name": gateway["metadata"]["name"],
            }
        ]

    def test_one_door(self):
        """
        The Gateway takes HTTPRoutes of one namespace, and only the tunnel gets to it.
        """
        (listener,) = manifest("platform/gateway/gateway.yaml")["spec"]["listeners"]
        proxy = manifest("platform/gateway/envoyproxy.yaml")["spec"]["provider"]["kubernetes"]
        (way_in,) = manifest("platform/gateway/networkpolicy.yaml")["spec"]["ingress"]

        assert listener["allowedRoutes"]["namespaces"]["selector"] == {
            "matchLabels": {"kubernetes.io/metadata.name": "monolith"}
        }
        assert [kind["kind"] for kind in listener["allowedRoutes"]["kinds"]] == ["HTTPRoute"]
        assert proxy["envoyService"]["type"] == "ClusterIP"
        assert way_in["from"] == [{"podSelector": {"matchLabels": {"app": "cloudflared"}}}]
