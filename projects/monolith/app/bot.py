"""The Discord bot: it answers a mention, and the slash command /notes, with matching notes."""

import asyncio

import asyncpg
import discord
import structlog
from discord import app_commands
from discord.http import Route

from app import notes, outbox

SHOWN = 5
SUMMARY = 120
LONGEST_QUERY = 200

_NEVER = (400, 403, 404)
_UNKNOWN_INTERACTION, _ACKNOWLEDGED = 10062, 40060

log = structlog.get_logger()


class NotesBot(discord.AutoShardedClient):
    """
    A client that looks things up in the notes.

    Only reads messages that mention it, which need no privileged intent, and
    never mentions anybody. Several bots of one name answer each message once:
    the answer is a row of the outbox, whose key is the message.

    Args:
        added: is set when the outbox has something new.
    """

    def __init__(self, pool: asyncpg.Pool, added: asyncio.Event) -> None:
        intents = discord.Intents(guilds=True, guild_messages=True, dm_messages=True)
        super().__init__(intents=intents, allowed_mentions=discord.AllowedMentions.none())
        self._pool = pool
        self._added = added
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
        answer = outbox.Message(
            f"reply:{message.id}", message.channel.id, await self._answer(query), message.id
        )
        await outbox.add(self._pool, answer)
        self._added.set()

    async def post(self, message: outbox.Message) -> int:
        """
        Post a message and return its id; where its nonce is known, Discord returns the first one's.

        Raises:
            UnsendableError: Discord will never take it.
        """
        channel = self.get_partial_messageable(message.channel)
        try:
            if message.reply_to is None:
                return (await channel.send(message.text, nonce=message.nonce)).id
            reference = discord.MessageReference(
                message_id=message.reply_to, channel_id=message.channel, fail_if_not_exists=False
            )
            answer = await channel.send(message.text, nonce=message.nonce, reference=reference)
        except discord.HTTPException as error:
            if error.status in _NEVER:
                raise outbox.UnsendableError(str(error)) from error
            raise
        return answer.id

    @app_commands.describe(query="What to look for")
    async def _slash(self, interaction: discord.Interaction, query: str) -> None:
        answer = await self._answer(query)
        try:
            await interaction.response.send_message(outbox.shortened(answer), ephemeral=True)
        except discord.HTTPException as error:
            if error.code not in (_UNKNOWN_INTERACTION, _ACKNOWLEDGED):
                raise
            log.info("slash command was answered elsewhere, or too late", code=error.code)

    async def _answer(self, query: str) -> str:
        query = query.replace("\0", " ").strip()[:LONGEST_QUERY]
        if not query:
            return "Mention me with something to look for."
        found = await notes.find(self._pool, query, SHOWN)
        lines = [f"**{note.title}** {note.body[:SUMMARY]}".strip() for note in found]
        return "\n".join(lines) or f"No note matches {query!r}."


def make_bot(pool: asyncpg.Pool, api_url: str | None, added: asyncio.Event) -> NotesBot:
    """Make a bot that talks to Discord, or to the REST API at `api_url`."""
    if api_url is not None:
        Route.BASE = api_url
    return NotesBot(pool, added)
