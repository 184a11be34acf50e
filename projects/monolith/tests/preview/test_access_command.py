import asyncio
import json
import os
import re
import signal
import socket
import ssl
import sys
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from aiohttp import web

from preview import proof
from preview.access_edge import AGENT, AT_ONCE, LARGEST_BODY, Edge, Internet, Silence, Trouble
from preview.access_verdict import Answer
from preview.rules import Access
from tests.fake_cloudflare_api import ACCOUNT, ZONE
from tests.fake_cloudflare_api import TOKEN as API_TOKEN
from tests.fake_edge import DOMAIN, LIVE, SECRET, TEAM, WILDCARD, FakeEdge
from tests.fake_github import REPOSITORY, TOKEN
from tests.preview import misconfigurations as wrongly
from tests.preview.checking import ENVIRONMENT, SERVICE, check, command
from tests.team import CLIENT, EMAIL

CONTROL_PLANE = {
    "CLOUDFLARE_API_TOKEN": API_TOKEN, "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
    "CLOUDFLARE_ZONE_ID": ZONE, "ACCESS_EMAILS": f"{EMAIL}, Grace@example.com",
    "ACCESS_SERVICE_CLIENTS": CLIENT,
}  # fmt: skip


@pytest.fixture
def edge():
    """A Cloudflare that is well configured."""
    with FakeEdge().running() as running:
        yield running


@pytest.fixture
def github(server):
    """A GitHub on which PRs 7 and 8 have previews."""
    for number in (7, 8, 9):
        server.open(number)
    server.label(7)
    server.label(8)
    return server


def for_github(github, token=TOKEN):
    """Give what --shut needs."""
    named = {"GITHUB_REPOSITORY": REPOSITORY, "GITHUB_API_URL": github.url}
    return {**named, "GITHUB_TOKEN": token}


def test_json(edge):
    """
    --json writes one object: the verdict, when, for which names, and every probe with its reason.
    """
    code, said = check(edge, LIVE, **SERVICE, **CONTROL_PLANE)

    assert (code, said["verdict"], said["wildcard"]) == (0, "PROTECTED", WILDCARD)
    assert datetime.fromisoformat(said["checked_at"]).utcoffset() == timedelta(0)
    assert said["hosts"][0]["host"] == LIVE
    assert [len(host["probes"]) for host in said["hosts"]] == [28, 28, 2, 2, 2]
    assert {host["verdict"] for host in said["hosts"]} == {"PROTECTED"}
    assert len(said["control_plane"]) == 11
    for found in [*said["hosts"][0]["probes"], *said["control_plane"]]:
        assert set(found) == {"probe", "verdict", "reason"}
    assert said["shut"] is None


def test_gate(edge, tmp_path):
    """
    The writer of labels reads the report as it was meant: shut proves, open takes labels away.
    """
    report = tmp_path / "report.json"
    for misconfigure, access in [
        (lambda _: None, Access.PROVEN),
        (wrongly.overriding, Access.UNPROVEN),
        (wrongly.path_bypass, Access.EXPOSED),
    ]:
        misconfigure(edge)
        report.write_text(json.dumps(check(edge, LIVE)[1]))

        assert proof.read(report, WILDCARD, datetime.now(UTC)).access is access


def test_control_plane(edge):
    """
    What Cloudflare was told counts like what it answers; what it does not show is never good.
    """
    assert check(edge, **CONTROL_PLANE)[0] == 0

    edge.api.group["include"].append({"everyone": {}})
    code, said = check(edge, **CONTROL_PLANE)

    assert (code, said["verdict"]) == (2, "EXPOSED")
    assert {host["verdict"] for host in said["hosts"]} == {"PROTECTED"}

    edge.api.status = 500

    assert check(edge, **CONTROL_PLANE)[0] == 4


def test_unseen(edge):
    """
    What there was nothing to ask with is named, and the control plane is null, not good.
    """
    _, said = check(edge)

    assert said["control_plane"] is None
    assert [text.rpartition(": ")[2] for text in said["unseen"]] == [
        "CF_ACCESS_CLIENT_ID is not set",
        "CF_ACCESS_OTHER_TOKEN is not set",
        "CLOUDFLARE_API_TOKEN is not set",
    ]


