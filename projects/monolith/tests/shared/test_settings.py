import io
import os
import pickle
import re
import traceback
from pathlib import Path
from unittest.mock import patch

import pytest
import structlog
from hypothesis import event, example, given
from hypothesis import strategies as st

from shared.errors import SettingsError
from shared.guard import StartupPoint
from shared.settings import Settings, credential_names, for_programs
from tests.environment import ACCESS, environment
from tests.strategies import (
    LEGAL_FALSE,
    LEGAL_TRUE,
    environment_text,
    numberish,
    one_typo_away,
    typos,
)

LEGAL = dict.fromkeys(LEGAL_TRUE, True) | dict.fromkeys(LEGAL_FALSE, False)


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title], ids=["lower", "upper", "title"])
@pytest.mark.parametrize(("raw", "preview"), LEGAL.items(), ids=LEGAL)
def test_legal_spelling(raw, preview, case):
    """
    PR_ENV takes what pydantic calls a bool, in any case, and nothing turns it round.
    """
    with environment(PR_ENV=case(raw)):
        settings = Settings()

    assert settings.pr_env is preview
    assert settings.guard.preview is preview


def test_flag_unset():
    """
    Without PR_ENV the process is production.
    """
    with environment():
        assert Settings().guard.preview is False


@given(raw=environment_text.filter(lambda raw: raw.lower() not in LEGAL))
def test_other_spelling_never_starts(raw):
    """
    Any other value of PR_ENV, the empty string too, refuses to start and is not repeated.
    """
    with environment(PR_ENV=raw), pytest.raises(SettingsError, match="expected PR_ENV to be") as e:
        Settings()

    assert str(e.value).count(raw) == str(SettingsError(e.value.problems)).count(raw)


@given(name=typos().filter(lambda name: name != "PR_ENV"))
def test_near_miss_never_starts(name):
    """
    A name that is PR_ENV but for case, dashes, underscores or one typo refuses to start.
    """
    with environment(**{name: "true"}), pytest.raises(SettingsError, match="Spell it PR_ENV"):
        Settings()

    with environment(**{name: "true", "PR_ENV": "false"}):
        assert Settings().pr_env is False


VARIABLES = sorted(str(field.validation_alias) for field in Settings.model_fields.values())
NEAR_MISSES = one_typo_away("PRENV")


@given(
    variables=st.dictionaries(
        st.sampled_from([*VARIABLES, "PATH", "VENV", "NPREV"]) | typos(),
        environment_text | st.sampled_from(list(LEGAL)) | numberish,
        max_size=6,
    )
)
@example(variables={"PR_ENV": "true", "LISTEN_PORT": "80"})
@example(variables={"PR_ENV": "true", "PRENV": "false"})
@example(variables={"VENV": "true"})
def test_any_environment(variables):
    """
    Whatever the environment holds, the mode is what PR_ENV says, or startup is refused; without
    PR_ENV it is production only where no name resembles it.
    """
    try:
        with environment(**variables):
            settings = Settings()
    except SettingsError:
        event("refused")
        return
    event("accepted")
    muted = not any(settings.guard.decide(point).runs for point in StartupPoint)

    if "PR_ENV" in variables:
        assert settings.guard.preview is LEGAL[variables["PR_ENV"].lower()]
    else:
        plain = {re.sub("[-_]", "", name).upper() for name in variables}
        assert not settings.guard.preview
        assert not plain & NEAR_MISSES
    assert muted is settings.guard.preview


MEANS = {
    "PR_NUMBER": lambda raw: re.fullmatch("[1-9][0-9]{0,8}", raw) and int(raw),
    "HEAD_SHA": lambda raw: re.fullmatch("[0-9a-f]{40}", raw) and raw,
    "LISTEN_PORT": lambda raw: float(raw) if 1 <= float(raw) <= 65535 else None,
    "DATABASE_WAIT_SECONDS": lambda raw: float(raw) if 0 <= float(raw) <= 3600 else None,
    "LISTEN_HOST": lambda raw: raw or None,
    "ACCESS_AUD": lambda raw: re.fullmatch("[0-9a-f]{64}", raw) and raw,
}
"""What a legal value means; None, or an error, for any other."""


