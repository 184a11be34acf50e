"""The Discord bot: it answers a mention, and the slash command /notes, with matching notes."""

import asyncpg
import discord
from discord import app_commands
from discord.http import Route

from app import notes

SHOWN = 5
SUMMARY = 120
LONGEST_QUERY = 200


class NotesBot(discord.AutoShardedClient):
    """
    A client that looks things up in the notes.

    Only reads messages that mention it, which need no privileged intent, and
    never mentions anybody.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        intents = discord.Intents(guilds=True, guild_messages=True, dm_messages=True)
        super().__init__(intents=intents, allowed_mentions=discord.AllowedMentions.none())
        self._pool = pool
        self._commands = app_commands.CommandTree(self)
        self._commands.command(name="notes", description="Find notes")(self._slash)

    async def setup_hook(self) -> None:
        """Tell Discord which slash commands there are."""
        await self._commands.sync()

    async def on_message(self, message: discord.Message) -> None:
        """Answer a person who mentions the bot."""
        if message.author.bot or self.user is None or self.user not in message.mentions:
            return
        query = message.content
        for mention in (f"<@{self.user.id}>", f"<@!{self.user.id}>"):
            query = query.replace(mention, " ")
        await message.reply(await self._answer(query))

    @app_commands.describe(query="What to look for")
    async def _slash(self, interaction: discord.Interaction, query: str) -> None:
        await interaction.response.send_message(await self._answer(query), ephemeral=True)

    async def _answer(self, query: str) -> str:
        query = query.strip()[:LONGEST_QUERY]
        if not query:
            return "Mention me with something to look for."
        found = await notes.find(self._pool, query, SHOWN)
        lines = [f"**{note.title}** {note.body[:SUMMARY]}".strip() for note in found]
        return "\n".join(lines) or f"No note matches {query!r}."


def make_bot(pool: asyncpg.Pool, api_url: str | None) -> NotesBot:
    """Make a bot that talks to Discord, or to the REST API at `api_url`."""
    if api_url is not None:
        Route.BASE = api_url
    return NotesBot(pool)
