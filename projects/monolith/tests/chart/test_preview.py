from hypothesis import given
from hypothesis import strategies as st

from shared.testing import as_preview
from tests.chart.rendering import (
    RefusedError,
    containers,
    kinds,
    only,
    over,
    pod,
    preview,
    production,
    render,
    secrets,
)
from tests.chart.strategies import previews, productions

SHA = "2" * 40
OBJECTS = ["Cluster", "Deployment", "HTTPRoute", "NetworkPolicy", "NetworkPolicy", "Service"]
LONGEST_NAME = 63


@given(previews())
def test_objects(values):
    """
    A preview is one app, one clone, one route and two walls, with at most one snapshot of its own.
    """
    snapshot = {"backup": ["Backup"]}.get(values["preview"].get("snapshotMethod"))
    if values["preview"].get("snapshotName"):
        snapshot = []

    assert kinds(render(values)) == sorted(
        OBJECTS + (["VolumeSnapshot"] if snapshot is None else snapshot)
    )


@given(previews())
def test_secrets(values):
    """
    Nothing of a preview refers to a secret but the clone's own two, whatever the values.
    """
    own = f"monolith-pg-pr-{values['preview']['id']}"

    assert secrets(render(values)) == {f"{own}-app", f"{own}-ca"}


@given(previews(), productions(), st.booleans(), st.booleans())
def test_secrets_over_production(values, below, mutes, leaves):
    """
    Laid over production's values a preview names no other secret, or is refused.
    """
    number, sha = values["preview"]["id"], values["preview"]["headSha"]
    repairs = {"prEnv": True, "image": {"tag": f"sha-{sha}"}} if mutes else {}
    if leaves:
        below = {
            key: value
            for key, value in below.items()
            if key not in {"secrets", "settings", "cluster"}
        }
    try:
        found = secrets(render(over(over(repairs, values), below)))
    except RefusedError:
        found = None
    given_none = not below.get("secrets") and not below.get("settings")
    whole = mutes and given_none and not below.get("cluster", {}).get("enabled")

    assert found == ({f"monolith-pg-pr-{number}-{end}" for end in ("app", "ca")} if whole else None)


def test_secrets_of_production():
    """
    The same search finds every secret of production.
    """
    assert secrets(render(production())) == {
        "monolith-pg-app",
        "monolith-pg-ca",
        "monolith-credentials",
    }


@given(previews())
def test_names(values):
    """
    Every object is named for its pull request, labelled with it, and short enough for a label.
    """
    number = values["preview"]["id"]
    own = (f"monolith-pr-{number}", f"monolith-pg-pr-{number}")
    generation = values["preview"].get("snapshotGeneration")
    for manifest in render(values):
        name, labels = manifest["metadata"]["name"], manifest["metadata"]["labels"]

        assert name in {*own, f"{own[1]}-{generation}"}
        assert len(name) <= LONGEST_NAME
        assert labels["monolith.jomcgi.dev/pr"] == number
        assert labels["app.kubernetes.io/part-of"] == "monolith-preview"


@given(previews())
def test_muted(values):
    """
    Every container of a preview, init containers too, says PR_ENV=true literally and once.
    """
    found = [
        [variable for variable in container["env"] if variable["name"] == "PR_ENV"]
        for container in containers(render(values))
    ]

    assert found == [[{"name": "PR_ENV", "value": "true"}]] * 5


def test_not_muted():
    """
    Production's containers say PR_ENV=false.
    """
    found = [container["env"][0] for container in containers(render(production()))]

    assert found == [{"name": "PR_ENV", "value": "false"}] * 4


@given(previews())
def test_environment(values):
    """
    The app gets the pull request's number, its commit, its clone's DSN and its clone's authority.
    """
    manifests = render(values)
    app = containers(manifests)[-1]
    found = {variable["name"]: variable for variable in app["env"]}
    clone = only(manifests, "Cluster")["metadata"]["name"]

    assert found["PR_NUMBER"]["value"] == values["preview"]["id"]
    assert found["HEAD_SHA"]["value"] == values["preview"]["headSha"]
    assert app["image"].endswith(f":sha-{values['preview']['headSha']}")
    assert found["DATABASE_URL"]["valueFrom"]["secretKeyRef"] == {
        "name": f"{clone}-app",
        "key": "uri",
    }
    assert found["DATABASE_CA_FILE"]["value"] == "/etc/monolith/database/ca.crt"


