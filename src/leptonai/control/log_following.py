"""Live logs. Whoever waits at the end of the same log shares one look at it, and what was read for
one is sent to all: a thousand followers cost one reader, and each a place in the log.

What a follower has not taken stays in the file: the one that is slow holds up nobody, and is owed
no memory but the piece that is on its way.
"""

import asyncio
import codecs
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

from leptonai.control.log_history import REPLACEMENT, node_of, tail_offset
from leptonai.core.records import Phase, Replica
from leptonai.errors import LeptonError
from leptonai.ports.engine import Engine
from leptonai.ports.store import Store

PIECE_BYTES = 32 << 10  # on its way to each follower; what a slow one costs
SHARED_PIECES = 8  # of one log, kept for those who are a little behind
FIRST_PAUSE_S = 0.02  # between two looks at a log that did not grow
LONGEST_PAUSE_S = 0.25
FOLLOWER_PAUSE_S = 0.0002  # more for each that is to be woken: many get it in larger pieces


@dataclass(slots=True)
class _Piece:
    text: bytes  # UTF-8, never cut inside a character
    next_offset: int


class LogTails:
    """The logs that are followed at the moment."""

    def __init__(self) -> None:
        self._tails: dict[tuple[str, str], _Tail] = {}

    async def follow(
        self,
        store: Store,
        engine: Engine,
        replica: Replica,
        *,
        follow: bool = True,
        tail: int | None = None,
    ) -> AsyncIterator[bytes]:
        """The output of all attempts, oldest first, as UTF-8 text; or from the last `tail` lines of
        the present one on. It ends when the replica has; without `follow`, at the end of what
        there is."""
        key = (replica.workspace, replica.id)
        shared = self._tails.get(key)
        if shared is None:
            shared = self._tails[key] = _Tail(store, engine, replica)
        shared.followers += 1
        shared.learn(replica)
        try:
            async for text in _read(shared, follow=follow, tail=tail):
                yield text
        finally:
            shared.followers -= 1
            if not shared.followers:
                self._tails.pop(key, None)
                await shared.close()


async def _read(shared: "_Tail", *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
    attempt, offset = 0, 0
    if tail is not None:
        attempt = shared.replica.attempt
        offset = await shared.tail_offset(attempt, tail)
    while True:
        # Known before reading: what an ended attempt wrote is all there to be read.
        replica, news = shared.replica, shared.news
        over = attempt < replica.attempt or replica.phase in (Phase.ENDED, Phase.DONE)
        piece = await shared.piece(attempt, offset, whole=over or not follow)
        if piece.next_offset != offset:
            offset = piece.next_offset
            if piece.text:
                yield piece.text
        elif attempt < replica.attempt:
            attempt, offset = attempt + 1, 0
        elif replica.phase is Phase.DONE or shared.removed or not follow:
            return
        else:
            await shared.wait(news)


@dataclass(slots=True)
class _Tail:
    store: Store
    engine: Engine
    replica: Replica
    followers: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)  # a fresh one after each wake
    removed: bool = False
    _nodes: dict[int, str] = field(default_factory=dict)
    _pieces: OrderedDict[tuple[int, int], _Piece] = field(default_factory=OrderedDict)
    _seen: tuple[int, int] = (0, 0)  # attempt, and how far its log was read by whoever is furthest
    _watching: asyncio.Task[None] | None = None
    _waiting: int = 0

    def learn(self, replica: Replica) -> None:
        if replica.seq > self.replica.seq:
            self.replica = replica

    async def wait(self, news: asyncio.Event) -> None:
        """Until there may be more than there was when `news` was taken."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        self._waiting += 1
        try:
            await news.wait()
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def tail_offset(self, attempt: int, lines: int) -> int:
        node = await self._node(attempt)
        return await tail_offset(self.engine, node, self._id(attempt), lines) if node else 0

    async def piece(self, attempt: int, offset: int, *, whole: bool) -> _Piece:
        """What comes after an offset. `whole`: a character that was begun is not waited for."""
        key = (attempt, offset)
        if key in self._pieces:
            return self._pieces[key]
        node = await self._node(attempt)
        chunk = None
        if node:
            id = self._id(attempt)
            chunk = await self.engine.read_log(node, id, offset=offset, limit=PIECE_BYTES)
        if chunk is None or not chunk.data:
            return _Piece(b"", offset)
        end = chunk.offset + len(chunk.data)
        self._seen = max(self._seen, (attempt, end))
        text, used = codecs.utf_8_decode(chunk.data, "replace", False)
        if not used and whole:  # nothing but a character that was begun
            return _Piece(REPLACEMENT.encode(), end)
        if not used:
            return _Piece(b"", offset)
        piece = self._pieces[key] = _Piece(text.encode(), chunk.offset + used)
        if len(self._pieces) > SHARED_PIECES:
            self._pieces.popitem(last=False)
        return piece

    async def _watch(self) -> None:
        """While anybody waits. Wakes all at once, and then less often the more they are."""
        pause_s = FIRST_PAUSE_S
        try:
            while self._waiting:
                await asyncio.sleep(pause_s + FOLLOWER_PAUSE_S * self._waiting)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                with suppress(LeptonError):  # what is away for a moment is asked again
                    if await self._grew() or await self._changed():
                        pause_s = FIRST_PAUSE_S
                        self._wake()
                        await asyncio.sleep(0)  # those who were woken go first
        finally:
            self._wake()  # whoever still waits, for whatever reason this ended, looks again

    def _wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    async def _grew(self) -> bool:
        attempt, end = self._seen
        if attempt < self.replica.attempt:
            attempt, end = self.replica.attempt, 0
        node = await self._node(attempt)
        if not node:
            return False
        chunk = await self.engine.read_log(node, self._id(attempt), offset=end, limit=1)
        return chunk is not None and bool(chunk.data)

    async def _changed(self) -> bool:
        fresh = await self.store.get(Replica, self.replica.workspace, self.replica.id)
        if fresh is None:
            self.removed = True
            return True
        known = self.replica
        self.learn(fresh)
        return (known.phase, known.attempt) != (fresh.phase, fresh.attempt)

    async def _node(self, attempt: int) -> str:
        node = self._nodes.get(attempt, "")
        if not node:
            node = await node_of(self.store, self.engine, self.replica, attempt)
            if node:
                self._nodes[attempt] = node
        return node

    def _id(self, attempt: int) -> str:
        return f"{self.replica.id}.{attempt}"
