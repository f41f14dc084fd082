"""Files that a client keeps in step with a directory of its own: only what differs travels."""

import asyncio

from leptonai.errors import InvalidRequest
from leptonai.pod.channel import Channel, read
from leptonai.pod.place import Place
from leptonai.pod.target import Arriving, Confused, Target, words_of
from leptonai.spec.pods import (
    MAX_SYNC_ENTRIES,
    SYNC_ENTRIES_A_MESSAGE,
    SyncContents,
    SyncDone,
    SyncEntry,
    SyncFiles,
    SyncRemoval,
    SyncStart,
    SyncWants,
    SyncWish,
)

WISHES_A_MESSAGE = 500
BLOCKS_A_MESSAGE = 20_000  # their digests are most of a message about large files


async def receive_tree(channel: Channel, place: Place) -> None:
    """One round after the other, until the client leaves. Raises Gone."""
    while True:
        start = await channel.receive_first(SyncStart)
        try:
            with Target.at(place, start.to) as target:
                done = await _round(channel, target, start)
        except (InvalidRequest, Confused, OSError) as error:
            words = words_of(error) if isinstance(error, OSError) else str(error)
            hint = error.hint if isinstance(error, InvalidRequest) else ""
            await channel.send(SyncDone(error=words, hint=hint))
            return
        await channel.send(done)


async def _round(channel: Channel, target: "Target", start: SyncStart) -> SyncDone:
    entries = await _entries(channel)
    wishes, extra = await asyncio.to_thread(target.compare, entries, start.delete)
    await _tell_wants(channel, wishes, extra)
    allowed = set(extra)
    removal: list[str] = []
    while True:
        message = read(await channel.receive(), SyncContents | SyncRemoval)  # type: ignore[arg-type]
        if isinstance(message, SyncContents):
            stream = Arriving(channel.receive)
            for file in message.files:
                await target.write(file, stream)
            stream.check_end()
            continue
        removal += [path for path in message.paths if path in allowed]
        if message.last:
            break
    await asyncio.to_thread(target.remove, removal)
    return target.done()


async def _entries(channel: Channel) -> list[SyncEntry]:
    entries: list[SyncEntry] = []
    while True:
        files = await channel.receive_first(SyncFiles)
        entries += files.entries
        if len(entries) > MAX_SYNC_ENTRIES:
            raise InvalidRequest(
                f"there are more than {MAX_SYNC_ENTRIES} files", hint="leave some out"
            )
        if files.last:
            return entries


async def _tell_wants(channel: Channel, wishes: list[SyncWish], extra: list[str]) -> None:
    batch: list[SyncWish] = []
    blocks = 0
    for wish in wishes:
        batch.append(wish)
        blocks += len(wish.blocks)
        if len(batch) >= WISHES_A_MESSAGE or blocks >= BLOCKS_A_MESSAGE:
            await channel.send(SyncWants(wishes=batch))
            batch, blocks = [], 0
    for start in range(0, len(extra), SYNC_ENTRIES_A_MESSAGE):
        some = extra[start : start + SYNC_ENTRIES_A_MESSAGE]
        await channel.send(SyncWants(wishes=[], extra=some))
    await channel.send(SyncWants(wishes=batch, last=True))