def test_table(edge):
    """
    A person sees a line a host, below it what is wrong with it, and the verdict last.
    """
    run = command(edge, "--wildcard", WILDCARD, LIVE)

    assert run.exit_code == 0
    assert re.search(rf"{LIVE} +PROTECTED +26 of 26 as they should", run.stdout)
    assert run.stdout.endswith("- PROTECTED: Access is in front of every name that was asked\n")

    wrongly.path_bypass(edge)
    run = command(edge, "--wildcard", WILDCARD, LIVE)

    assert run.exit_code == 2
    assert re.search(r"path /openapi.json +EXPOSED +the origin answers: 404", run.stdout)
    assert "- EXPOSED: something is reached without Access. Take the previews away, " in run.stdout


def test_table_of_many(edge):
    """
    Probes that are wrong in the same way are one line, so that the others are seen.
    """
    edge.unknown = wrongly.AllBut(TEAM)
    lines = command(edge, "--wildcard", WILDCARD, LIVE).stdout.splitlines()
    row = next(line for line in lines if line.startswith("   metadata"))

    assert re.fullmatch(
        r"   metadata, anonymous and 23 more +INCONCLUSIVE +the name has no address *", row
    )
    assert len(lines) < 25


def test_progress(edge):
    """
    Progress goes to standard error where standard output is for a program.
    """
    run = command(edge, "--json", "--wildcard", WILDCARD, LIVE)

    assert f"- probe {LIVE} (" in run.stderr
    assert json.loads(run.stdout)["verdict"] == "PROTECTED"


def test_requests(edge):
    """
    No request repeats another, follows a redirect, sends a cookie back or has a script's name.
    """
    cookies = []
    edge.first.append(lambda request: cookies.append(request.headers.get("Cookie", "")))
    check(edge, LIVE, **SERVICE)

    assert len(set(edge.requests)) == len(edge.requests) > 50
    assert [asked for asked in edge.requests if "?check=" not in asked] == []
    assert edge.agents == {AGENT}
    assert not [asked for asked in edge.requests if "/cdn-cgi/" in asked]
    assert {cookie.partition("=")[0] for cookie in cookies} == {"", "CF_Authorization"}


@pytest.mark.parametrize("status", [404, 503, 530], ids=["not made yet", "crashes", "tunnel down"])
def test_preview_that_is_not_up(edge, status):
    """
    A preview that does not answer its service token is no hole: nobody else waits for it.
    """
    edge.origin = lambda _: web.Response(status=status)

    assert check(edge, LIVE, **SERVICE)[0] == 0


def test_bare_domain(edge):
    """
    The bare domain may have no address; if it has one, Access has to be in front of it, too.
    """
    assert check(edge)[0] == 0

    edge.unknown.clear()

    assert check(edge)[0] == 0

    edge.covers = lambda request: request.host != DOMAIN
    code, said = check(edge)

    assert code == 2
    assert [host["host"] for host in said["hosts"] if host["verdict"] == "EXPOSED"] == [DOMAIN]


def test_deeper_name_without_certificate(edge):
    """
    A deeper name for which the edge has no certificate leads nowhere, and that is good.
    """
    edge.certified = lambda host: "" if host.startswith("a.") else host
    code, said = check(edge)

    assert code == 0
    assert "no certificate" in said["hosts"][1]["probes"][0]["reason"]


def test_deeper_name_that_is_silent(edge):
    """
    A deeper name that has an address and takes no connection proves nothing.
    """
    assert check(edge)[0] == 0

    edge.refuses_connections = lambda host: host.startswith("a.")

    assert check(edge)[0] == 4


def test_certificate_of_deeper_name(edge):
    """
    A certificate for another name keeps nobody out who means harm, so it proves nothing.
    """
    edge.certified = lambda host: "other.example" if host.startswith("a.") else host

    assert check(edge)[0] == 0

    wrongly.deeper_open(edge)

    assert check(edge)[0] == 2


@pytest.mark.parametrize(
    ("wildcard", "live", "asked"),
    [
        (WILDCARD, LIVE, ["7.pr", "probe-H.pr", "a.7.pr", "a.probe-H.pr", "pr"]),
        ("pr-*.example.com", "pr-7.example.com", ["pr-7", "pr-probe-H", "a.pr-7"]),
        ("*.example.com", "7.example.com", ["7", "probe-H", "a.7", "a.probe-H", ""]),
    ],
    ids=["subdomain", "prefix", "own zone"],
)
def test_shapes(edge, wildcard, live, asked):
    """
    Each shape of names can be checked, with made-up names that its DNS knows.
    """
    edge.application = wildcard
    edge.live = {live}
    edge.unknown = {DOMAIN} if wildcard.startswith("*") else set()
    edge.first.append(lambda _: None)
    code, said = check(edge, live, wildcard=wildcard, **SERVICE)
    names = [re.sub("probe-[0-9a-f]{16}", "probe-H", host["host"]) for host in said["hosts"]]

    assert (code, names) == (0, [f"{name}.example.com".removeprefix(".") for name in asked])


