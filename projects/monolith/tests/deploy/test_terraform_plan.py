import json
import re
import shutil
import subprocess

import pytest

from tests.deploy.terraform import FOLDER

TERRAFORM = shutil.which("terraform") or shutil.which("tofu")
NOTHING_BUT_OURS = {"PATH": "/usr/bin:/bin", "CHECKPOINT_DISABLE": "1"}
GIVEN = {
    "account_id": "acc",
    "zone_id": "zone",
    "tunnel_id": "6ff42ae2",
    "people": ["grace@example.com", "ada@example.com"],
    "identity_providers": ["idp"],
}
MADE = {
    "cloudflare_zero_trust_access_application": {"id": "app", "aud": "a" * 64},
    "cloudflare_zero_trust_access_policy": {"id": "policy"},
    "cloudflare_zero_trust_access_service_token": {
        "id": "token", "client_id": "id.access", "client_secret": "s3cr3t", "expires_at": "2027",
    },
}  # fmt: skip
"""What Cloudflare would answer."""

pytestmark = pytest.mark.skipif(not TERRAFORM, reason="neither terraform nor tofu on this machine")


def standing_in(text):
    """
    Put Terraform's own terraform_data in the place of each resource of Cloudflare's.

    Its input takes any attributes, so that Terraform evaluates every expression, reference and
    condition of the files without the provider, which it would have to download.
    """
    text = re.sub(r'(?ms)^  (backend "s3"|required_providers) \{.*?^  \}\n', "", text)
    text = re.sub(r'(?m)^provider "cloudflare" .*$', "", text)
    block = (
        r'(?ms)^resource "(\w+)" "(\w+)" \{\n(.*?)(^  (?:lifecycle|depends_on) .*?^  []}]\n)?^\}'
    )
    text = re.sub(block, _stand_in, text)
    text = re.sub(r"\b(cloudflare_\w+)\.(\w+)\.(\w+)", r"terraform_data.\1_\2.input.\3", text)
    return re.sub(r"\b(cloudflare_\w+)\.(\w+)(?=,)", r"terraform_data.\1_\2", text)


def _stand_in(found):
    kind, name, attributes, meta = found.groups(default="")
    answer = json.dumps(json.dumps(MADE.get(kind, {})))
    return (
        f'resource "terraform_data" "{kind}_{name}" {{\n'
        f"  input = merge({{\n{attributes}}}, jsondecode({answer}))\n{meta}}}"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files with their stand-ins, ready to be planned."""
    home = tmp_path_factory.mktemp("terraform")
    for path in FOLDER.glob("*.tf"):
        (home / path.name).write_text(standing_in(path.read_text()))
    run(home, "init", "-backend=false")
    return home


def run(folder, *arguments):
    """Run Terraform to its end, without the network."""
    command = [str(TERRAFORM), f"-chdir={folder}", *arguments, "-input=false", "-no-color"]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=NOTHING_BUT_OURS
    )
    if ended.returncode:
        raise ValueError(" ".join(re.sub("[│╷╵]", "", ended.stderr).split()))
    return ended.stdout


def plan(folder, **variables):
    """Return what would be made: outputs, and attributes by resource."""
    given = GIVEN | variables
    (folder / "terraform.tfvars.json").write_text(json.dumps(given))
    run(folder, "plan", "-out=plan")
    command = [str(TERRAFORM), f"-chdir={folder}", "show", "-json", "plan"]
    shown = subprocess.run(command, capture_output=True, check=True, env=NOTHING_BUT_OURS)
    planned = json.loads(shown.stdout)["planned_values"]
    resources = {
        each["name"].removeprefix("cloudflare_"): each["values"]["input"]
        for each in planned["root_module"]["resources"]
    }
    return planned["outputs"], resources


def test_values_of_the_chart(folder):
    """
    The output is what the chart takes: the team, the audience, the people and the machine.
    """
    outputs, _ = plan(folder)

    assert outputs["preview_access"]["value"] == {
        "teamDomain": "https://jomcgi.cloudflareaccess.com",
        "aud": "a" * 64,
        "emails": ["ada@example.com", "grace@example.com"],
        "serviceClients": ["id.access"],
    }
    assert outputs["service_token_client_secret"]["sensitive"] is True


def test_policies(folder):
    """
    Each person is included by the whole address, and the machine by its token, nobody else.
    """
    _, resources = plan(folder)

    assert resources["zero_trust_access_policy_people"]["include"] == [
        {"email": {"email": "ada@example.com"}},
        {"email": {"email": "grace@example.com"}},
    ]
    assert resources["zero_trust_access_policy_machines"]["include"] == [
        {"service_token": {"token_id": "token"}}
    ]
    application = resources["zero_trust_access_application_previews"]
    assert [each["uri"] for each in application["destinations"]] == [
        "*.pr.jomcgi.dev", "*.*.pr.jomcgi.dev", "pr.jomcgi.dev",
    ]  # fmt: skip
    assert application["allowed_idps"] == ["idp"]
    assert application["auto_redirect_to_identity"] is True


@pytest.mark.parametrize(
    ("opened", "kind", "content"),
    [
        ({}, "AAAA", "100::"),
        ({"open_to_tunnel": True}, "CNAME", "6ff42ae2.cfargotunnel.com"),
    ],
    ids=["at-first", "opened"],
)
def test_name(folder, opened, kind, content):
    """
    The name leads nowhere at first, and to the tunnel once it is opened.
    """
    _, resources = plan(folder, **opened)
    record = resources["dns_record_previews"]

    assert (record["name"], record["proxied"]) == ("*.pr.jomcgi.dev", True)
    assert (record["type"], record["content"]) == (kind, content)


def test_rotation(folder):
    """
    Neither part of a rotation is set at first, and then both: the provider takes both or none.
    """
    _, resources = plan(folder)
    at_first = resources["zero_trust_access_service_token_ci"]
    day = "2027-02-22T00:00:00Z"
    _, resources = plan(folder, service_token_rotation={"version": 2, "previous_expires_at": day})
    later = resources["zero_trust_access_service_token_ci"]
    names = ("client_secret_version", "previous_client_secret_expires_at")

    assert [at_first[name] for name in names] == [None, None]
    assert [later[name] for name in names] == [2, day]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"people": []}, "expected people to name somebody"),
        ({"people": ["*@example.com"]}, "expected people to hold whole email addresses"),
        ({"people": ["example.com"]}, "expected people to hold whole email addresses"),
        ({"people": ["@example.com", "ada@example.com"]}, "whole email addresses"),
        ({"identity_providers": []}, "expected identity_providers to name one"),
    ],
    ids=["nobody", "wildcard", "domain", "one-of-two", "any-way-to-sign-in"],
)
def test_refused(folder, wrong, words):
    """
    What would let in nobody, or anybody, is refused before anything is planned.
    """
    with pytest.raises(ValueError, match="Refused to plan Access: .*" + re.escape(words)):
        plan(folder, **wrong)
