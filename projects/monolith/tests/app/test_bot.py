import asyncio
import time

import pytest

from preview.sinks.payloads import BOT, CHANNEL, TOKEN
from tests.app.waiting import until
from tests.environment import read


@pytest.fixture
async def production(served, database, discord):
    """The monolith in production mode, whose bot is connected to that Discord."""
    variables = {
        "DATABASE_URL": await database(),
        "DISCORD_BOT_TOKEN": TOKEN,
        "DISCORD_API_URL": discord.url,
    }
    async with served(**variables) as (client, process):
        await discord.identified.wait()
        yield client, process


async def test_mention(production, discord):
    """
    A person who mentions the bot gets the notes that match, and nobody is mentioned.
    """
    client, _ = production
    await client.post("/api/notes", json={"title": "Tide table", "body": "@everyone High at noon."})
    await discord.mention("tide")
    answer = await discord.sent.get()

    assert answer["content"] == "**Tide table** @everyone High at noon."
    assert answer["allowed_mentions"] == {"parse": []}
    assert answer["message_reference"]["channel_id"] == int(CHANNEL)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("", "Mention me with something to look for."),
        ("nothing", "No note matches 'nothing'."),
        ("a\0b", "No note matches 'a b'."),
    ],
    ids=["nothing-asked", "nothing-found", "not-storable"],
)
async def test_nothing_to_say(production, discord, asked, said):
    """
    A mention always gets an answer, also where there is nothing to find.
    """
    await discord.mention(asked)

    assert (await discord.sent.get())["content"] == said


async def test_slash_command(production, discord):
    """
    /notes is registered, and answers the one who asked.
    """
    await discord.slash("tide")
    answer = await discord.sent.get()

    assert [command["name"] for command in discord.commands] == ["notes"]
    assert (answer["content"], answer["flags"]) == ("No note matches 'tide'.", 64)


async def test_long_answer_to_a_slash_command(served, database, discord):
    """
    An answer that is longer than Discord takes is cut, to a mention and to /notes alike.
    """
    variables = {"DATABASE_URL": await database(), "DISCORD_API_URL": discord.url}
    async with read(variables["DATABASE_URL"]).pool() as pool:
        for number in range(5):
            title = f"tide {number} " + "\N{WATER WAVE}" * 180
            note = ("tide " + "\N{WATER WAVE}" * 200, title)
            await pool.execute("INSERT INTO notes.notes (body, title) VALUES ($1, $2)", *note)
    async with served(**variables, DISCORD_BOT_TOKEN=TOKEN):
        await discord.identified.wait()
        await discord.slash("tide")
        slash = await discord.sent.get()
        await discord.mention("tide")
        mention = await discord.sent.get()

    assert slash["content"] == mention["content"]
    assert (len(slash["content"].encode("utf-16-le")), slash["content"][-1]) == (4000, "…")


async def test_what_it_leaves_alone(production, discord):
    """
    What does not mention the bot, or comes from a bot, gets no answer.
    """
    await discord.say("tide")
    await discord.say(f"<@{BOT['id']}> tide", author=BOT)
    await discord.mention("last")
    answers = [await discord.sent.get()]

    assert [answer["content"] for answer in answers] == ["No note matches 'last'."]
    assert discord.sent.empty()


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "production"])
async def test_token_in_a_preview(served, clone_7, database, discord, preview):
    """
    A token in a preview's environment connects nobody to Discord; in production it does.
    """
    dsn = clone_7.dsn().get_secret_value() if preview else await database()
    variables = {
        "DATABASE_URL": dsn, "PR_ENV": str(preview),
        "DISCORD_BOT_TOKEN": TOKEN, "DISCORD_API_URL": discord.url,
    }  # fmt: skip
    async with served(**variables) as (client, _):
        if preview:
            await asyncio.sleep(2)
            dropped = (await client.get("/api/preview")).json()["dropped_credentials"]
        else:
            await discord.identified.wait()

    assert bool(discord.requests) is not preview
    if preview:
        assert dropped == ["DISCORD_BOT_TOKEN"]


