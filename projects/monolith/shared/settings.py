"""The only module that reads the environment."""

import os
import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FilePath,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shared.dsn import IPV4
from shared.errors import SettingsError
from shared.guard import Guard, StartupPoint

ACCESS = ("ACCESS_TEAM_DOMAIN", "ACCESS_AUD", "ACCESS_EMAILS", "ACCESS_SERVICE_CLIENTS")
"""Belong together: who is let in, by whose word."""

CHANGELOG = ("CHANGELOG_REPOSITORIES", "CHANGELOG_CHANNEL")
"""Belong together: what is polled, and where it is told."""

CREDENTIAL = "credential of a startup point"
"""Marks a field that a preview must not hold."""


def _drop_in_preview(value: object, info: ValidationInfo) -> object:
    return None if info.data.get("pr_env") else value


Credential = Annotated[
    Annotated[SecretStr, Field(min_length=1)] | None, BeforeValidator(_drop_in_preview), CREDENTIAL
]


def _known_remote(value: SecretStr) -> SecretStr:
    if not _REMOTE.fullmatch(value.get_secret_value()):
        raise ValueError
    return value


_REMOTE = re.compile(
    r"https?://([^\s/@]+@)?[^\s/@]+/\S+|ssh://([^\s/:@]+@)?[^\s/@-][^\s/@]*/\S+"
    r"|[\w.]+@[\w.][\w.-]*:[^\s-]\S*|(file://)?/[^\x00-\x1f]+"
)
GitRemote = Annotated[
    Annotated[SecretStr, AfterValidator(_known_remote)] | None,
    BeforeValidator(_drop_in_preview),
    CREDENTIAL,
]


def _plain_digits(value: object) -> object:
    if not re.fullmatch("[1-9][0-9]{0,8}", str(value)):
        raise ValueError
    return value


PullRequest = Annotated[int, BeforeValidator(_plain_digits)]


def _separated(value: object) -> object:
    return [part.strip() for part in str(value).split(",")]


