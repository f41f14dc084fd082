"""Texts that are asked for, written together: who comes joins between two steps."""

import asyncio
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from leptonai.errors import Internal, TooManyRequests
from leptonai.serving.batching import BatchQueue, Waiting
from leptonai.serving.language.decoder import Decoder, Row
from leptonai.serving.language.drawing import Drawing, Drawn, Likely, Sampling
from leptonai.serving.language.text import GrowingText
from leptonai.serving.threads import Threads

MAX_ROWS = 32  # texts that are written together
MAX_WAITING = 256  # texts that wait for their turn

log = logging.getLogger("leptonai.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One text that is to be written."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling
    seed: int
    stops: Sequence[str] = ()
    ends: frozenset[int] = frozenset()  # tokens that end it

    def __post_init__(self) -> None:
        assert self.prompt and self.max_tokens >= 1


class Written(NamedTuple):
    """A piece of a text. Pieces may have no text."""

    text: str
    tokens: list[tuple[int, Likely | None]]  # that it was made of; without the one that ends it
    finish_reason: str | None = None  # "stop", "length": it is the last


class Texts:
    """What is written for one request, which may ask for several texts. Their lengths are bounded,
    so what its client has not taken yet is kept, and handed over all at once."""

    def __init__(self, count: int) -> None:
        self.abandoned = False  # nobody wants the rest
        self.tokens = 0  # that were drawn
        self.waiting: list[Waiting[_Writing]] = []
        self._left = count
        self._written: list[tuple[int, Written]] = []
        self._news = asyncio.Event()
        self._error: Exception | None = None

    def put(self, index: int, written: Written) -> None:
        self._written.append((index, written))
        self._left -= written.finish_reason is not None
        self._news.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._news.set()

    async def more(self) -> list[tuple[int, Written]]:
        """Pieces, each with the number of its text; none when all texts have ended.

        Raises:
            Exception: they could not be written.
        """
        while not self._written:
            if self._error is not None:
                raise self._error
            if not self._left:
                return []
            self._news.clear()
            await self._news.wait()
        written, self._written = self._written, []
        return written


class _Writing:
    """A wish that is being met."""

    __slots__ = ("_left", "_text", "_told", "ended", "index", "row", "texts", "wish")

    def __init__(
        self, wish: Wish, decode: Callable[[Sequence[int]], str], texts: Texts, index: int
    ) -> None:
        self.wish = wish
        self.texts = texts
        self.index = index
        self.row = Row(wish.prompt, Drawing(wish.sampling, wish.seed))
        self.ended = False
        self._text = GrowingText(decode, wish.stops)
        self._left = wish.max_tokens
        self._told: list[tuple[int, Likely | None]] = []  # tokens whose text is still held back

    @property
    def over(self) -> bool:
        return self.ended or self.texts.abandoned

    def add(self, drawn: Drawn) -> Written | None:
        self._left -= 1
        self.texts.tokens += 1
        if drawn.token in self.wish.ends:
            return self._end("stop")
        self._told.append((drawn.token, drawn.likely))
        text = self._text.add(drawn.token)
        if self._text.stopped:
            return self._end("stop", text)
        if not self._left:
            return self._end("length", text)
        if not text:
            return None
        told, self._told = self._told, []
        return Written(text, told)

    def _end(self, reason: str, text: str = "") -> Written:
        self.ended = True
        text += self._text.finish()
        return Written(text, self._told, "stop" if self._text.stopped else reason)


class Generator:
    """Runs a decoder in its thread for as long as there is a text to write.

    Args:
        threads: one thread, in which the model was loaded.
        decode: tokens as text.
    """

    def __init__(
        self,
        decoder: Decoder,
        threads: Threads,
        decode: Callable[[Sequence[int]], str],
        *,
        max_rows: int = MAX_ROWS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._decoder = decoder
        self._threads = threads
        self._decode = decode
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._queue: BatchQueue[_Writing] = BatchQueue(max_rows, 0.0, capacity=max_waiting)
        self._writing: dict[Row, _Writing] = {}
        self._back: list[_Writing] = []  # there was no room for them: the next to go on
        self._running: asyncio.Task[None] | None = None

    def begin(self, wishes: Sequence[Wish], client: Hashable) -> Texts:
        """
        Raises:
            TooManyRequests: as many wait as may.
        """
        if len(self._queue) + len(wishes) > self._max_waiting:
            raise TooManyRequests(f"{len(self._queue)} texts wait already; try again in a second")
        loop = asyncio.get_running_loop()
        texts = Texts(len(wishes))
        for index, wish in enumerate(wishes):
            writing = _Writing(wish, self._decode, texts, index)
            texts.waiting.append(self._queue.put(writing, client, None, loop.time()))
        if self._running is None:
            self._running = loop.create_task(self._run())
        return texts

    def abandon(self, texts: Texts) -> None:
        """Nobody wants the rest of them any more: they end before the next step."""
        texts.abandoned = True
        for waiting in texts.waiting:
            self._queue.discard(waiting)

    @property
    def length(self) -> int:
        """Texts that wait, or are being written."""
        return len(self._queue) + len(self._writing) + len(self._back)

    async def _run(self) -> None:
        try:
            while self.length:
                try:
                    await self._step()
                except Exception as error:
                    log.exception("the model failed")
                    self._fail(error)
        finally:
            self._running = None

    async def _step(self) -> None:
        over = {row for row, each in self._writing.items() if each.over}
        for row in over:
            del self._writing[row]
        joining = self._joining()
        self._writing |= {writing.row: writing for writing in joining}
        written, out = await self._threads.run(self._work, over, [each.row for each in joining])
        for writing, piece in written:
            writing.texts.put(writing.index, piece)
        self._back = [self._writing.pop(row) for row in out]

    def _joining(self) -> list[_Writing]:
        """Whose turn it is."""
        joining = [writing for writing in self._back if not writing.over]
        self._back = []
        free = self._max_rows - len(self._writing) - len(joining)
        if free > 0 and not joining:  # else there was no memory for more
            joining += self._queue.take(asyncio.get_running_loop().time(), free)
        return joining

    def _work(
        self, over: set[Row], joining: Sequence[Row]
    ) -> tuple[list[tuple[_Writing, Written]], list[Row]]:
        """In the thread: who comes is read first, so that it soon has its first token.

        Returns:
            What was written, and the rows that there is no memory for.
        """
        decoder = self._decoder
        decoder.leave(over)
        fitting = [*joining]
        while fitting and not decoder.fits((*decoder.rows, *fitting)):
            fitting.pop()
        out = [*joining[len(fitting) :]]
        if not fitting:
            while not decoder.fits(decoder.rows):
                out.insert(0, decoder.rows[-1])
                decoder.leave({decoder.rows[-1]})
        drawn = decoder.join(fitting) if fitting else decoder.step() if decoder.rows else []
        written = []
        for row, each in drawn:
            writing = self._writing[row]
            piece = writing.add(each)
            if piece is not None:
                written.append((writing, piece))
        return written, out

    def _fail(self, error: Exception) -> None:
        """All that are being written: nobody knows what the cache holds."""
        self._decoder.reset()
        for writing in self._writing.values():
            writing.texts.fail(Internal(f"the model failed: {error}"))
            writing.texts.abandoned = True
        self._writing = {}
