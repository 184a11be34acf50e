import os
import re
import secrets
import shutil
import subprocess
import threading
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from preview.access_check import Question
from preview.cli import check_access
from tests.chart.rendering import PREVIEW_VALUES, read
from tests.deploy.manifests import DEPLOY, manifest
from tests.deploy.terraform import OUTPUTS, RESOURCES, VARIABLES, parsed, resource, value
from tests.fake_cloudflare_api import ACCOUNT, ZONE
from tests.team import AUD, CLIENT

PAGE = (DEPLOY.parents[2] / "docs/cloudflare.md").read_text()
OPERATIONS = (DEPLOY.parents[2] / "docs/operations.md").read_text()
(RULE,) = re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
SHELL = re.findall(r"```sh\n(.+?)```", PAGE, re.DOTALL)
(VALUES,) = (
    text
    for block in SHELL
    for text in re.findall(r"previews\.tfvars <<'EOT'\n(.+?)EOT", block, re.DOTALL)
)

PERMISSIONS = {
    "cloudflare_zero_trust_access_application": "Access: Apps and Policies",
    "cloudflare_zero_trust_access_policy": "Access: Apps and Policies",
    "cloudflare_zero_trust_access_service_token": "Access: Service Tokens",
    "cloudflare_notification_policy": "Notifications",
    "cloudflare_dns_record": "DNS",
    "cloudflare_certificate_pack": "SSL and Certificates",
    "cloudflare_zone_setting": "Zone Settings",
}
"""The permission that the API asks for, resource by resource."""


class TestTunnel:
    """The tunnel's rule as it is printed."""

    def test_agrees(self):
        """
        It leads the names that the Gateway listens for to the Gateway's own Service.
        """
        rule, last = yaml.safe_load(RULE)["ingress"]
        service = manifest("platform/gateway/service.yaml")
        (listener,) = manifest("platform/gateway/gateway.yaml")["spec"]["listeners"]
        (port,) = service["spec"]["ports"]
        name = f"{service['metadata']['name']}.{service['metadata']['namespace']}"

        assert rule["hostname"] == listener["hostname"]
        assert rule["hostname"] == value(resource("dns_record", "previews")["name"])
        assert rule["service"] == f"http://{name}.svc.cluster.local:{port['port']}"
        assert set(last) == {"service"}

    def test_access(self):
        """
        It asks for Access itself, of the same team, and nowhere but on the rule.
        """
        found = yaml.safe_load(RULE)
        access = found["ingress"][0]["originRequest"]["access"]
        team = read(PREVIEW_VALUES)["preview"]["access"]["teamDomain"]

        assert access["required"] is True
        assert team == f"https://{access['teamName']}.cloudflareaccess.com"
        assert len(access["audTag"]) == 1
        assert set(found) == {"ingress"}

    def test_unquoted(self):
        """
        Without the quotes it does not parse, as the page warns.
        """
        with pytest.raises(yaml.YAMLError, match="alias"):
            yaml.safe_load(RULE.replace('"*.pr.jomcgi.dev"', "*.pr.jomcgi.dev"))


class TestTerraform:
    """What the page has the operator give to Terraform and take from it."""

    def test_variables(self):
        """
        The file of variables sets each one that has no default, and no unknown one.
        """
        given = parsed(VALUES)
        required = {name for name, block in VARIABLES.items() if "default" not in block}

        assert set(given) == required
        assert set(re.findall(r"-var (\w+)=", PAGE)) == {"open_to_tunnel"} <= set(VARIABLES)

    def test_outputs(self):
        """
        Every output that is asked for exists, and each value of the chart has its row.
        """
        asked = set(re.findall(r"terraform output (?:-\w+ )?(\w+)", PAGE))
        rows = re.findall(r"^\| `(\w+)` \| `preview\.access\.(\w+)` \|", PAGE, re.MULTILINE)
        steps = re.findall(r"^\| `preview_access\.(\w+)` \|", OPERATIONS, re.MULTILINE)
        made = list(OUTPUTS["preview_access"]["value"])

        assert asked == {
            "preview_access", "service_token_client_id", "service_token_client_secret",
            "service_token_expires_at",
        } <= set(OUTPUTS)  # fmt: skip
        assert rows == [(name, name) for name in made]
        assert steps == made

    def test_rotation(self):
        """
        The example rotates as the variable asks, before the end, and its dates are right.
        """
        (example,) = re.findall(r"`(service_token_rotation = \{[^`]+\})`", PAGE)
        (longer,) = re.findall(r'`service_token_duration = "(\d+)h"`', PAGE)
        made, first_end, change, overlap, second_end = (
            date.fromisoformat(day)
            for day in (
                *re.findall(r"made on ([\d-]+), which ends on ([\d-]+):", PAGE)[0],
                re.findall(r"^\| (\d{4}-[\d-]+) \|", PAGE, re.MULTILINE)[0],
                parsed(example)["service_token_rotation"]["previous_expires_at"][:10],
                re.findall(r"service_token_expires_at` says ([\d-]+)", PAGE)[0],
            )
        )
        hours = int(VARIABLES["service_token_duration"]["default"].removesuffix("h"))

        assert "version = number, previous_expires_at = string" in str(
            VARIABLES["service_token_rotation"]["type"]
        )
        assert first_end - made == timedelta(hours=hours)
        assert second_end - made == timedelta(hours=int(longer)) == 2 * timedelta(hours=hours)
        assert change < overlap < first_end
        assert overlap - change <= timedelta(days=30)

    def test_permissions(self):
        """
        The token's permissions are those that the resources need, and no more.
        """
        table = PAGE.partition("| permission | for |")[2].partition("\n\n")[0]
        listed = re.findall(r"^\| ([A-Z][\w ]+(?:: [\w ]+)?), write", table, re.MULTILINE)
        needed = {PERMISSIONS[name.partition(".")[0]] for name in RESOURCES}

        assert sorted(listed) == sorted(needed)


