import asyncio
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.git import Remote, WorkingTree
from app.jobs import vault
from app.jobs.tools import Tools
from app.notes import Draft, Edit, create, delete, edit
from app.startup import _run_program
from preview.seed import NOTES, seed
from preview.sinks.vault import Vault
from shared.errors import VaultError
from shared.settings import for_programs
from tests.app.served_git import NAME, PASSWORD, ServedGit


@pytest.fixture
def bare(tmp_path):
    """An empty bare repository to push to."""
    remote = Vault(tmp_path / "vault.git")
    remote.make()
    return remote


@pytest.fixture
def tools(pool, bare, tmp_path):
    """What the job works with."""
    return Tools(pool, vault=tree(tmp_path / "tree", bare.remote))


def tree(directory, url, run=_run_program, branch="main"):
    directory.mkdir(exist_ok=True)
    return WorkingTree(directory, Remote.read(SecretStr(url), branch), run, for_programs())


async def write(pool, title, body="", tags=()):
    return (await create(pool, Draft(title=title, body=body, tags=list(tags)))).id


def git(directory, *arguments):
    who = ["-c", "user.name=ada", "-c", "user.email=ada@example.com"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=directory, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def show(bare, path):
    return git(bare.path, "show", f"main:{path}")


def colleague(bare, home, name="README.md", text="By hand."):
    """Push a file as a colleague would."""
    git(home, "clone", "--quiet", str(bare.path), "colleague")
    copy = home / "colleague"
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_text(text)
    git(copy, "add", ".")
    git(copy, "commit", "--quiet", "-m", "By hand")
    git(copy, "push", "--quiet", "origin", "HEAD:main")
    return copy


async def test_first_run(pool, tools, bare):
    """
    The first push to an empty remote makes its branch, with one Markdown file a note.
    """
    number = await write(pool, "Tide table", "High at noon.", ["sea"])
    await vault.push(tools)

    front, _, body = show(bare, f"notes/tide-table-{number}.md")[4:].partition("\n---\n")
    facts = yaml.safe_load(front)
    assert body.strip() == "High at noon."
    assert (facts["id"], facts["title"], facts["tags"]) == (number, "Tide table", ["sea"])
    assert [commit.subject for commit in bare.history()] == ["Write 1 and remove 0 notes"]


async def test_nothing_to_commit(pool, tools, bare, tmp_path):
    """
    Nothing new means no commit, by the same process, by the next one, and without any note.
    """
    await vault.push(tools)
    without = bare.history()
    await write(pool, "Tides")
    for _ in range(2):
        await vault.push(tools)
    await vault.push(Tools(pool, vault=tree(tmp_path / "anew", bare.remote)))

    assert (without, len(bare.history())) == ([], 1)


async def test_changes(pool, tools, bare, tmp_path):
    """
    An edited note changes its file, a renamed one moves it, a deleted one takes it away; what
    people keep beside the notes stays.
    """
    numbers = [await write(pool, f"Note {i}", f"Body {i}\n" * 20) for i in range(3)]
    await vault.push(tools)
    colleague(bare, tmp_path)
    await edit(pool, numbers[0], Edit(body="New."))
    await edit(pool, numbers[1], Edit(title="Renamed"))
    await delete(pool, numbers[2])
    await vault.push(tools)

    names = git(bare.path, "show", "--format=", "--name-status", "-M50%", "main").splitlines()
    assert [line.split("\t")[0][0] for line in names] == ["M", "D", "R"]
    assert names[2].endswith(f"notes/renamed-{numbers[1]}.md")
    assert show(bare, "README.md") == "By hand."


async def test_archived(pool, tools, bare):
    """
    An archived note stays in the vault, and says so.
    """
    number = await write(pool, "Tides")
    await pool.execute("UPDATE notes.notes SET archived_at = now(), body_tags = '{archive}'")
    await vault.push(tools)

    facts = yaml.safe_load(show(bare, f"notes/tides-{number}.md").split("---")[1])
    assert (facts["tags"], "archived" in facts) == (["archive"], True)


async def test_large(pool, tools, bare):
    """
    Thousands of notes are one commit, and every note is in it.
    """
    async with pool.acquire() as connection:
        await seed(connection)
    await vault.push(tools)

    assert len(bare.files()) == NOTES
    assert len(bare.history()) == 1


@pytest.mark.parametrize("same", [False, True], ids=["another-file", "the-same-file"])
async def test_rejected_push(pool, bare, tmp_path, same):
    """
    A push that somebody was faster than is made once more on top of theirs, and is one commit.
    """
    number = await write(pool, "Tides", "Ours.")
    pushes = 0

    async def overtaken(command):
        nonlocal pushes
        if "push" in command.arguments:
            pushes += 1
            if pushes == 1:
                name = f"notes/tides-{number}.md" if same else "README.md"
                colleague(bare, tmp_path, name, "Theirs.")
        return await _run_program(command)

    await vault.push(Tools(pool, vault=tree(tmp_path / "tree", bare.remote, overtaken)))

    assert [commit.subject for commit in bare.history()] == [
        "Write 1 and remove 0 notes",
        "By hand",
    ]
    assert show(bare, f"notes/tides-{number}.md").endswith("Ours.")
    assert ("README.md" in bare.files()) is not same


async def test_rejected_twice(pool, tools, bare):
    """
    A push that is rejected twice is an error with the remote's reason, and the next run succeeds.
    """
    await write(pool, "Tides")
    hook = bare.path / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(VaultError, match="pre-receive hook declined"):
        await vault.push(tools)
    refused = bare.history()
    hook.unlink()
    await vault.push(tools)

    assert (refused, len(bare.history())) == ([], 1)


@pytest.mark.parametrize("verb", ["commit", "push", "pushed"])
async def test_crash(pool, bare, tmp_path, verb):
    """
    Wherever a process dies, the next one pushes what is missing, and nothing twice.
    """
    await write(pool, "Tides")

    async def crash(command):
        if verb in command.arguments:
            raise KeyError(verb)
        ended = await _run_program(command)
        if verb == "pushed" and "push" in command.arguments:
            raise KeyError(verb)
        return ended

    dying = Tools(pool, vault=tree(tmp_path / "dead", bare.remote, crash))
    with pytest.raises(KeyError):
        await vault.push(dying)
    await vault.push(Tools(pool, vault=tree(tmp_path / "next", bare.remote)))
    await vault.push(Tools(pool, vault=tree(tmp_path / "dead", bare.remote)))

    assert len(bare.history()) == 1


async def test_two_workers(pool, bare, tmp_path):
    """
    Two processes that push at once leave one commit for one state of the notes.
    """
    for i in range(20):
        await write(pool, f"Note {i}")
    both = [Tools(pool, vault=tree(tmp_path / f"tree-{i}", bare.remote)) for i in range(2)]
    await asyncio.gather(*map(vault.push, both))

    trees = [commit.tree for commit in bare.history()]
    assert len(trees) == len(set(trees)) == 1


async def test_batches(pool, tools, bare, monkeypatch):
    """
    Notes are read in batches, and none is left out between two.
    """
    monkeypatch.setattr(vault, "BATCH", 3)
    numbers = [await write(pool, "Note") for _ in range(10)]
    await vault.push(tools)

    assert bare.files() == sorted(f"notes/note-{number}.md" for number in numbers)


async def test_hostile_tree(pool, tools, bare, tmp_path):
    """
    A link in the remote's tree leads nowhere, a hook and a filter of it run nothing, and what lies
    below the notes' folder goes.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    copy = colleague(bare, tmp_path)
    (copy / "notes").symlink_to(outside)
    (copy / ".gitattributes").write_text("*.md filter=evil\n")
    (copy / ".gitignore").write_text("*\n")
    git(copy, "add", "--force", ".")
    git(copy, "commit", "--quiet", "-m", "Link")
    git(copy, "push", "--quiet", "origin", "HEAD:main")
    number = await write(pool, "Tides")
    await tools.vault.take_over()
    links = [path for path in tools.vault.directory.rglob("*") if path.is_symlink()]
    await vault.push(tools)

    assert links == []
    assert list(outside.iterdir()) == []
    assert f"notes/tides-{number}.md" in bare.files()
    assert "README.md" in bare.files()


async def test_foreign_files(pool, tools, bare, tmp_path):
    """
    What somebody adds below the notes' folder goes with the next push, directories too.
    """
    number = await write(pool, "Tides")
    await vault.push(tools)
    colleague(bare, tmp_path, "notes/mine/deep.md")
    await vault.push(tools)

    assert bare.files() == [f"notes/tides-{number}.md"]


async def test_people_s_configuration(pool, bare, tmp_path, monkeypatch):
    """
    Neither a person's git configuration nor their environment changes what is pushed.
    """
    marker = tmp_path / "ran"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text(f"#!/bin/sh\ntouch {marker}\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f"[core]\nhooksPath = {hooks}\n[user]\nname = someone\n[commit]\ngpgSign = true\n"
        '[url "/nowhere"]\ninsteadOf = file://\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "someone")
    monkeypatch.setenv("GIT_TRACE", str(marker))
    await write(pool, "Tides")
    working = tree(tmp_path / "tree", bare.remote)
    await working.take_over()
    for name in ("pre-commit", "pre-push"):  # as a template of git's could leave them
        hook = working.directory / ".git/hooks" / name
        hook.write_bytes((hooks / "pre-commit").read_bytes())
        hook.chmod(0o755)
    await vault.push(Tools(pool, vault=working))

    monkeypatch.delenv("GIT_DIR")
    assert not marker.exists()
    assert git(bare.path, "log", "--format=%an <%ae>", "main") == "monolith <monolith@localhost>"


@pytest.mark.parametrize(
    ("name", "password", "written"),
    [(NAME, PASSWORD, "vault-writer:p%40ss%2Fw%3Ard%25"), ("tok-en", "", "tok-en")],
    ids=["password", "token-as-name"],
)
async def test_credentials(pool, bare, tmp_path, name, password, written):
    """
    Name and password reach the remote, and are in no argument of any process, no file and no word.
    """
    git(bare.path, "config", "http.receivepack", "true")
    await write(pool, "Tides")
    async with ServedGit(tmp_path, name, password).serve() as server:
        seen = []

        async def watched(command):
            ended = await _run_program(command)
            seen.append(" ".join([*command.arguments, ended.out, ended.err]))
            return ended

        working = tree(tmp_path / "tree", f"http://{written}@{server.url}/vault.git", watched)
        await vault.push(Tools(pool, vault=working))
    files = [path.read_bytes() for path in working.directory.rglob("*") if path.is_file()]

    assert len(bare.history()) == 1
    assert any("git-remote-http" in line for line in server.command_lines)
    for secret in filter(None, (name, password, written)):
        assert not [line for line in server.command_lines if secret in line]
        assert not [text for text in seen if secret in text]
        assert not [file for file in files if secret.encode() in file]
        assert secret not in repr(working)


async def test_wrong_password(pool, bare, tmp_path):
    """
    A password that the remote refuses is an error without it, and nobody is asked on a terminal.
    """
    await write(pool, "Tides")
    async with ServedGit(tmp_path).serve() as server:
        remote = f"http://vault-writer:wrong-pass@{server.url}/vault.git"
        with pytest.raises(VaultError) as refused:
            await vault.push(Tools(pool, vault=tree(tmp_path / "tree", remote)))

    assert "Authentication failed" in str(refused.value)
    assert "wrong-pass" not in str(refused.value)
    assert len(server.shown) == 2  # without, then with


async def test_no_remote(pool, tmp_path):
    """
    A remote that is not there is an error that says which settings to check.
    """
    with pytest.raises(VaultError, match="Check VAULT_GIT_REMOTE") as refused:
        await vault.push(Tools(pool, vault=tree(tmp_path / "tree", "/nowhere/vault.git")))

    assert "git ls-remote" in str(refused.value)


async def test_commands_are_refused(pool, tmp_path):
    """
    A remote that would run a program runs none.
    """
    ran = tmp_path / "ran"
    with pytest.raises(VaultError, match="not allowed"):
        await vault.push(
            Tools(pool, vault=tree(tmp_path / "tree", f"ext::sh -c 'touch {ran}; echo'"))
        )

    assert not ran.exists()


@pytest.mark.parametrize("how", ["cancelled", "timeout"])
async def test_hanging_remote(pool, bare, tmp_path, monkeypatch, how):
    """
    A push that hangs ends when its time is up or the job is stopped, with all that git has started.
    """
    asleep = tmp_path / "asleep"
    hook = bare.path / "hooks/pre-receive"
    hook.write_text(
        f"#!/bin/sh\necho $$ > {asleep}.new\nmv {asleep}.new {asleep}\nexec sleep 999\n"
    )
    hook.chmod(0o755)
    await write(pool, "Tides")
    if how == "timeout":
        monkeypatch.setattr("app.git.NETWORK_SECONDS", 3)
    job = asyncio.create_task(vault.push(Tools(pool, vault=tree(tmp_path / "tree", bare.remote))))
    while not asleep.exists():
        await asyncio.sleep(0.02)
    if how == "cancelled":
        job.cancel()
    await asyncio.wait([job])

    pid = int(asleep.read_text())
    while Path(f"/proc/{pid}").exists() and "sleep" in Path(f"/proc/{pid}/cmdline").read_text():
        await asyncio.sleep(0.02)
    assert job.cancelled() if how == "cancelled" else isinstance(job.exception(), VaultError)
    assert bare.history() == []


async def test_git_is_missing(pool, bare, tmp_path, monkeypatch):
    """
    A machine without git is an error that says so.
    """
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VaultError, match="cannot be started: No such file"):
        await vault.push(Tools(pool, vault=tree(tmp_path / "tree", bare.remote)))


@given(st.text(min_size=1, max_size=200), st.integers(1, 2**63 - 1))
def test_any_title(title, number):
    """
    Whatever a title, the file's name is short, safe on every system, and nobody else's.
    """
    name = vault.file_name(number, title)

    assert name.removesuffix(".md").rpartition("-")[2] == str(number)
    assert len(os.fsencode(name)) <= vault.LONGEST_NAME_BYTES + 24
    assert Path(name).name == name
    assert not name.startswith((".", "-"))
    assert not set(name) & set('<>:"/\\|?*\0')
    assert name.isprintable()


@given(st.text(max_size=200).filter(lambda text: "\0" not in text))
def test_any_text_is_yaml(text):
    """
    Whatever a title or a tag, it is read back from the front matter as it was.
    """
    assert yaml.safe_load(f"title: {vault._yaml(text)}\n") == {"title": text}
    assert yaml.safe_load(f"tags: {vault._yaml([text])}\n") == {"tags": [text]}


@pytest.mark.parametrize(
    ("given_", "url", "secrets"),
    [
        ("https://ada:pw@host/x.git", "https://host/x.git", ("pw", "ada")),
        ("https://tok@host:8443/x", "https://host:8443/x", ("tok",)),
        ("https://host/x", "https://host/x", ()),
        ("ssh://git@host/x", "ssh://git@host/x", ()),
        ("git@host:x.git", "git@host:x.git", ()),
        ("/srv/vault.git", "/srv/vault.git", ()),
        ("file:///srv/a@b.git", "file:///srv/a@b.git", ()),
    ],
    ids=["password", "token", "public", "ssh", "scp", "path", "file"],
)
def test_remote(given_, url, secrets):
    """
    What is secret about a remote is parted from its address; the user of ssh is no secret.
    """
    remote = Remote.read(SecretStr(given_), "main")

    assert (remote.url, remote.secrets) == (url, secrets)
