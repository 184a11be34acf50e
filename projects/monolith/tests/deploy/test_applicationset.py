import copy
import json
import re
from typing import Any

import pytest
import yaml
from helm_python import Chart
from hypothesis import given
from hypothesis import strategies as st

from tests.deploy.admission import refusals
from tests.deploy.manifests import CHART, manifest
from tests.deploy.objects import tracked

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
class TestChart:
    """What the ApplicationSet hands over and what the chart makes of it fit together."""

    @pytest.fixture
    def deployed(self, render):
        """Give what Argo CD would apply for PR 7, with its annotation."""
        helm = render(7, SHA)["spec"]["source"]["helm"]
        values: dict[str, Any] = {}
        for file in helm["valueFiles"]:
            merge(values, yaml.safe_load((CHART / file).read_text()))
        merge(values, helm["valuesObject"])
        with Chart.load(CHART) as chart:
            rendered = chart.render(values, name=helm["releaseName"], namespace="monolith")
        return [
            tracked(found, "monolith-pr-7")
            for path, text in rendered.items()
            if path.endswith(".yaml")
            for found in yaml.safe_load_all(text)
            if found
        ]

    def test_values_known(self, render):
        """
        Every value that the ApplicationSet hands over is one that the chart declares.
        """
        with Chart.load(CHART) as chart:
            handed = render(7, SHA)["spec"]["source"]["helm"]["valuesObject"]

            assert set(handed) <= set(chart.values)
            assert set(handed["image"]) <= set(chart.values["image"])
            assert set(handed["preview"]) <= set(chart.values["preview"])

    def test_admitted(self, deployed):
        """
        The AppProject permits and the policies admit all that a preview is made of.
        """
        permitted = {
            (kind["group"], kind["kind"]) for kind in PROJECT["spec"]["namespaceResourceWhitelist"]
        }
        made = {(found["apiVersion"].rpartition("/")[0], found["kind"]) for found in deployed}

        assert made <= permitted
        assert {found["metadata"]["name"]: refusals(found) for found in deployed} == {
            found["metadata"]["name"]: [] for found in deployed
        }

    def test_other_application(self, deployed):
        """
        The same objects from another Application would be refused, each of them.
        """
        others = [tracked(copy.deepcopy(found), "monolith-pr-8") for found in deployed]

        assert all(refusals(found) for found in others)


def merge(into, values):
    """Lay values over others, as Helm does."""
    for key, value in values.items():
        if isinstance(value, dict):
            merge(into.setdefault(key, {}), value)
        else:
            into[key] = value