def _reachable(found: str) -> str:
    host, port = found.split(":")
    number = re.fullmatch("[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2])
    if int(port) > 65535 or (number and not IPV4.fullmatch(host)):  # noqa: PLR2004  the highest TCP port
        raise ValueError
    return found


_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_Destination = Annotated[
    str,
    Field(pattern=rf"\A{_LABEL}(?:\.{_LABEL})*:[1-9][0-9]{{0,4}}\z"),
    AfterValidator(_reachable),
]
Destinations = Annotated[tuple[_Destination, ...], NoDecode, BeforeValidator(_separated)]

_Email = Annotated[str, Field(pattern=r"\A[^\s@,]+@[^\s@,]+\z")]
_ServiceClient = Annotated[str, Field(pattern=r"\A[0-9a-f]{32}\.access\z")]
Emails = Annotated[tuple[_Email, ...], NoDecode, BeforeValidator(_separated)]
ServiceClients = Annotated[tuple[_ServiceClient, ...], NoDecode, BeforeValidator(_separated)]


_Repository = Annotated[
    str,
    StringConstraints(
        to_lower=True, pattern=r"\A[a-zA-Z0-9-]{1,39}/\.{0,2}[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,97}\z"
    ),
]
Repositories = Annotated[tuple[_Repository, ...], NoDecode, BeforeValidator(_separated)]
Snowflake = Annotated[int, Field(gt=0, lt=2**63)]


class Settings(BaseSettings):
    """
    Everything that the environment says, read once and frozen.

    Only the process's environment is read, never a file. In a preview the
    credentials of startup points are dropped, from here and from the
    environment, and named in `dropped`.

    Raises:
        SettingsError: anything is missing, misspelt or contradictory. Its
            message names the variable and never what was in it.
    """

    model_config = SettingsConfigDict(
        case_sensitive=True,
        env_file=None,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        secrets_dir=None,
    )

    pr_env: bool = Field(
        default=False,
        validation_alias="PR_ENV",
        description="true, 1, yes, y, on, t (a preview) or false, 0, no, n, off, f (production)",
    )
    pr_number: PullRequest | None = Field(
        default=None,
        validation_alias="PR_NUMBER",
        description="the pull request's number in decimal digits, without a leading zero",
    )
    head_sha: str | None = Field(
        default=None,
        validation_alias="HEAD_SHA",
        pattern=r"\A[0-9a-f]{40}\z",
        description="the commit that runs: 40 hexadecimal digits in lower case",
    )
    database_url: SecretStr = Field(
        validation_alias="DATABASE_URL",
        min_length=1,
        description="postgresql://user:password@host:port/database",
    )
    database_ca_file: FilePath | None = Field(
        default=None,
        validation_alias="DATABASE_CA_FILE",
        description="a file with the certificates of the database's own authority",
    )
    database_wait_seconds: float = Field(
        default=120,
        ge=0,
        le=3600,
        validation_alias="DATABASE_WAIT_SECONDS",
        description="how long to wait for a database that is not up yet, in seconds from 0 to 3600",
    )
    listen_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        validation_alias="LISTEN_HOST",
        description="the address to listen on",
    )
    listen_port: int = Field(
        default=8000,
        ge=1,
        le=65535,
        validation_alias="LISTEN_PORT",
        description="the TCP port to listen on, from 1 to 65535",
    )
    access_team_domain: str | None = Field(
        default=None,
        validation_alias="ACCESS_TEAM_DOMAIN",
        pattern=r"\Ahttps://[a-z0-9.-]+(:[0-9]{1,5})?\z",
        description="https:// and the team's domain in lower case, without a slash at the end",
    )
    access_aud: str | None = Field(
        default=None,
        validation_alias="ACCESS_AUD",
        pattern=r"\A[0-9a-f]{64}\z",
        description="the Access application's audience: 64 hexadecimal digits in lower case",
    )
    access_emails: Emails | None = Field(
        default=None,
        validation_alias="ACCESS_EMAILS",
        description="the people who may, as email addresses separated by commas",
    )
    access_service_clients: ServiceClients | None = Field(
        default=None,
        validation_alias="ACCESS_SERVICE_CLIENTS",
        description="the machines that may, as client ids of service tokens separated by commas",
    )
    egress_allow: Destinations = Field(
        default=(),
        validate_default=False,  # a list already
        validation_alias="EGRESS_ALLOW",
        description="what a preview may reach besides its clone, as host:port separated by commas",
    )
    pr_env_seal: Literal["optional", "required"] = Field(
        default="optional",
        validation_alias="PR_ENV_SEAL",
        description="optional, or required (a preview that the kernel cannot seal does not start)",
    )
    discord_bot_token: Credential = Field(
        default=None, validation_alias="DISCORD_BOT_TOKEN", description="the bot's token"
    )
    discord_api_url: str | None = Field(
        default=None,
        validation_alias="DISCORD_API_URL",
        pattern=r"\Ahttps?://[^/\s?#@]+(/[^\s?#]*)?\z",
        description="the base of Discord's REST API, http:// or https://",
    )
    github_token: Credential = Field(
        default=None, validation_alias="GITHUB_TOKEN", description="the changelog's token"
    )
    github_api_url: str = Field(
        default="https://api.github.com",
        validation_alias="GITHUB_API_URL",
        pattern=r"\Ahttps?://[^/\s?#@]+(/[^\s?#]*)?\z",
        description="the base of GitHub's REST API, http:// or https://",
    )
    changelog_repositories: Repositories | None = Field(
        default=None,
        validation_alias="CHANGELOG_REPOSITORIES",
        description="the repositories to poll, as owner/name separated by commas",
    )
    changelog_channel: Snowflake | None = Field(
        default=None,
        validation_alias="CHANGELOG_CHANNEL",
        description="the id of the Discord channel that is told what is new",
    )
    vault_git_remote: GitRemote = Field(
        default=None,
        validation_alias="VAULT_GIT_REMOTE",
        description="the vault's git remote: an https://, http://, ssh:// or file:// URL, "
        "user@host:path, or an absolute path",
    )
    vault_git_branch: str = Field(
        default="main",
        validation_alias="VAULT_GIT_BRANCH",
        pattern=r"\A[A-Za-z0-9_]+([./-][A-Za-z0-9_]+)*\z",
        description="the branch of the vault that is pushed to",
    )

    _dropped: tuple[str, ...] = PrivateAttr(default=())
    _guard: Guard = PrivateAttr()

    def __init__(self) -> None:
        problems = _misspelt()
        try:
            super().__init__()
        except ValidationError as error:
            problems += _explain(error)
        if problems:  # raised here so that no traceback leads back to the input
            raise SettingsError(problems)
        lacking = {} if self.discord_bot_token else {StartupPoint.DISCORD: "DISCORD_BOT_TOKEN"}
        self._guard = Guard(preview=self.pr_env, lacking=lacking)
        if self.pr_env:
            self._dropped = tuple(name for name in credential_names() if name in os.environ)
            for name in self._dropped:
                del os.environ[name]

    @property
    def guard(self) -> Guard:
        """The single guard, made once with these settings."""
        return self._guard

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the credentials that a preview found in its environment and dropped."""
        return self._dropped

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave the environment as the only source."""
        del settings_cls, init_settings, dotenv_settings, file_secret_settings
        return (env_settings,)

    @model_validator(mode="after")
    def _number_needs_preview(self) -> Self:
        if self.pr_number is not None and not self.pr_env:
            msg = "PR_NUMBER is set and PR_ENV is not true. Set PR_ENV=true, or unset PR_NUMBER."
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _changelog_is_whole(self) -> Self:
        values = {name: getattr(self, name.lower()) for name in CHANGELOG}
        if not self.pr_env:
            values["DISCORD_BOT_TOKEN"] = self.discord_bot_token
        lacking = [name for name, value in values.items() if value is None]
        if lacking and any(values[name] for name in CHANGELOG):
            msg = f"CHANGELOG_* is incomplete. Set {' and '.join(lacking)}, too."
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _egress_needs_preview(self) -> Self:
        names = {"egress_allow", "pr_env_seal"} & self.model_fields_set
        if names and not self.pr_env:
            name = max(names).upper()
            msg = f"{name} is set and PR_ENV is not true. Set PR_ENV=true, or unset {name}."
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _access_is_whole(self) -> Self:
        values = {name: getattr(self, name.lower()) for name in ACCESS}
        lacking = [name for name, value in values.items() if value is None]
        if lacking and len(lacking) < len(values):
            msg = f"ACCESS_* is incomplete. Set {' and '.join(lacking)}, too."
            raise ValueError(msg)
        if not lacking and not self.pr_env:
            msg = "ACCESS_* is set and PR_ENV is not true. Set PR_ENV=true, or unset ACCESS_*."
            raise ValueError(msg)
        return self


