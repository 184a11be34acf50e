"""How tests run `monolith preview check-access` against a fake edge."""

import json
import os

from click.testing import CliRunner

from preview.cli import main
from tests.fake_edge import SECRET, TEAM, WILDCARD
from tests.team import AUD, CLIENT

ENVIRONMENT = {"ACCESS_TEAM_DOMAIN": f"https://{TEAM}", "ACCESS_AUD": AUD}
SERVICE = {"CF_ACCESS_CLIENT_ID": CLIENT, "CF_ACCESS_CLIENT_SECRET": SECRET}


def command(edge, *arguments, **variables):
    """Run `monolith preview check-access`, with nothing of this machine's environment."""
    environment = dict.fromkeys(os.environ) | ENVIRONMENT | variables
    given = ["preview", "check-access", *arguments]
    return CliRunner().invoke(main, given, obj=edge, env=environment)


def check(edge, *hosts, wildcard=WILDCARD, **variables):
    """Run it for a program; gives the exit code and what it said."""
    run = command(edge, "--json", "--wildcard", wildcard, *hosts, **variables)
    assert run.stdout.count("\n") == 1, run.output
    return run.exit_code, json.loads(run.stdout)


def wrong(said):
    """Name the probes that were not as they should, each with its verdict."""
    return {
        (found["probe"], found["verdict"])
        for host in said["hosts"]
        for found in host["probes"]
        if found["verdict"] != "PROTECTED"
    }


def reasons(said):
    """Join the reasons of what was not as it should."""
    found = [found for host in said["hosts"] for found in host["probes"]]
    return "\n".join(each["reason"] for each in found if each["verdict"] != "PROTECTED")