async def test_discord_that_is_away(served, database, discord):
    """
    A bot that cannot reach Discord at its start tries again, and the attestation counts it.
    """
    discord.away = 1
    variables = {"DATABASE_URL": await database(), "DISCORD_API_URL": discord.url}
    async with served(**variables, DISCORD_BOT_TOKEN=TOKEN) as (client, _):
        await discord.identified.wait()
        counters = (await client.get("/api/preview")).json()["counters"]

    assert counters["startup_points_failed"] == {"scheduler loop": 0, "discord bot": 1}


async def test_wrong_token(served, database, discord):
    """
    A token that Discord refuses is an error in the log, without the token, and the rest serves on.
    """
    variables = {"DATABASE_URL": await database(), "DISCORD_API_URL": discord.url}
    async with served(**variables, DISCORD_BOT_TOKEN="wrong-token") as (client, process):
        while not discord.requests:
            await asyncio.sleep(0.02)
        assert (await client.get("/readyz")).is_success
    errors = [line for line in process.log if line["level"] == "error"]

    assert [error["point"] for error in errors] == ["discord bot"]
    assert "LoginFailure" in errors[0]["error"]
    assert "wrong-token" not in str(process.log)


async def test_goodbye(production, discord):
    """
    At SIGTERM the bot leaves Discord, and the process ends in a few seconds without an error.
    """
    _, process = production
    began = time.monotonic()
    process.terminate()
    await process.wait()

    assert process.returncode == 0
    assert discord.gateway.connected == 0
    assert time.monotonic() - began < 30


async def test_two_processes(served, database, discord):
    """
    Two production processes that both see every message answer each exactly once, as its reply.
    """
    variables = {
        "DATABASE_URL": await database(),
        "DISCORD_BOT_TOKEN": TOKEN,
        "DISCORD_API_URL": discord.url,
    }
    async with served(**variables) as (client, _), served(**variables):
        await until(lambda: discord.gateway.connected == 2)
        asked = [await discord.mention(f"nothing {i}") for i in range(40)]
        await until(lambda: len(discord.posted) >= 40)
        counters = (await client.get("/api/preview")).json()["counters"]

    assert sorted(one.reply_to for one in discord.posted) == sorted(asked)
    assert counters["startup_points_failed"]["discord bot"] == 0


async def test_killed(served, database, discord):
    """
    What a process killed with -9 had seen and not answered, the next one answers, once.
    """
    variables = {
        "DATABASE_URL": await database(),
        "DISCORD_BOT_TOKEN": TOKEN,
        "DISCORD_API_URL": discord.url,
    }
    async with read(variables["DATABASE_URL"]).pool() as pool:
        async with served(**variables) as (_, process):
            await until(lambda: discord.gateway.connected == 1)
            discord.fail(500, times=1000)  # nothing gets through
            asked = [await discord.mention(f"nothing {i}") for i in range(5)]
            while await pool.fetchval("SELECT count(*) FROM outbox.messages") < 5:
                await asyncio.sleep(0.02)
            process.kill()
            await process.wait()
        discord._trouble.clear()
        before = len(discord.posted)
        await pool.execute("UPDATE outbox.messages SET due_at = now(), claimed_until = now()")
        async with served(**variables):
            await until(lambda: len(discord.posted) >= 5)
            await asyncio.sleep(0.5)

    assert before == 0
    assert sorted(one.reply_to for one in discord.posted) == sorted(asked)


async def test_slash_command_in_two_processes(served, database, discord):
    """
    Of two processes that both see a slash command one answers; the other says so and no more.
    """
    variables = {
        "DATABASE_URL": await database(),
        "DISCORD_BOT_TOKEN": TOKEN,
        "DISCORD_API_URL": discord.url,
    }
    async with served(**variables) as (_, first), served(**variables) as (_, second):
        await until(lambda: discord.gateway.connected == 2)
        await discord.slash("tide")
        await until(lambda: sum("/callback" in one for one in discord.requests) == 2)
        await asyncio.sleep(0.3)
    lines = [line for process in (first, second) for line in process.log]

    assert len(discord.posted) == 1
    assert [line["code"] for line in lines if "answered elsewhere" in line["event"]] == [40060]
    assert [line for line in lines if line["level"] == "error"] == []
