"""The only module that makes up data: a production to clone where there is none."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import asyncpg

NOTES = 5_000
SHIPS = 60
POSITIONS_PER_SHIP = 500
ARCHIVED = 50
"""Every so many notes, one is marked for the archive."""

JOBS = {
    "changelog": timedelta(minutes=5),
    "gardener": timedelta(minutes=15),
    "ships": timedelta(minutes=5),
    "vault": timedelta(minutes=30),
}

_TOPICS = (
    "gateway", "backup", "sourdough", "tide table", "ingress", "harbour", "compost", "snapshot",
    "budget", "reading list", "rollout", "bicycle", "incident", "garden bed", "certificate",
)  # fmt: skip
_KINDS = ("plan", "log", "review", "question", "recipe", "checklist", "decision", "retrospective")
_SENTENCES = (
    "The {topic} held up better than expected this week.",
    "Next time, write the {topic} down before touching anything.",
    "Measured twice: the {topic} is not the bottleneck.",
    "Ask around who still depends on the {topic}.",
    "See also [[{topic} {kind}]], which says the opposite.",
    "The {kind} from spring no longer matches the {topic}.",
    "Moved the {topic} to Thursday because of the weather.",
    "If the {topic} fails again, start from the {kind}.",
    "#{kind} #{tag}",
)
_VESSELS = ("Aurora", "Brisk", "Cormorant", "Dunlin", "Eider", "Fulmar", "Gannet", "Heron")
_TYPES = ("cargo", "tanker", "fishing", "ferry", "tug", "sailing")


async def seed(connection: asyncpg.Connection) -> None:
    """
    Fill an empty, migrated database with notes, ships and scheduler rows that are due.

    The same text every time, with times that end now; in one transaction.
    """
    chance, now = random.Random(7), datetime.now(UTC)  # noqa: S311  made-up data, not secrets
    async with connection.transaction():
        await connection.copy_records_to_table(
            "notes",
            schema_name="notes",
            columns=["title", "body", "tags", "created_at", "updated_at"],
            records=_notes(chance, now),
        )
        ships = [
            (200_000_000 + 1_117 * i, f"{chance.choice(_VESSELS)} {i}", chance.choice(_TYPES))
            for i in range(SHIPS)
        ]
        await connection.copy_records_to_table("ships", schema_name="ships", records=ships)
        for mmsi, _, _ in ships:
            await connection.copy_records_to_table(
                "positions", schema_name="ships", records=_positions(chance, mmsi, now)
            )
        await connection.executemany(
            "INSERT INTO scheduler.jobs (name, interval, next_run_at) VALUES ($1, $2, $3)",
            [(name, interval, now - timedelta(hours=1)) for name, interval in JOBS.items()],
        )


def _notes(chance: random.Random, now: datetime) -> Iterator[tuple[object, ...]]:
    for i in range(NOTES):
        topic, kind = chance.choice(_TOPICS), chance.choice(_KINDS)
        lines = chance.choices(_SENTENCES, k=chance.randint(2, 12))
        said = {"topic": topic, "kind": chance.choice(_KINDS), "tag": topic.replace(" ", "-")}
        made = now - timedelta(minutes=chance.randint(1, 525_600))
        changed = made + (now - made) * chance.random()
        body = "\n".join(line.format(**said) for line in lines)
        yield (
            f"{topic.capitalize()} {kind} {i}",
            body,
            [said["tag"], kind, *["archive"] * (not i % ARCHIVED)],
            made,
            changed,
        )


def _positions(
    chance: random.Random, mmsi: int, now: datetime
) -> Iterator[tuple[int, datetime, float, float, float]]:
    latitude, longitude = chance.uniform(48, 60), chance.uniform(-12, 4)
    for i in range(POSITIONS_PER_SHIP):
        latitude += chance.uniform(-0.02, 0.02)
        longitude += chance.uniform(-0.03, 0.03)
        yield mmsi, now - timedelta(hours=2 * i), latitude, longitude, chance.uniform(0, 22)
