import json
import re

import pytest
import yaml
from helm_python import Chart
from hypothesis import given
from hypothesis import strategies as st

from tests.deploy.manifests import CHART, manifest

APPLICATIONSET = manifest("applicationset-preview.yaml")["spec"]
PROJECT = manifest("appproject.yaml")
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def render(tmp_path_factory):
    """Evaluate the Application's template with Go's own engine, which Helm brings along."""
    home = tmp_path_factory.mktemp("applicationset")
    (home / "templates").mkdir()
    (home / "Chart.yaml").write_text("apiVersion: v2\nname: applicationset\nversion: 0.0.0\n")
    leaves = json.dumps(APPLICATIONSET["template"])
    (home / "templates" / "application.yaml").write_text(
        "{{- with .Values.parameters -}}" + leaves + "{{- end -}}"
    )
    with Chart.load(home) as chart:

        def rendered(number, head_sha):
            parameters = {"number": str(number), "head_sha": head_sha}
            (text,) = chart.render({"parameters": parameters}).values()
            return yaml.safe_load(text)

        yield rendered


@given(st.integers(1, 999_999_999), st.text("0123456789abcdef", min_size=40, max_size=40))
def test_application(render, number, sha):
    """
    PR n gets the Application monolith-pr-<n> with its image and its host, all of it strings.
    """
    found = render(number, sha)
    helm = found["spec"]["source"]["helm"]

    assert found["metadata"]["name"] == helm["releaseName"] == f"monolith-pr-{number}"
    assert found["metadata"]["labels"]["monolith.jomcgi.dev/pr"] == str(number)
    assert helm["valuesObject"] == {
        "image": {"tag": f"sha-{sha}"},
        "preview": {
            "enabled": True,
            "id": str(number),
            "headSha": sha,
            "host": f"{number}.pr.jomcgi.dev",
        },
    }


def test_only_number_and_sha():
    """
    Nothing that an author spells freely gets into an Application; what is missing is an error.
    """
    used = re.findall(r"\{\{(.*?)\}\}", json.dumps(APPLICATIONSET["template"]))

    assert set(used) == {" .number ", " .head_sha "}
    assert APPLICATIONSET["goTemplate"] is True
    assert APPLICATIONSET["goTemplateOptions"] == ["missingkey=error"]


def test_which_pull_requests():
    """
    Only labelled pull requests against main get a preview, within two minutes.
    """
    (generator,) = APPLICATIONSET["generators"]
    found = generator["pullRequest"]

    assert found["github"]["labels"] == ["preview"]
    assert found["filters"] == [{"targetBranchMatch": "^main$"}]
    assert found["requeueAfterSeconds"] == 120
    assert "continueOnRepoNotFoundError" not in found


def test_chart_from_main(render):
    """
    Chart and values come from main, in a project that the pull request does not choose.
    """
    spec = render(7, SHA)["spec"]

    assert spec["source"]["targetRevision"] == "main"
    assert spec["source"]["helm"]["valueFiles"] == ["values-preview.yaml"]
    assert spec["project"] == PROJECT["metadata"]["name"] == "monolith-previews"
    assert spec["source"]["repoURL"] in PROJECT["spec"]["sourceRepos"]
    assert spec["destination"] in PROJECT["spec"]["destinations"]


def test_sync(render):
    """
    A preview adopts nothing of production's, gives up on a commit that fails, and goes in whole.
    """
    found = render(7, SHA)
    policy = found["spec"]["syncPolicy"]

    assert policy["syncOptions"] == ["FailOnSharedResource=true"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert 0 < policy["retry"]["limit"] <= 5
    assert found["metadata"]["finalizers"] == ["resources-finalizer.argocd.argoproj.io"]
    assert APPLICATIONSET["syncPolicy"]["preserveResourcesOnDeletion"] is False


def test_production_stays():
    """
    Deleting production's Application deletes nothing else, and it is not in the previews' project.
    """
    found = manifest("application.yaml")

    assert "finalizers" not in found["metadata"]
    assert found["spec"]["project"] != PROJECT["metadata"]["name"]


@pytest.mark.skipif(not (CHART / "Chart.yaml").exists(), reason="the chart is not here yet")
def test_values_known(render):
    """
    The chart takes the values that the ApplicationSet hands over, and the files that it names.
    """
    helm = render(7, SHA)["spec"]["source"]["helm"]
    files = [yaml.safe_load((CHART / name).read_text()) for name in helm["valueFiles"]]
    with Chart.load(CHART) as chart:
        for values in [*files, helm["valuesObject"]]:
            known = chart.values
            unknown = [key for key in _paths(values) if not _has(known, key)]

            assert unknown == []


def _paths(values, *above):
    for key, value in values.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _paths(value, *above, key)


def _has(values, path):
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return isinstance(values, dict) and not values
        values = values[key]
    return True