@given(
    name=st.sampled_from(list(MEANS)),
    raw=environment_text
    | numberish
    | st.from_regex("[0-9a-fA-F]{39,41}\\n?|[0-9a-f]{63,65}", fullmatch=True),
)
@example(name="HEAD_SHA", raw="a" * 40)
@example(name="ACCESS_AUD", raw="a" * 64)
@example(name="PR_NUMBER", raw="999999999")
@example(name="LISTEN_PORT", raw="65535")
def test_value_of_any_setting(name, raw):
    """
    A value of any other setting means what it says, or is refused by the setting's name.
    """
    try:
        meant = MEANS[name](raw)
    except ValueError:
        meant = None
    found, refusal = None, f"expected {name} to be "
    try:
        with environment(**{**ACCESS, "PR_ENV": "true", name: raw}):
            found = getattr(Settings(), name.lower())
    except SettingsError as error:
        refusal = str(error)

    assert found in (meant, None)
    assert f"expected {name} to be " in refusal
    if raw.isascii() and raw.isdigit():
        assert found == meant, "plain digits are a number"


@pytest.mark.parametrize(
    "name",
    ["PATH", "ENV", "MY_PR_ENV", "PRIVATE_ENV", "PERL_ENV", "PVNER", "VENV", "PRRENVV", "NPREV"],
)
def test_other_names_are_left_alone(name):
    """
    A name that is two typos or more away from PR_ENV is another variable.
    """
    with environment(**{name: "7", "PR_ENV": "true"}):
        assert Settings().pr_env

    with environment(**{name: "7"}):
        assert not Settings().pr_env


def test_exact_sentences():
    """
    A refusal says what is expected, or missing, or misspelt, and what to do about it.
    """
    with (
        environment(**{"DATABASE_URL": "", "PR-ENV": "true", "LISTEN_PORT": "x"}),
        pytest.raises(SettingsError) as caught,
    ):
        Settings()

    otherwise = "the environment says something else. Correct it."
    assert caught.value.problems == (
        "PR-ENV is set and PR_ENV is not. Spell it PR_ENV, or unset it.",
        f"expected DATABASE_URL to be postgresql://user:password@host:port/database, {otherwise}",
        f"expected LISTEN_PORT to be the TCP port to listen on, from 1 to 65535, {otherwise}",
    )
    with (
        patch.dict(os.environ, {"PR_ENV": "1"}, clear=True),
        pytest.raises(SettingsError) as caught,
    ):
        Settings()
    assert caught.value.problems == (
        "DATABASE_URL is not set. Set it to postgresql://user:password@host:port/database.",
    )
    with environment(PR_NUMBER="7"), pytest.raises(SettingsError) as caught:
        Settings()
    assert caught.value.problems == (
        "PR_NUMBER is set and PR_ENV is not true. Set PR_ENV=true, or unset PR_NUMBER.",
    )


def test_exact_sentences_about_access():
    """
    A refusal of ACCESS_* names all that is missing, or that it belongs to a preview.
    """
    alone = {"ACCESS_TEAM_DOMAIN": ACCESS["ACCESS_TEAM_DOMAIN"]}
    with environment(PR_ENV="true", **alone), pytest.raises(SettingsError) as caught:
        Settings()
    assert caught.value.problems == (
        "ACCESS_* is incomplete. Set ACCESS_AUD and ACCESS_EMAILS and ACCESS_SERVICE_CLIENTS, too.",
    )
    with environment(**ACCESS), pytest.raises(SettingsError) as caught:
        Settings()
    assert caught.value.problems == (
        "ACCESS_* is set and PR_ENV is not true. Set PR_ENV=true, or unset ACCESS_*.",
    )


def test_bot_with_and_without_its_token():
    """
    In production the bot runs where its token is set, and nowhere else.
    """
    with environment(DISCORD_BOT_TOKEN="tok"):
        with_token = Settings().guard.decide(StartupPoint.DISCORD)
    with environment():
        without = Settings().guard.decide(StartupPoint.DISCORD)

    assert (with_token.runs, without.runs) == (True, False)
    assert without.reason == "no DISCORD_BOT_TOKEN"


def test_number_needs_preview():
    """
    PR_NUMBER without PR_ENV=true contradicts itself and refuses to start.
    """
    with (
        environment(PR_NUMBER="7", PR_ENV="false"),
        pytest.raises(SettingsError, match="PR_NUMBER"),
    ):
        Settings()

    with environment(PR_NUMBER="7", PR_ENV="true"):
        assert Settings().pr_number == 7