def for_programs() -> dict[str, str]:
    """Return the environment for programs that are started: neither our variables nor git's."""
    ours = {str(field.validation_alias) for field in Settings.model_fields.values()}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ours
        and (not name.startswith("GIT_") or name.startswith(("GIT_SSH", "GIT_SSL")))
    }


def credential_names() -> tuple[str, ...]:
    """Name the variables that a preview must not hold."""
    fields = Settings.model_fields.values()
    return tuple(str(field.validation_alias) for field in fields if CREDENTIAL in field.metadata)


def _misspelt() -> list[str]:
    return [
        f"{name} is set and {meant} is not. Spell it {meant}, or unset it."
        for meant in ("PR_ENV", "PR_ENV_SEAL")  # where a name that nobody reads would be dangerous
        if meant not in os.environ
        for name in sorted(os.environ)
        if _near_miss(name, meant)
    ]


def _near_miss(name: str, meant: str) -> bool:
    """Tell whether a name is the one that is meant but for case, dashes, underscores or a typo."""
    found, meant = (re.sub("[-_]", "", spelt).casefold() for spelt in (name, meant))
    while found and meant and found[0] == meant[0]:
        found, meant = found[1:], meant[1:]
    while found and meant and found[-1] == meant[-1]:
        found, meant = found[:-1], meant[:-1]
    swapped = len(found) == len("PR") and found == meant[::-1]
    return max(len(found), len(meant)) <= 1 or swapped


def _explain(error: ValidationError) -> list[str]:
    return [_sentence(problem) for problem in error.errors()]


def _sentence(problem: ErrorDetails) -> str:
    if not problem["loc"]:
        return problem["msg"].removeprefix("Value error, ")
    name = str(problem["loc"][0])
    expected = next(
        field.description
        for field in Settings.model_fields.values()
        if field.validation_alias == name
    )
    if problem["type"] == "missing":
        return f"{name} is not set. Set it to {expected}."
    return f"expected {name} to be {expected}, the environment says something else. Correct it."
