"""The only module that reads a DSN; it does no I/O."""

import os
import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from pydantic import SecretStr

from shared.errors import TargetError

_PART = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DSN = re.compile(
    rf"postgres(?:ql)?://(?P<user>{_PART})(?::(?P<password>{_PART}))?@"
    rf"(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])?(?::(?P<port>[1-9][0-9]{{0,4}}))?"
    rf"/(?P<database>{_PART})(?:\?(?P<query>.*))?"
)
IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!\Z)|\Z)){4}")
"""A dotted address of four decimal numbers; no other spelling is one."""
_SOCKET_FILE = ".s.PGSQL."
_NOT_A_DIRECTORY = f",|{re.escape(_SOCKET_FILE)}"  # a list of them, or a file in one
_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True)
class Target:
    """
    Where to connect and as whom, with nothing left to be guessed.

    Args:
        host: a name in lower case, an IP address, or an absolute socket directory.
        port: TCP port, or the number in the socket's file name.
    """

    host: str
    port: int
    user: str
    password: SecretStr = field(repr=False)
    database: str

    @property
    def is_socket(self) -> bool:
        """Whether the host is a directory that holds a Unix socket."""
        return self.host.startswith("/")

    @property
    def socket_path(self) -> str:
        """The path of the Unix socket; where the host is no directory there is none."""
        return f"{self.host}/{_SOCKET_FILE}{self.port}"

    def __str__(self) -> str:
        """Return host, port and database; never user or password."""
        return f"{self.host}:{self.port}/{self.database}"

    def parameters(self, tls: object) -> dict[str, Any]:
        """
        Return every parameter of `asyncpg.connect` that its environment could otherwise fill in.

        asyncpg takes what is missing from PGHOST, PGPORT, PGPASSFILE,
        PGTARGETSESSIONATTRS and a dozen others; nothing is missing here.

        Args:
            tls: an SSLContext, or False for no TLS.
        """
        return {
            "dsn": None,
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password.get_secret_value(),
            "passfile": os.devnull,
            "service": None,
            "servicefile": None,
            "database": self.database,
            "ssl": tls,
            "direct_tls": False,
            "server_settings": {"application_name": "monolith"},
            "target_session_attrs": "any",
            "krbsrvname": "postgres",
            "gsslib": "gssapi",
        }


def parse(dsn: str) -> Target:
    """
    Read a DSN to the last character.

    Raises:
        TargetError: there is anything in it that we do not understand, such as
            a list of hosts, a second `@`, a query parameter or a service.
    """
    match = _DSN.fullmatch(dsn)
    if match is None:
        _refuse(_what_is_wrong(dsn))
    directory = _socket_directory(match["query"])
    if (match["host"] is None) == (directory is None):
        _refuse("names no host, or both a host and a socket directory")
    return Target(
        host=_host(match["host"]) if directory is None else directory,
        port=_port(match["port"]),
        user=_text(match["user"], "user"),
        password=SecretStr(_text(match["password"] or "", "password")),
        database=_text(match["database"], "database"),
    )


def _host(found: str) -> str:
    if found.startswith("["):
        try:
            return str(IPv6Address(found[1:-1]))
        except AddressValueError:
            pass
        _refuse("has brackets around something that is not an IPv6 address")
    numeric = all(re.fullmatch(r"(?i)\d+|0x[0-9a-f]*", part) for part in found.split("."))
    if len(found) > _LONGEST_NAME or (numeric and not IPV4.fullmatch(found)):
        _refuse("has a host that is neither a name nor a dotted IPv4 address")
    return found.lower()


def _port(found: str | None) -> int:
    port = int(found or "5432")
    if port > 65535:  # noqa: PLR2004  the highest TCP port
        _refuse("has a port above 65535")
    return port


def _socket_directory(query: str | None) -> str | None:
    if query is None:
        return None
    name, _, value = query.partition("=")
    directory = _text(value, "socket directory")
    if name != "host" or "&" in value:
        _refuse("has query parameters other than one host")
    root, _, path = directory.partition("/")
    if root or {"", ".", ".."} & set(path.split("/")) or re.search(_NOT_A_DIRECTORY, directory):
        _refuse("has a host parameter that is not an absolute, plain socket directory")
    return directory


def _text(found: str, part: str) -> str:
    text = unquote_to_bytes(found.encode(errors="surrogatepass")).decode(errors="replace")
    if not text.isprintable() or "\ufffd" in text:
        _refuse(f"has a {part} that is not printable UTF-8")
    return text


def _what_is_wrong(dsn: str) -> str:
    if not re.match(r"postgres(ql)?://", dsn):
        return "does not start with postgresql://"
    if dsn.count("@") != 1:
        return "does not have exactly one @ (write %40 for one in a password)"
    if "," in dsn.partition("@")[2]:
        return "names several hosts"
    return "has another form"


def _refuse(found: str) -> NoReturn:
    raise TargetError(found, "Take it from the cluster's -app secret, key uri.")