@pytest.mark.parametrize(
    "raw", ["", "0", "07", "+7", "-7", " 7", "7\n", "7.0", "1_0", "\u0667", "x", "1" * 10]
)
def test_number_spelling(raw):
    """
    PR_NUMBER is plain decimal digits, or startup is refused.
    """
    with environment(PR_NUMBER=raw, PR_ENV="true"), pytest.raises(SettingsError, match="PR_NUMBER"):
        Settings()


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "production"])
@pytest.mark.parametrize("name", ["DISCORD_BOT_TOKEN", "GITHUB_TOKEN", "VAULT_GIT_REMOTE"])
def test_credentials(name, preview):
    """
    A preview drops the credentials of startup points and names them; production keeps them.
    """
    value = "https://tok@git.example/vault" if name == "VAULT_GIT_REMOTE" else "tok"
    with environment(**{name: value, "PR_ENV": str(preview)}):
        settings = Settings()
        held = getattr(settings, name.lower())

        assert (name in os.environ) is not preview
    assert (held is None) is preview
    assert settings.dropped == ((name,) if preview else ())
    assert name in credential_names()


def test_credential_of_nonsense():
    """
    A credential that a preview must not hold is dropped even if it is empty; production refuses it.
    """
    with environment(PR_ENV="true", GITHUB_TOKEN=""):
        assert Settings().dropped == ("GITHUB_TOKEN",)

    with environment(GITHUB_TOKEN=""), pytest.raises(SettingsError, match="GITHUB_TOKEN"):
        Settings()


NEVER_REFUSED = {
    "DATABASE_URL",
    "LISTEN_HOST",
    "DISCORD_BOT_TOKEN",
    "GITHUB_TOKEN",
    "VAULT_GIT_REMOTE",
}


@pytest.mark.parametrize("name", [name for name in VARIABLES if name not in NEVER_REFUSED])
def test_refusal_echoes_nothing(name):
    """
    No refusal repeats an input: not the message, the chain of causes, a traceback or its locals.
    """
    secret, console = "hunter2!hunter2", io.StringIO()
    with environment(**{"PR_ENV": "true", name: secret}):
        try:
            Settings()
        except SettingsError as error:
            ours = (
                error.__traceback__ and error.__traceback__.tb_next
            )  # this frame holds the secret, as it must
            formatter = structlog.dev.RichTracebackFormatter(show_locals=True)
            formatter(console, (type(error), error, ours))
            texts = [repr(error), "".join(traceback.format_exception(error)), console.getvalue()]
            chain = (error.__cause__, error.__context__)

    assert name in texts[0]
    assert secret not in "".join(texts)
    assert chain == (None, None)


def test_secrets_have_no_repr():
    """
    Settings that are printed show no secret.
    """
    with environment(DISCORD_BOT_TOKEN="hunter2"):
        shown = repr(Settings()) + str(Settings())

    assert "hunter2" not in shown
    assert "secret" not in shown.replace("SecretStr", "")


def test_environment_is_read_once():
    """
    Settings are frozen: a later change of the environment changes nothing, and nobody sets them.
    """
    with environment(PR_ENV="true"):
        settings = Settings()
    with environment(PR_ENV="false"):
        assert settings.pr_env
        assert settings.guard.preview

    with pytest.raises(ValueError, match="frozen"):
        settings.pr_env = False  # type: ignore[misc]
    assert settings.model_copy(update={"pr_env": False}).guard.preview


def test_only_the_environment(tmp_path, monkeypatch):
    """
    No .env file is read, wherever the process starts.
    """
    Path(tmp_path, ".env").write_text("PR_ENV=true\nDATABASE_URL=x\n")
    monkeypatch.chdir(tmp_path)

    with environment():
        assert Settings().pr_env is False


def test_lower_case_name_is_not_ours():
    """
    Names are taken as they are spelt: database_url is not DATABASE_URL.
    """
    with environment(database_url="other"):
        assert Settings().database_url.get_secret_value() != "other"


