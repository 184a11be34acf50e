import re
import shutil
import subprocess

import hcl2
import pytest
import yaml
from helm_python import Chart

from tests.chart.rendering import over
from tests.deploy.admission import judge
from tests.deploy.manifests import DEPLOY, documents
from tests.deploy.objects import route

ROOT = DEPLOY.parents[2]
RECORD = ROOT / "docs/decisions/0003-a-previews-name-is-below-a-domain-of-its-own.md"
ZONE, NAME = re.findall(r"```sh\n(.+?)```", RECORD.read_text(), re.DOTALL)
SHA = "2" * 40
SHAPES = {
    "subdomain": ("", "pr.jomcgi.dev", "7.pr.jomcgi.dev"),
    "zone": (ZONE, "jomcgi-previews.dev", "7.jomcgi-previews.dev"),
    "name": (NAME, "jomcgi.dev", "pr-7.jomcgi.dev"),
}
OF_PRODUCTION = ["private.jomcgi.dev", "public.jomcgi.dev", "jomcgi.dev", "*.jomcgi.dev"]


class Switched:
    """A copy of chart/ and deploy/ on which the commands of the decision record were run."""

    def __init__(self, home, commands):
        self.monolith = home / "projects/monolith"
        for name in ("chart", "deploy"):
            shutil.copytree(DEPLOY.parent / name, self.monolith / name)
        subprocess.run(["sh", "-eu", "-c", commands], cwd=home, check=True)

    def document(self, name):
        """Return the first object of a file below deploy/."""
        return documents(self.monolith / "deploy" / name)[0]

    def asked(self):
        """Return the values that the ApplicationSet hands to the chart for pull request 7."""
        spec = self.document("applicationset-preview.yaml")["spec"]["template"]
        text = yaml.safe_dump(spec).replace("{{ .number }}", "7").replace("{{ .head_sha }}", SHA)
        return yaml.safe_load(text)

    def rendered(self, host):
        """Render the chart's route, with the values of a preview and this hostname."""
        values = self.asked()["spec"]["source"]["helm"]["valuesObject"]
        values = over({"preview": {"host": host}}, values)
        below = yaml.safe_load((self.monolith / "chart/values-preview.yaml").read_text())
        with Chart.load(self.monolith / "chart") as chart:
            made = chart.render(over(values, below))
        return yaml.safe_load(made["monolith/templates/httproute.yaml"])


@pytest.fixture(params=SHAPES.values(), ids=list(SHAPES))
def switched(request, tmp_path):
    """The repository in one of the three shapes, and what its names should be."""
    commands, domain, host = request.param
    return Switched(tmp_path, commands), domain, host


def test_consistent(switched):
    """
    In every shape, ApplicationSet, chart, Gateway and admission agree on one hostname.
    """
    found, domain, host = switched
    asked = found.asked()
    (listener,) = found.document("platform/gateway/gateway.yaml")["spec"]["listeners"]

    assert asked["spec"]["source"]["helm"]["valuesObject"]["preview"]["host"] == host
    assert asked["metadata"]["annotations"]["monolith.jomcgi.dev/url"] == f"https://{host}"
    assert found.rendered(host)["spec"]["hostnames"] == [host]
    assert listener["hostname"] == f"*.{domain}"
    assert host.endswith(f".{domain}")


def test_admission(switched):
    """
    In every shape, admission takes a preview's own hostname, and none of production's.
    """
    found, _, host = switched
    policy = found.document("platform/admission/routes.yaml")
    own = route()
    own["spec"]["hostnames"] = [host]

    assert judge(policy, own) == []
    for other in [*OF_PRODUCTION, host.replace("7", "77"), f"a.{host}"]:
        own["spec"]["hostnames"] = [other]
        assert judge(policy, own), other
    bare = route() | {"metadata": {"name": "shop"}}
    bare["spec"] = {"hostnames": [host], "parentRefs": [{"name": "cloudflare-ingress"}]}
    assert judge(policy, bare)


def test_chart_refuses(switched):
    """
    In every shape, the chart refuses another number's hostname, a deeper one and production's.
    """
    found, _, host = switched
    for other in [*OF_PRODUCTION, host.replace("7", "77"), f"a.{host}"]:
        with pytest.raises(Exception, match=r"a preview: expected preview\.host"):
            found.rendered(other)


def test_nothing_is_left(tmp_path):
    """
    After the move to a zone of its own, nothing names the old domain, and Terraform agrees.
    """
    found = Switched(tmp_path, ZONE)
    left = [
        path
        for path in found.monolith.rglob("*")
        if path.is_file() and path.name != "README.md" and "pr.jomcgi.dev" in path.read_text()
    ]
    folder = found.monolith / "deploy/cloudflare"
    texts = {path.name: path.read_text() for path in folder.glob("*.tf")}
    (names,) = hcl2.loads(texts["variables.tf"])["locals"]

    assert left == []
    assert names["domain"] == '"${var.zone_name}"'
    assert names["wildcard"] == '"*.${var.zone_name}"'
    assert '"jomcgi-previews.dev"' in texts["variables.tf"]
    assert "certificate_pack" not in "".join(texts.values())
