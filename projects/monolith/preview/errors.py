"""Every error that the operator's side raises on purpose."""

from pathlib import Path

from shared.errors import MonolithError


class BinariesError(MonolithError):
    """There is no Postgres that can be run."""

    def __init__(self, where: str, reason: str, remedy: str) -> None:
        self.where = where
        self.reason = reason
        self.remedy = remedy
        super().__init__(
            f"Cannot run Postgres: expected its programs in {where}, {reason}. {remedy}"
        )


class UnreachableError(MonolithError):
    """A directory is closed to the user that runs Postgres; it is never opened for them."""

    def __init__(self, directory: Path, user: str) -> None:
        self.directory = directory
        self.user = user
        super().__init__(
            f"Refused to keep a database below {directory}: expected user {user!r}, who runs "
            f"Postgres, to get there, the file system says permission denied. "
            "Name a directory that every user can enter: --state-dir PATH."
        )


class SocketPathError(MonolithError):
    """The state directory's name is too long for a Unix socket in it."""

    def __init__(self, path: Path, longest: int) -> None:
        self.path = path
        self.longest = longest
        super().__init__(
            f"Refused to make the socket {path}: expected a path of at most {longest} bytes, "
            f"it has {len(bytes(path))}. Name a shorter directory: --state-dir PATH."
        )


class EngineError(MonolithError):
    """Postgres did not do what it was told; its last words are in the message."""

    def __init__(self, engine: str, verb: str, reason: str, log: Path) -> None:
        self.engine = engine
        self.verb = verb
        self.reason = reason
        self.log = log
        super().__init__(
            f"Cannot {verb} {engine}: expected Postgres to do it, it says {reason!r}. Read {log}."
        )


class ForeignEngineError(MonolithError):
    """The engine runs as a user whose processes we may not signal."""

    def __init__(self, engine: str, pid: int) -> None:
        self.engine = engine
        self.pid = pid
        super().__init__(
            f"Cannot stop {engine}: expected to be allowed to signal process {pid}, "
            "the system says no. Do it as the user who started it."
        )


class SourceError(MonolithError):
    """The source cannot be cloned as it is; a second try gives the same."""

    def __init__(self, source: str, expected: str, found: str, remedy: str) -> None:
        self.source = source
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(
            f"Refused to clone {source}: expected {expected}, the source says {found}. {remedy}"
        )


class CloneExistsError(MonolithError):
    """There is a clone of this name already."""

    def __init__(self, clone: str, home: Path) -> None:
        self.clone = clone
        self.home = home
        super().__init__(
            f"Refused to make the clone {clone}: expected nothing in {home}, "
            "the file system says it holds a database. Tear that one down first."
        )


class SpaceError(MonolithError):
    """A full copy would not fit."""

    def __init__(self, directory: Path, needed: int, free: int) -> None:
        self.directory = directory
        self.needed = needed
        self.free = free
        super().__init__(
            f"Refused to copy the source into {directory}: expected {needed:,} bytes free, "
            f"the file system says {free:,}. Free some, or name another place: --state-dir PATH."
        )


class CloneError(MonolithError):
    """The copy is not complete, so nothing of it was kept."""

    def __init__(self, clone: str, expected: str, found: str) -> None:
        self.clone = clone
        self.expected = expected
        self.found = found
        super().__init__(
            f"Refused to keep the clone {clone}: expected {expected}, the copy has {found}. "
            "Try again."
        )


class SumError(MonolithError):
    """atlas.sum does not describe the files beside it."""

    def __init__(self, directory: Path, problem: str) -> None:
        self.directory = directory
        self.problem = problem
        super().__init__(
            f"Refused to use the migrations in {directory}: expected atlas.sum to describe them, "
            f"it says otherwise: {problem}. Run: make migrations-hash."
        )


class MigrationError(MonolithError):
    """A migration cannot be applied as it is written; `file` is the one to correct."""

    def __init__(self, file: str, expected: str, found: str, remedy: str) -> None:
        self.file = file
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(f"Refused to apply {file}: expected {expected}, {found}. {remedy}")


class SchemaAheadError(MonolithError):
    """The database has migrations that the branch lacks."""

    def __init__(self, versions: tuple[str, ...]) -> None:
        self.versions = versions
        super().__init__(
            "Refused to migrate: expected every applied migration among the branch's files, "
            f"the database's schema is ahead of the branch by {', '.join(versions)}. "
            "Rebase the branch onto main; or, where this machine's source got them from another "
            "branch, make it anew: monolith preview down --all --source."
        )


class HistoryError(MonolithError):
    """What was applied is no longer what the files say; `file` is the first that differs."""

    def __init__(self, file: str, found: str) -> None:
        self.file = file
        self.found = found
        super().__init__(
            f"Refused to migrate: expected {file} to be applied as it is now, "
            f"the database says {found}. Restore the file, or reset the clone; "
            "where this machine's source has it: monolith preview down --all --source."
        )