@given(previews())
def test_access(values):
    """
    Every container that runs the app gets who may enter, as the app reads it.
    """
    access = values["preview"]["access"]
    expected = {
        "ACCESS_TEAM_DOMAIN": access["teamDomain"],
        "ACCESS_AUD": access["aud"],
        "ACCESS_EMAILS": ",".join(access["emails"]),
        "ACCESS_SERVICE_CLIENTS": ",".join(access["serviceClients"]),
    }
    apps = [
        c for c in containers(render(values)) if c["name"] in ("identify", "neutralize", "monolith")
    ]

    assert len(apps) == 3
    for app in apps:
        found = {v["name"]: v.get("value") for v in app["env"] if v["name"].startswith("ACCESS_")}
        with as_preview(**found) as settings:
            assert settings.access_emails == tuple(access["emails"])
        assert found == expected


@given(previews())
def test_seal(values):
    """
    Every container that runs the app is told whether it must be sealed; unsaid, it need not be.
    """
    for app in containers(render(values)):
        found = {v["name"]: v.get("value") for v in app["env"] if v["name"] == "PR_ENV_SEAL"}
        if app["name"] == "migrate":
            assert found == {}
            continue
        with as_preview(**found) as settings:
            assert settings.pr_env_seal == values["preview"].get("seal", "optional")


JUDGE = ["python", "-m", "preview.stage", "/app/migrations", "/migrations"]
STEPS = [
    ("identify", ["monolith", "check"]),
    ("judge-migrations", JUDGE),
    ("migrate", ["migrate", "apply"]),
    ("neutralize", ["monolith", "neutralize"]),
    ("monolith", []),
]


def steps(manifests):
    """Name every container in order, with what it runs; the app runs what its image says."""
    return [
        (one["name"], one.get("command", one.get("args", [])[:2])) for one in containers(manifests)
    ]


def test_order():
    """
    Identity comes before migrations, migrations before neutralising, all before the app.
    """
    assert steps(render(preview(7, SHA))) == STEPS


def test_order_in_production():
    """
    Production is identified and migrated, and never neutralised.
    """
    assert steps(render(production())) == [step for step in STEPS if step[0] != "neutralize"]


def test_authority_without_key():
    """
    Of the authority's secret only the certificate is mounted, never the private key beside it.
    """
    volumes = pod(render(preview(7, SHA)))["spec"]["volumes"]

    assert volumes[0]["secret"] == {
        "secretName": "monolith-pg-pr-7-ca",
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
    }


@given(previews())
def test_hardened(values):
    """
    No container may write its root, gain a privilege, keep a capability, or be root.
    """
    manifests = render(values)
    spec = pod(manifests)["spec"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


def test_refusal_in_status():
    """
    What a refused container said last is in the pod's status, init containers included.
    """
    found = {c["terminationMessagePolicy"] for c in containers(render(preview(7, SHA)))}

    assert found == {"FallbackToLogsOnError"}


def test_verify_full():
    """
    Atlas connects to the clone alone: the name in the DSN and the clone's authority must both fit.
    """
    migrate = containers(render(preview(7, SHA)))[2]

    assert migrate["args"][-1] == (
        "--url=$(DATABASE_URL)?sslmode=verify-full&sslrootcert=/etc/monolith/database/ca.crt"
    )


def test_strategy():
    """
    A preview's old pod ends before the new one starts, so that two never share a clone.
    """
    assert only(render(preview(7, SHA)), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


@given(previews())
def test_route(values):
    """
    There is exactly one route, with exactly the pull request's hostname and the previews' Gateway.
    """
    manifests = render(values)
    spec = only(manifests, "HTTPRoute")["spec"]
    own = values["preview"]
    gateway = {"name": "previews", "namespace": "envoy-gateway-system", "listener": "previews"}
    gateway |= own.get("gateway", {})
    backends = {backend["name"] for rule in spec["rules"] for backend in rule["backendRefs"]}

    derived = f"{own['id']}.{own.get('domain', 'pr.jomcgi.dev')}"

    assert spec["hostnames"] == [own.get("host") or derived]
    assert spec["hostnames"][0] in (derived, f"pr-{derived}")
    assert [(ref["name"], ref["namespace"], ref["sectionName"]) for ref in spec["parentRefs"]] == [
        (gateway["name"], gateway["namespace"], gateway["listener"])
    ]
    assert backends == {only(manifests, "Service")["metadata"]["name"]}
    assert [rule["matches"][0]["path"]["value"] for rule in spec["rules"]] == ["/api/", "/"]


def test_service_selects_its_own():
    """
    No Service of production or of one preview selects the pods of another.
    """
    rendered = [render(production()), render(preview(7, SHA)), render(preview(71, SHA))]
    selects = [only(manifests, "Service")["spec"]["selector"] for manifests in rendered]
    labels = [pod(manifests)["metadata"]["labels"] for manifests in rendered]
    found = [[selector.items() <= label.items() for label in labels] for selector in selects]

    assert found == [[True, False, False], [False, True, False], [False, False, True]]
