"""The job that keeps the notes as Markdown in a git repository."""

import json
import re
import shutil
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from app.jobs.tools import Tools
from shared.errors import VaultError

BATCH = 100
FOLDER = "notes"
"""What is below it is the job's, everything else in the repository is people's."""

LONGEST_NAME_BYTES = 120

_NOTES = """
SELECT id, title, body, tags, body_tags, created_at, updated_at, archived_at
FROM notes.notes WHERE id > $1 ORDER BY id LIMIT $2
"""
_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


async def push(tools: Tools) -> None:
    """
    Push the notes as they are now, as one commit; nothing to say means no commit.

    A push that is rejected begins anew, once, on what the remote has by then.

    Raises:
        VaultError: git or the remote said no.
    """
    tree = tools.vault
    if tree is None:  # the table leaves the job out, so this is a bug
        raise AssertionError(tools.lacking)
    rejected = ""
    for _ in range(2):
        await tree.take_over()
        folder = await write(tools.pool, tree.directory / FOLDER)
        if not await tree.commit(folder.summary):
            return
        rejected = await tree.push()
        if not rejected:
            return
    raise VaultError(verb="push", reason=rejected)


async def write(pool: asyncpg.Pool, path: Path) -> "Folder":
    """Make a directory hold one file a note, and nothing else; a batch of notes at a time."""
    folder = Folder(path)
    folder.open()
    last = 0
    while notes := await pool.fetch(_NOTES, last, BATCH):
        folder.take((file_name(note["id"], note["title"]), markdown(note)) for note in notes)
        last = notes[-1]["id"]
    folder.close()
    return folder


@dataclass(slots=True)
class Folder:
    """A directory of files, of which only what differs is written."""

    path: Path
    written: int = 0
    removed: int = 0
    _left: set[str] = field(default_factory=set)

    def open(self) -> None:
        """Look at what is there; what stands in the directory's place goes."""
        if self.path.is_symlink() or not self.path.is_dir():
            self.path.unlink(missing_ok=True)
            self.path.mkdir()
        self._left = {entry.name for entry in self.path.iterdir()}

    def take(self, files: Iterable[tuple[str, str]]) -> None:
        """Write these files, where they are not there already."""
        for name, text in files:
            path, content = self.path / name, text.encode()
            if name in self._left and path.is_file() and path.read_bytes() == content:
                self._left.discard(name)
                continue
            self._remove(name)
            path.write_bytes(content)
            self.written += 1

    def close(self) -> None:
        """Remove what was there and is no note's."""
        for name in sorted(self._left):
            self._remove(name)
            self.removed += 1

    @property
    def summary(self) -> str:
        """What was done, as a commit's message."""
        return f"Write {self.written} and remove {self.removed} notes"

    def _remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        self._left.discard(name)


def file_name(number: int, title: str) -> str:
    """
    Name a note's file: words of the title for people, then the number, which alone makes it unique.

    Only letters, digits and dashes, whatever the title: no path, no reserved
    name, no two that differ by case alone.
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", title).casefold().replace("_", " "))
    slug = "-".join(words).encode()[:LONGEST_NAME_BYTES].decode(errors="ignore").strip("-")
    return f"{slug or 'note'}-{number}.md"


def markdown(note: asyncpg.Record) -> str:
    """Return a note as Markdown, after its facts as YAML; JSON's texts are YAML's, too."""
    facts = {
        "id": note["id"],
        "title": note["title"],
        "tags": sorted({*note["tags"], *note["body_tags"]}),
        "created": note["created_at"].isoformat(),
        "updated": note["updated_at"].isoformat(),
    }
    if note["archived_at"]:
        facts["archived"] = note["archived_at"].isoformat()
    lines = [f"{name}: {_yaml(fact)}" for name, fact in facts.items()]
    body = note["body"].rstrip("\n")
    return "\n".join(["---", *lines, "---", *([f"\n{body}"] if body else []), ""])


def _yaml(fact: object) -> str:
    text = json.dumps(fact, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda char: f"\\u{ord(char[0]):04x}", text)