class PreviewRunsError(MonolithError):
    """The preview that was asked for runs already."""

    def __init__(self, number: int, url: str | None) -> None:
        self.number = number
        self.url = url
        super().__init__(
            f"Refused to start preview {number}: expected it not to run, its lock says it does "
            f"({url or 'not ready yet'}). Open it, or tear it down: monolith preview down {number}."
        )


class TooManyPreviewsError(MonolithError):
    """As many previews run as may at once; names them."""

    def __init__(self, running: tuple[int, ...], most: int) -> None:
        self.running = running
        self.most = most
        names = ", ".join(map(str, running))
        super().__init__(
            f"Refused to start another preview: expected fewer than {most} to run, "
            f"this machine runs {names}. Tear one down: monolith preview down {running[0]}."
        )


class NoPreviewError(MonolithError):
    """There is no such preview on this machine."""

    def __init__(self, number: int, known: tuple[int, ...]) -> None:
        self.number = number
        self.known = known
        there = f"has {', '.join(map(str, known))}" if known else "has none"
        super().__init__(
            f"Cannot find preview {number}: expected it on this machine, which {there}. "
            f"Start it: monolith preview up {number}."
        )


class ForeignPreviewError(MonolithError):
    """The preview belongs to a user whose processes we may not signal."""

    def __init__(self, number: int, pid: int) -> None:
        self.number = number
        self.pid = pid
        super().__init__(
            f"Cannot tear down preview {number}: expected to be allowed to signal process {pid}, "
            "the system says no. Do it as the user who started it."
        )


class AppError(MonolithError):
    """The preview's app does not serve; its last words are in the message."""

    def __init__(self, reason: str, log: str) -> None:
        self.reason = reason
        self.log = log
        super().__init__(f"Cannot serve the preview: expected the app to run, {reason}. {log}")


class ProductionError(MonolithError):
    """Production beside the preview does not run; its last words are in the message."""

    def __init__(self, reason: str, log: str) -> None:
        self.reason = reason
        self.log = log
        super().__init__(
            f"Cannot run production beside the preview: expected it to run, {reason}. {log}"
        )


class ProductionRunsError(MonolithError):
    """Production runs already on this machine."""

    def __init__(self, url: str | None) -> None:
        self.url = url
        super().__init__(
            "Refused to run production twice on one machine: expected it not to run, its lock says "
            f"it does ({url or 'not ready yet'}). Leave out --with-production; the preview runs "
            "beside that one."
        )


class SystemSaysNoError(MonolithError):
    """The system or the database said no where nobody expected it; nothing is left running."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"Cannot go on: expected disk and database to do as told, they say {reason}. "
            "Free space or correct what it names, or name another place: --state-dir PATH."
        )


class MissingModuleError(MonolithError):
    """A part of the operator's side was not installed."""

    def __init__(self, module: str) -> None:
        self.module = module
        super().__init__(
            f"Cannot run this command: expected the Python module {module!r}, it is not installed. "
            "Run it in a checkout, where make setup installs everything."
        )


class AccessCheckError(MonolithError):
    """What to check is not said, or not in a way that leads to a proof."""

    def __init__(self, found: str, fact: str, expected: str) -> None:
        self.found = found
        self.fact = fact
        self.expected = expected
        super().__init__(
            f"Refused to check Cloudflare Access: expected {fact} to be {expected}, "
            f"the command says {found}. Correct {fact}; docs/operations.md has an example."
        )


class SweepError(MonolithError):
    """The cluster does not show enough to call anything left behind."""

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(f"Refused to sweep: expected {expected}, {found}. {remedy}")


class GitHubError(MonolithError):
    """GitHub does not do what it was asked; `status` is what it answered, 0 where it did not."""

    def __init__(self, request: str, found: str, remedy: str, status: int = 0) -> None:
        self.request = request
        self.found = found
        self.remedy = remedy
        self.status = status
        super().__init__(f"Cannot use GitHub: expected it to grant {request}, {found}. {remedy}")


class RateLimitError(MonolithError):
    """GitHub limits the rate for longer than we wait; what was done stays done."""

    def __init__(self, request: str, seconds: float, until: str) -> None:
        self.request = request
        self.seconds = seconds
        self.until = until
        super().__init__(
            f"Cannot wait for GitHub: expected it to grant {request} within {seconds:.0f} s, "
            f"it limits the rate until {until}. Run the command again after that."
        )


class NotTheWriterError(MonolithError):
    """Only one writer gives and takes labels; whatever anybody else does is a person's wish."""

    def __init__(self, writer: str, viewer: str) -> None:
        self.writer = writer
        self.viewer = viewer
        super().__init__(
            f"Refused to write labels: expected the token of {writer}, GitHub says it is of "
            f"{viewer}, whose every change would be a person's wish. "
            "Run the workflow: gh workflow run preview.yaml; or look only: --dry-run."
        )
