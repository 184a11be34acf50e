"""What an attempt to get out of a preview is, and the list of all of them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar


class Layer(StrEnum):
    """What stops an attempt; the last one says that nothing in the process does."""

    SETTINGS = "settings"
    DSN = "DSN"
    IDENTITY = "identity"
    GUARD = "guard"
    GATE = "startup gate"
    TRIPWIRE = "tripwire"
    SEAL = "seal"
    NOTHING = "not blocked"


class Outer(StrEnum):
    """What holds from outside what nothing in the process stops."""

    NETWORK_POLICY = "the pod's NetworkPolicy"
    FILE_SYSTEM = "the pod's own file system, and a password that no preview has"
    ORDER = "the order of the start"
    NOTHING = "nothing: the cluster's resolver asks on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """
    One attempt to get out.

    Args:
        chapter: the heading of the table that it belongs to.
        why: where nothing in the process stops it: why nothing does.
        held_by: what holds it all the same, from outside.
        blind_spot: how the attestation's own words for that begin.
    """

    name: str
    what: str
    chapter: str
    layer: Layer
    why: str = ""
    held_by: Outer | None = None
    blind_spot: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Attempt):
    """
    An environment to start in, with what names lead to there.

    Its control is an app that hands DATABASE_URL to asyncpg.

    Args:
        variables: may hold what the world tells, such as {port}.
        names: host names beside those of every world, and whose address they have.
        uvloop: the control runs on uvloop, where the trick needs it.
        legal: the DSN is one that we understand, so that the clone is asked, and does not answer.
        asks: the control asks who answers first, as one does who does not expect a lie.
    """

    variables: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)
    uvloop: bool = False
    legal: bool = False
    asks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Act(Attempt):
    """
    Some lines of code, run in a preview that has started; its control is production.

    Args:
        code: is given an Outside; what is before a `yield` runs before the start.
        variables: what it wants in its environment.
        over_tcp: its clone is reached by TCP, as in a cluster, and not by a socket.
        landlock: the first version of it that holds this, where it is the seal that does.
        resolver: names are looked up for real, by packets to the world outside.
    """

    code: Callable[..., Any]
    variables: Mapping[str, str] = field(default_factory=dict)
    over_tcp: bool = False
    landlock: int = 4
    resolver: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve(Attempt):
    """
    A command that would serve the app past `monolith serve`; its control is production.

    Args:
        arguments: of Python; `attacker` is a module that makes the app by hand.
        says: what it writes, for the reader of its log.
        control: of Python, where the attempt itself could not serve production either.
    """

    arguments: tuple[str, ...]
    says: str
    control: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chapter:
    """Some attempts under one heading; makes and keeps them."""

    title: str
    all: ClassVar[dict[str, Attempt]] = {}

    def start(self, name: str, what: str, layer: Layer, **more: Any) -> None:
        """Keep an environment that must not lead elsewhere."""
        self._keep(Start(name=name, what=what, chapter=self.title, layer=layer, **more))

    def serve(self, name: str, what: str, *arguments: str, says: str, **more: Any) -> None:
        """Keep a command that must not serve; the startup gate is in its way."""
        self._keep(
            Serve(
                name=name,
                what=what,
                chapter=self.title,
                layer=Layer.GATE,
                arguments=arguments,
                says=says,
                **more,
            )
        )

    def tries(self, layer: Layer, **more: Any) -> Callable[[Callable[..., Any]], None]:
        """Keep a function that must not get out; its docstring says what it tries."""

        def register(code: Callable[..., Any]) -> None:
            what = " ".join((inspect.getdoc(code) or "").split()).removesuffix(".")
            name = code.__name__.replace("_", "-")
            self._keep(
                Act(name=name, what=what, chapter=self.title, layer=layer, code=code, **more)
            )

        return register

    def _keep(self, attempt: Attempt) -> None:
        if attempt.name in self.all:
            raise AssertionError(attempt.name)
        self.all[attempt.name] = attempt
