import re
import shutil
import subprocess

import pytest

from tests.chart.rendering import CHART, PREVIEW_VALUES, read
from tests.deploy.terraform import (
    FOLDER,
    LOCALS,
    META,
    OUTPUTS,
    RESOURCES,
    SCHEMA,
    VARIABLES,
    blocks,
    objects,
    problems,
    resource,
    value,
)

TEXT = "\n".join(path.read_text() for path in sorted(FOLDER.glob("*.tf")))
CODE = re.sub(r"(?m)(^|\s)#.*$", "", TEXT)
TERRAFORM = shutil.which("terraform") or shutil.which("tofu")


@pytest.mark.skipif(not TERRAFORM, reason="neither terraform nor tofu on this machine")
def test_formatted():
    """
    Terraform reads every file, and would not write it otherwise.
    """
    command = [str(TERRAFORM), "fmt", "-check", "-list=true", str(FOLDER)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("name", RESOURCES)
def test_attributes(name):
    """
    Every attribute is one that the provider documents, where it documents it, and none lacks.
    """
    kind, attributes = name.partition(".")[0], RESOURCES[name]

    assert problems(kind, attributes) == []


@pytest.mark.parametrize("name", RESOURCES)
def test_misspelt_attribute(name):
    """
    A misspelt attribute, a text for a number or a switch, and one that lacks are problems.
    """
    kind, attributes = name.partition(".")[0], RESOURCES[name]
    for attribute in set(attributes) - META:
        others = {key: each for key, each in attributes.items() if key != attribute}

        assert problems(kind, others | {f"{attribute}x": 1})
        if isinstance(attributes[attribute], int):
            assert problems(kind, others | {attribute: "1"})
    for required in SCHEMA["resources"][kind]["required"]:
        without = {key: each for key, each in attributes.items() if key != required}
        assert problems(kind, without) == [f"{kind} lacks {required}"]


def test_misspelt_nested_attribute():
    """
    The names inside a list and inside what a `for` makes are judged, too.
    """
    policy = resource("zero_trust_access_policy", "people")
    application = resource("zero_trust_access_application", "previews")
    wrong = policy | {"include": "${[for email in sort(var.people) : {email = {mail = email}}]}"}
    wild = application | {"destinations": [{"type": "public", "url": "*.example.com"}]}

    assert problems("cloudflare_zero_trust_access_policy", policy) == []
    assert problems("cloudflare_zero_trust_access_policy", wrong) == [
        "cloudflare_zero_trust_access_policy.include.email.mail is unknown"
    ]
    assert problems("cloudflare_zero_trust_access_application", wild) == [
        "cloudflare_zero_trust_access_application.destinations.url is unknown"
    ]


def test_references():
    """
    Whatever an expression names is there: variables, locals, resources and their attributes.
    """
    assert set(re.findall(r"\bvar\.(\w+)", CODE)) == set(VARIABLES)
    assert set(re.findall(r"\blocal\.(\w+)", CODE)) == set(LOCALS)
    for kind, name, attribute in re.findall(r"\b(cloudflare_\w+)\.(\w+)(?:\.(\w+))?", CODE):
        assert f"{kind}.{name}" in RESOURCES
        known = SCHEMA["resources"][kind]
        assert attribute in {"", *known["read"], *known["optional"]}, attribute


def test_version():
    """
    The schema that judges is of the version that is asked for.
    """
    ((_, terraform),) = blocks("terraform")
    (asked,) = terraform["required_providers"]

    assert asked["cloudflare"]["source"] == SCHEMA["provider"]
    assert SCHEMA["version"].startswith(asked["cloudflare"]["version"].removeprefix("~> ") + ".")
    assert {name.partition(".")[0] for name in RESOURCES} == set(SCHEMA["resources"])


class TestAccess:
    """Who may see a preview."""

    application = resource("zero_trust_access_application", "previews")

    def test_every_depth(self):
        """
        The application covers the previews' names, any name below one, and the parent itself.
        """
        destinations = value(self.application["destinations"])

        assert {each["uri"] for each in destinations} == {
            "*.pr.jomcgi.dev", "*.*.pr.jomcgi.dev", "pr.jomcgi.dev",
        }  # fmt: skip
        assert {each["type"] for each in destinations} == {"public"}
        assert value(self.application["domain"]) == "*.pr.jomcgi.dev"
        assert self.application["type"] == "self_hosted"

    def test_two_policies(self):
        """
        People are allowed, the service token comes in without signing in, and there is no third.
        """
        people = resource("zero_trust_access_policy", "people")
        machines = resource("zero_trust_access_policy", "machines")
        policies = [name for name in RESOURCES if "_access_policy." in name]
        attached = [each["id"] for each in self.application["policies"]]

        assert (people["decision"], machines["decision"]) == ("allow", "non_identity")
        assert sorted(attached) == sorted(f"${{{name}.id}}" for name in policies)
        assert len(policies) == len({each["precedence"] for each in self.application["policies"]})
        assert objects(people["include"]) == [{"email": {"email": "email"}}]
        assert "in sort(var.people) :" in people["include"]
        assert machines["include"] == [
            {"service_token": {"token_id": "${cloudflare_zero_trust_access_service_token.ci.id}"}}
        ]

    @pytest.mark.parametrize(
        "word",
        ["bypass", "everyone", "any_valid_service_token", "login_method", "email_domain"],
    )
    def test_nobody_else(self, word):
        """
        Nothing lets in more than the people and the machine that are named.
        """
        assert word not in CODE.replace("options_preflight_bypass   = false", "")

    def test_no_way_around(self):
        """
        Preflights are judged, cookies are out of scripts' reach, sign-in is by the chosen ones.
        """
        assert self.application["options_preflight_bypass"] is False
        assert self.application["http_only_cookie_attribute"] is True
        assert self.application["allowed_idps"] == "${sort(var.identity_providers)}"
        assert self.application["session_duration"] == "8h"

    @pytest.mark.parametrize("name", ["people", "identity_providers"])
    def test_refuses_nobody(self, name):
        """
        An empty list is refused: Cloudflare would take it for no restriction.
        """
        conditions = [each["condition"] for each in VARIABLES[name]["validation"]]

        assert f"${{length(var.{name}) > 0}}" in conditions
        assert "default" not in VARIABLES[name]

    @pytest.mark.parametrize(
        "name",
        [
            "cloudflare_zero_trust_access_application.previews",
            "cloudflare_zero_trust_access_service_token.ci",
            "cloudflare_certificate_pack.previews",
        ],
    )
    def test_stays(self, name):
        """
        What would change the audience, the client id or the certificate is never destroyed.
        """
        (lifecycle,) = RESOURCES[name]["lifecycle"]

        assert lifecycle["prevent_destroy"] is True

    def test_rotation(self):
        """
        The secret rotates with an overlap, and somebody hears of it before the token ends.
        """
        token = resource("zero_trust_access_service_token", "ci")
        notification = resource("notification_policy", "service_token")

        assert "service_token_rotation.version" in token["client_secret_version"]
        assert "previous_expires_at" in token["previous_client_secret_expires_at"]
        assert VARIABLES["service_token_rotation"]["default"] is None
        assert notification["alert_type"] == "expiring_service_token_alert"
        assert notification["enabled"] is True


class TestName:
    """Where a preview's name leads, and by which certificate."""

    record = resource("dns_record", "previews")

    def test_last(self):
        """
        No name resolves before Access, certificate and HTTPS are there; only Cloudflare answers it.
        """
        before = {each.removeprefix("${").removesuffix("}") for each in self.record["depends_on"]}

        assert before == {
            "cloudflare_zero_trust_access_application.previews",
            "cloudflare_certificate_pack.previews",
            "cloudflare_zone_setting.always_use_https",
        }
        assert self.record["proxied"] is True
        assert value(self.record["name"]) == "*.pr.jomcgi.dev"
        assert [name for name in RESOURCES if "dns_record" in name] == [
            "cloudflare_dns_record.previews"
        ]

    def test_leads_nowhere_at_first(self):
        """
        Until somebody opens it, the name leads to the discard prefix and not to the tunnel.
        """
        choice = r"\$\{var\.open_to_tunnel \? (.+) : (.+)\}"
        kinds = re.fullmatch(choice, self.record["type"])
        places = re.fullmatch(choice, self.record["content"])

        assert kinds
        assert kinds.groups() == ('"CNAME"', '"AAAA"')
        assert places
        assert places.groups() == ('"${var.tunnel_id}.cfargotunnel.com"', '"100::"')
        assert VARIABLES["open_to_tunnel"]["default"] is False

    def test_certificate(self):
        """
        The certificate covers the apex, the previews' parent and their names.
        """
        hosts = value(resource("certificate_pack", "previews")["hosts"])

        assert hosts == ["jomcgi.dev", "pr.jomcgi.dev", "*.pr.jomcgi.dev"]

    def test_https(self):
        """
        Plain HTTP is sent to HTTPS.
        """
        setting = resource("zone_setting", "always_use_https")

        assert (setting["setting_id"], setting["value"]) == ("always_use_https", "on")


class TestOutputs:
    """What comes out, and who may read it."""

    def test_values_of_the_chart(self):
        """
        `preview_access` is just what the chart's `preview.access` asks for, name by name.
        """
        made = value(OUTPUTS["preview_access"]["value"])
        asked = set(read(CHART / "values.yaml")["preview"]["access"]) - {"cidrs"}
        preview = read(PREVIEW_VALUES)["preview"]["access"]

        assert set(made) == asked == set(preview)
        assert made["teamDomain"] == preview["teamDomain"]
        assert made["aud"] == "${cloudflare_zero_trust_access_application.previews.aud}"
        assert made["emails"] == "${sort(var.people)}"
        assert made["serviceClients"] == [
            "${cloudflare_zero_trust_access_service_token.ci.client_id}"
        ]

    def test_secret(self):
        """
        The one secret is marked, so that no plan and no log prints it.
        """
        secret = [name for name, each in OUTPUTS.items() if "client_secret" in str(each["value"])]

        assert secret == ["service_token_client_secret"]
        assert OUTPUTS[secret[0]]["sensitive"] is True

    def test_state(self):
        """
        The state, which holds it, is encrypted and never a file beside the code.
        """
        ((_, terraform),) = blocks("terraform")

        assert terraform["backend"] == [{"s3": {"encrypt": True, "use_lockfile": True}}]
        assert "*.tfstate*" in (FOLDER.parents[3] / ".gitignore").read_text().splitlines()