def test_every_problem_is_named():
    """
    One refusal names everything that is wrong, with a remedy each, and survives pickling.
    """
    wrong = environment(PR_ENV="ture", LISTEN_PORT="0", DATABASE_WAIT_SECONDS="-1")
    with wrong, pytest.raises(SettingsError) as caught:
        Settings()

    assert [problem.split()[1] for problem in caught.value.problems] == [
        "PR_ENV",
        "DATABASE_WAIT_SECONDS",
        "LISTEN_PORT",
    ]
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


CHANGELOG = {
    "CHANGELOG_REPOSITORIES": "Ada/Harbour, ada/.github",
    "CHANGELOG_CHANNEL": "1234567890123456789",
    "DISCORD_BOT_TOKEN": "tok",
}


def test_changelog():
    """
    Repositories are read without regard to case, and the channel as a number.
    """
    with environment(**CHANGELOG):
        settings = Settings()

    assert settings.changelog_repositories == ("ada/harbour", "ada/.github")
    assert settings.changelog_channel == 1234567890123456789
    with environment():
        assert Settings().changelog_repositories is None
        assert Settings().vault_git_branch == "main"
        assert Settings().github_api_url == "https://api.github.com"


@pytest.mark.parametrize("name", CHANGELOG)
def test_half_a_changelog(name):
    """
    Repositories without a channel, or a bot that could tell it, stop startup, as does the reverse.
    """
    rest = {other: value for other, value in CHANGELOG.items() if other != name}
    expected = f"CHANGELOG_\\* is incomplete. Set {name}, too."
    with environment(**rest), pytest.raises(SettingsError, match=expected):
        Settings()

    with environment(**CHANGELOG):
        assert Settings().changelog_channel
    said = "Set CHANGELOG_CHANNEL and DISCORD_BOT_TOKEN, too."
    with environment(CHANGELOG_REPOSITORIES="a/b"), pytest.raises(SettingsError, match=said):
        Settings()
    with environment(DISCORD_BOT_TOKEN="tok"):
        assert Settings().changelog_channel is None


def test_changelog_in_a_preview():
    """
    A preview, which has no token, may have the changelog's settings; nothing there uses them.
    """
    with environment(**CHANGELOG, PR_ENV="true"):
        assert Settings().dropped == ("DISCORD_BOT_TOKEN",)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        *(
            ("CHANGELOG_REPOSITORIES", raw)
            for raw in ["", ",", "a", "a/", "/a", "a/..", "a/.", "a/b/c", "a/b?x", "a b/c", "a/b,"]
        ),
        *(("CHANGELOG_CHANNEL", raw) for raw in ["", "0", "-1", "x", str(2**63)]),
        *(
            ("VAULT_GIT_BRANCH", raw)
            for raw in ["", "-f", "a..b", "a/", "/a", "a b", "a.lock/..", "@{u}", "a\n"]
        ),
        *(
            ("VAULT_GIT_REMOTE", raw)
            for raw in [
                "", "some-vault", "./vault", "-x", "ext::sh -c true", "ssh://-oProxyCommand=x/y",
                "ssh://a:pw@host/x", "git@-host:x", "host:-x", "a@host:-x", "https://host",
                "ftp://host/x", "https://a@b@host/x", "file://host/x", "/a\nb",
            ]
        ),
        ("GITHUB_API_URL", "api.github.com"),
    ],
)  # fmt: skip
def test_doubtful_job(name, raw):
    """
    A doubtful setting of a job stops startup, and is not repeated.
    """
    with environment(**CHANGELOG | {name: raw}), pytest.raises(SettingsError) as refused:
        Settings()

    assert {name} == {problem.split()[1] for problem in refused.value.problems}
    assert len(raw) < 5 or raw not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        *(("VAULT_GIT_BRANCH", raw) for raw in ["main", "notes/v1.2", "a-b_c"]),
        *(
            ("VAULT_GIT_REMOTE", raw)
            for raw in [
                "https://a:b@host:8443/x.git", "http://127.0.0.1:1/x", "ssh://git@host:22/x",
                "git@github.com:a/b.git", "/srv/va ult.git", "file:///srv/vault.git",
            ]
        ),
    ],
)  # fmt: skip
def test_fine_job(name, raw):
    """
    Every usual way to name a branch or a remote is taken as it is.
    """
    with environment(**{name: raw}):
        found = getattr(Settings(), name.lower())

    assert raw == (found if isinstance(found, str) else found.get_secret_value())