def test_partial_wildcard_without_dns(edge):
    """
    Where DNS has a record for each preview alone, a name that nobody has leads nowhere.
    """
    wildcard, live = "pr-*.example.com", "pr-7.example.com"
    edge.application, edge.live = wildcard, {live}
    edge.unknown = wrongly.AllBut(TEAM, live)

    assert check(edge, live, wildcard=wildcard)[0] == 0

    edge.unknown.known.remove(live)

    assert check(edge, live, wildcard=wildcard)[0] == 4


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (["--wildcard", "pr.example.com"], {}, "--wildcard"),
        (["--wildcard", "*.*.example.com"], {}, "--wildcard"),
        (["--wildcard", "*.com"], {}, "--wildcard"),
        (["--wildcard", WILDCARD, "a.7.pr.example.com"], {}, "HOST"),
        (["--wildcard", WILDCARD, "7.pr.example.com.evil.example"], {}, "HOST"),
        (["--wildcard", "pr-*.example.com"], {}, "HOST"),
        (["--wildcard", WILDCARD], {"ACCESS_AUD": "abc"}, "ACCESS_AUD"),
        (["--wildcard", WILDCARD], {"ACCESS_TEAM_DOMAIN": TEAM}, "ACCESS_TEAM_DOMAIN"),
        (["--wildcard", WILDCARD], {"CF_ACCESS_CLIENT_ID": CLIENT}, "CF_ACCESS_CLIENT_SECRET"),
        (["--wildcard", WILDCARD], {"CLOUDFLARE_API_TOKEN": API_TOKEN}, "CLOUDFLARE_ZONE_ID"),
        (["--wildcard", WILDCARD, "--shut"], {}, "GITHUB_TOKEN"),
    ],
    ids=[
        "no wildcard", "two wildcards", "a whole TLD", "deeper host", "other host", "no host",
        "aud", "team", "half a service token", "half a control plane", "shut",
    ],
)  # fmt: skip
def test_refused(edge, arguments, variables, named):
    """
    What cannot lead to a proof is refused with exit code 78, and nothing is asked.
    """
    run = command(edge, "--json", *arguments, **variables)

    assert run.exit_code == 78
    assert run.stderr.startswith("monolith: Refused to check Cloudflare Access: expected ")
    assert named in run.stderr
    assert (edge.requests, run.stdout) == ([], "")


def test_secrets(edge):
    """
    No option takes a secret, and no output has one, whatever is wrong.
    """
    secrets = {"CF_ACCESS_OTHER_TOKEN": edge.token(aud=["b" * 64]), **CONTROL_PLANE, **SERVICE}
    said = [command(edge, "--wildcard", WILDCARD, LIVE, **secrets).output]
    wrongly.no_application(edge)
    edge.api.status = 500
    said.append(command(edge, "--json", "--wildcard", WILDCARD, LIVE, **secrets).output)
    typed = command(edge, "--wildcard", WILDCARD, "--cf-access-client-secret", SECRET)

    for secret in (SECRET, API_TOKEN, secrets["CF_ACCESS_OTHER_TOKEN"]):
        assert secret not in "".join(said)
    assert typed.exit_code == 64


async def spawn(*arguments, script=None, **variables):
    """Start the command as a process."""
    program = ["-c", script] if script else ["-m", "preview", "preview", "check-access", *arguments]
    kept = {name: text for name, text in os.environ.items() if name.startswith("COVERAGE")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *program),
        env=kept | {"PATH": os.environ["PATH"], **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "code"),
    [
        ([], {}, 64),
        (["--wildcrad", WILDCARD], ENVIRONMENT, 64),
        (["--wildcard", "x"], ENVIRONMENT, 78),
    ],
    ids=["no team", "typo", "refused"],
)
async def test_process(arguments, variables, code):
    """
    Wrong usage and a refusal have exit codes that are no verdict's.
    """
    process = await spawn(*arguments, **variables)
    await process.communicate()

    assert process.returncode == code