CHECKS = [block for block in SHELL if "check-access" in block]
FILLED = {
    "ACCESS_AUD": AUD,
    "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
    "CLOUDFLARE_ZONE_ID": ZONE,
    "CF_ACCESS_CLIENT_ID": CLIENT,
    "CF_ACCESS_CLIENT_SECRET": "s3cr3t",
    "CLOUDFLARE_API_TOKEN": "api-token",
    "ACCESS_SERVICE_CLIENTS": CLIENT,
}
"""What an operator fills in, or a command does."""


@pytest.mark.parametrize("step", [2, 5])
def test_check(step):
    """
    The printed check is taken as it is: with what the page has set by then, from where it is run.
    """
    blocks = CHECKS[: 1 if step == 2 else 2]
    exported = re.findall(r"\b([A-Z_]{6,})(?:=(\S+)|$)", "\n".join(blocks), re.MULTILINE)
    (line,) = [line for line in blocks[-1].splitlines() if "check-access" in line]
    ((removed, program, *arguments),) = re.findall(
        r"^(?:env -u (\w+) )?(\S+) preview check-access (--wildcard) '(.+)'$", line
    )
    environment = dict.fromkeys(os.environ) | {n: FILLED.get(n, text) for n, text in exported}
    with CliRunner().isolation(env=environment | ({removed: None} if removed else {})):
        asked = Question.of(check_access.make_context("", arguments).params)

    assert (DEPLOY / "cloudflare" / program).resolve() == DEPLOY.parents[2] / ".venv/bin/monolith"
    assert str(asked.wildcard) == value(resource("dns_record", "previews")["name"])
    assert asked.expected.audience == AUD
    assert bool(asked.api_token) is bool(asked.guest.client_id) is (step == 5)
    assert len(asked.unseen()) == (3 if step == 2 else 1)


class Listener(BaseHTTPRequestHandler):
    """Remembers what it was sent, and who else could have read it."""

    sent: list[dict[str, str]]
    arguments: list[str]

    def do_GET(self):  # noqa: N802  the library's name
        """Look into the process list while the caller waits."""
        self.sent.append({key.lower(): text for key, text in self.headers.items()})
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.arguments.append(path.read_text(errors="replace"))
            except OSError:
                continue
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        """Stay silent."""


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl on this machine")
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no process list to look into")
@pytest.mark.parametrize("example", ["input", "file"])
def test_machine(tmp_path, example):
    """
    The printed command shows both headers to the preview, and to no process list.
    """
    secret = secrets.token_hex(20)
    command = next(block for block in SHELL if "--header @-" in block)
    if example == "file":
        command = next(block for block in SHELL if ".preview-headers" in block).splitlines()[1]
        lines = f"CF-Access-Client-Id: id.access\nCF-Access-Client-Secret: {secret}\n"
        (tmp_path / ".preview-headers").write_text(lines)
    Listener.sent, Listener.arguments = [], []
    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        environment = {
            "PATH": "/usr/bin:/bin", "HOME": str(tmp_path),
            "CF_ACCESS_CLIENT_ID": "id.access", "CF_ACCESS_CLIENT_SECRET": secret,
        }  # fmt: skip
        subprocess.run(
            ["sh", "-c", command.replace("https://7.pr.jomcgi.dev", here)],
            env=environment, check=True, timeout=30,
        )  # fmt: skip

    assert [
        (sent["cf-access-client-id"], sent["cf-access-client-secret"]) for sent in Listener.sent
    ] == [("id.access", secret)]
    assert any("curl" in arguments for arguments in Listener.arguments)
    assert not any(secret in arguments for arguments in Listener.arguments)
    assert "--location" not in command