def test_environment_of_programs():
    """
    A program that is started gets what is a person's, and neither our settings nor git's switches.
    """
    theirs = {
        "PATH": "/bin",
        "GIT_SSH_COMMAND": "ssh -i key",
        "GIT_SSL_CAINFO": "ca",
        "HTTPS_PROXY": "p",
    }
    ours = CHANGELOG | {"GITHUB_TOKEN": "tok", "GIT_DIR": "x", "GIT_CONFIG_COUNT": "1"}
    with environment(**theirs | ours):
        assert for_programs() == theirs


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("api.example.com:443", ("api.example.com:443",)),
        ("192.0.2.7:65535", ("192.0.2.7:65535",)),
        ("localhost:1, x-1.y:25 ,a:9", ("localhost:1", "x-1.y:25", "a:9")),
    ],
    ids=["name", "address", "list"],
)
def test_egress_allow(value, expected):
    """
    EGRESS_ALLOW is a list of names or dotted addresses, each with a port; unset it allows nothing.
    """
    with environment(PR_ENV="true", EGRESS_ALLOW=value):
        assert Settings().egress_allow == expected
    with environment(PR_ENV="true"):
        assert Settings().egress_allow == ()


@pytest.mark.parametrize(
    "value",
    [
        *("", "a", "a:", ":1", "a:0", "a:01", "a:65536", "a:1x", "a:-1", "a:1,", "a:1,b", "a :1"),
        *("*.a:1", "https://a:1", "A.example:1", "-a:1", "a-:1", "a..b:1", "a.:1", "[::1]:1"),
        *("1.2.3:4", "1.2.3.256:1", "1.2.3.04:1", "0x7f:1", "a.1:1", f"{'a' * 64}:1", "a:1\nb:2"),
    ],
)
def test_egress_that_is_not_plain(value):
    """
    An entry of EGRESS_ALLOW that could be read otherwise refuses to start.
    """
    with environment(PR_ENV="true", EGRESS_ALLOW=value):
        refused = pytest.raises(SettingsError, match="expected EGRESS_ALLOW to be what a preview")
        with refused:
            Settings()


@pytest.mark.parametrize("value", ["optional", "required"])
def test_seal(value):
    """
    PR_ENV_SEAL is optional or required, and optional where it is unset.
    """
    with environment(PR_ENV="true", PR_ENV_SEAL=value):
        assert Settings().pr_env_seal == value
    with environment(PR_ENV="true"):
        assert Settings().pr_env_seal == "optional"


@given(raw=environment_text.filter(lambda raw: raw not in ("optional", "required")))
def test_other_seal_never_starts(raw):
    """
    Any other value of PR_ENV_SEAL refuses to start.
    """
    with (
        environment(PR_ENV="true", PR_ENV_SEAL=raw),
        pytest.raises(SettingsError, match="expected PR_ENV_SEAL to be optional, or required"),
    ):
        Settings()


@pytest.mark.parametrize(
    "name", ["PR_ENV_SAEL", "PR_ENV_SEA", "PR_ENV_SEALS", "pr_env_seal", "PRENVSEAL", "PR-ENV-SEAL"]
)
@pytest.mark.parametrize("pr_env", ["true", "false"], ids=["preview", "production"])
def test_misspelt_seal(name, pr_env):
    """
    A name that is PR_ENV_SEAL but for a typo refuses to start, lest a preview starts unsealed.
    """
    with environment(**{name: "required", "PR_ENV": pr_env}):
        refused = pytest.raises(SettingsError, match=f"{name} is set and PR_ENV_SEAL is not. Spell")
        with refused:
            Settings()

    with environment(**{name: "x", "PR_ENV": "true", "PR_ENV_SEAL": "required"}):
        assert Settings().pr_env_seal == "required"


@pytest.mark.parametrize(
    ("name", "value"),
    [("EGRESS_ALLOW", "a:1"), ("PR_ENV_SEAL", "optional")],
    ids=["egress", "seal"],
)
def test_preview_settings_in_production(name, value):
    """
    What only a preview has contradicts production, which then does not start.
    """
    said = f"{name} is set and PR_ENV is not true. Set PR_ENV=true, or unset {name}."
    with environment(**{name: value}), pytest.raises(SettingsError, match=said):
        Settings()
    with environment(PR_ENV="true", **{name: value}):
        assert Settings().pr_env