async def test_interrupted():
    """
    A check that is interrupted has proven nothing: exit code 130, and no verdict.
    """
    script = f"""
import asyncio, httpx2
from preview.cli import main

class Hanging(httpx2.AsyncBaseTransport):
    async def handle_async_request(self, request):
        print("asked", flush=True)
        await asyncio.sleep(3600)

main(["preview", "check-access", "--wildcard", {WILDCARD!r}], obj=lambda *, verified: Hanging())
"""
    process = await spawn(script=script, **ENVIRONMENT)
    asked = await process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()

    assert (asked, process.returncode) == (b"asked\n", 130)
    assert b"PROTECTED" not in out


def test_shut(edge, github):
    """
    --shut takes the label away from every pull request when EXPOSED, and only then.
    """
    variables = for_github(github)

    assert check(edge, "--shut", **variables)[0] == 0
    assert (github.previews(), github.requests) == ({7, 8}, [])

    wrongly.overriding(edge)

    assert check(edge, "--shut", **variables)[0] == 3
    assert (github.previews(), github.requests) == ({7, 8}, [])

    wrongly.path_bypass(edge)
    code, said = check(edge, "--shut", **variables)

    assert (code, said["verdict"], said["shut"]) == (2, "EXPOSED", [7, 8])
    assert github.previews() == set()


def test_not_shut(edge, github):
    """
    Without --shut nothing is taken, and where GitHub refuses the verdict is still said, as is why.
    """
    wrongly.no_application(edge)

    assert check(edge)[0] == 2
    assert github.previews() == {7, 8}

    run = command(edge, "--json", "--wildcard", WILDCARD, "--shut", **for_github(github, "wrong"))

    assert run.exit_code == 2
    assert json.loads(run.stdout)["verdict"] == "EXPOSED"
    assert "monolith: Cannot use GitHub" in run.stderr
    assert github.previews() == {7, 8}


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (socket.gaierror(socket.EAI_NONAME, "not known"), Trouble.NO_ADDRESS),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), Trouble.OTHER),
        (ssl.SSLEOFError(8, "EOF"), Trouble.OTHER),
        (ssl.SSLCertVerificationError(1, "of another name"), Trouble.OTHER),
        (ConnectionRefusedError(), Trouble.OTHER),
        (TimeoutError(), Trouble.OTHER),
    ],
    ids=["no such name", "DNS down", "cut off", "certificate", "refused", "silent"],
)
def test_silence(error, trouble):
    """
    Only a name without an address proves that nobody gets there; other silence proves nothing.
    """
    connecting = httpx2.ConnectError("no")
    connecting.__cause__ = error

    assert Silence.of(connecting).trouble is trouble


async def test_bounded():
    """
    However many probes there are, only so many requests are under way.
    """
    now, most = 0, 0

    class Counting(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, _request):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1
            return httpx2.Response(101)

    edge = Edge(lambda **_: Counting())
    await asyncio.gather(*(edge.ask("GET", "https://7.pr.example.com/") for _ in range(50)))

    assert most == AT_ONCE


@pytest.fixture
async def endless():
    """A server on loopback whose pages never end, and which hangs up on /hang."""
    asked = []

    async def answer(request):
        asked.append(request.path)
        if request.path == "/hang":
            request.transport.abort()
        response = web.StreamResponse()
        await response.prepare(request)
        while request.transport:
            await response.write(b"x" * 10_000)
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    await runner.cleanup()


async def test_endless_answer(endless):
    """
    Of an answer only the beginning is read; its status counts, also when it never ends.
    """
    answer = await Edge(Internet()).ask("GET", f"{endless[0]}/")

    assert isinstance(answer, Answer)
    assert (answer.status, len(answer.body)) == (200, LARGEST_BODY)


async def test_no_second_request(endless):
    """
    A request that was sent is never sent again.
    """
    url, asked = endless

    assert isinstance(await Edge(Internet()).ask("GET", f"{url}/hang"), Silence)
    assert asked == ["/hang"]


@pytest.mark.parametrize("secret", ["s3cr3t\n", "s3cr3t é"], ids=["line", "letter"])
@pytest.mark.parametrize("variable", ["CF_ACCESS_CLIENT_SECRET", "CLOUDFLARE_API_TOKEN"])
def test_secret_that_is_none(edge, secret, variable):
    """
    A secret that no request can carry is refused by its variable's name, and is not shown.
    """
    run = command(edge, "--wildcard", WILDCARD, **{variable: secret})

    assert run.exit_code == 64
    assert variable in run.stderr
    assert "s3cr3t" not in run.output
    assert edge.requests == []
