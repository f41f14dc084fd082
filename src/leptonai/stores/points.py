"""The points of runs in a database: SQLite or PostgreSQL, by the same code."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import takewhile
from typing import Any, NamedTuple

import msgspec

from leptonai.blobs.points import Batch, encode_batch
from leptonai.core.curves import REDUCE, Points, from_columns, join, pack, sum_of, unpack, visible
from leptonai.core.points import CHUNK_POINTS, RunPoints, Sum, Writer, merges, recounted, take
from leptonai.errors import NotFound
from leptonai.ports.points import Wanted
from leptonai.stores.databases import Cursor, Database
from leptonai.stores.point_statements import PointStatements
from leptonai.stores.readers import Readers
from leptonai.stores.writer import Writer as StoreWriter

FIRST_STEP, LAST_STEP = -(1 << 62), 1 << 62

Columns = tuple[bytes, bytes, bytes]
_Piece = tuple[int, list[Columns]]  # of a stream
_encode = msgspec.msgpack.Encoder().encode
_known = msgspec.msgpack.Decoder(RunPoints)
_sum = msgspec.msgpack.Decoder(Sum)
_batch = msgspec.msgpack.Decoder(Batch)


class _Chunk(NamedTuple):
    number: int
    stream: int
    points: int


def _is_of(stream: int, chunk: _Chunk) -> bool:
    return chunk.stream == stream


class SqlPoints:
    """Keeps the promise of `ports.points.PointStore`."""

    def __init__(self, database: Database, readers: Readers, writer: StoreWriter) -> None:
        self._database = database
        self._readers = readers
        self._writer = writer

    @cached_property
    def _statements(self) -> PointStatements:
        return PointStatements(self._database)

    async def open(self, workspace: str, run: str) -> None:
        row = {"workspace": workspace, "run": run, "known": _encode(RunPoints())}
        await self._writer.alone(lambda cursor: cursor.execute(self._statements.open, row) and None)

    async def append(self, workspace: str, run: str, batch: Batch, now_ms: int) -> bool:
        def write(cursor: Cursor) -> bool:
            return _Run(self._statements, cursor, workspace, run).append(batch, now_ms)

        return await self._writer.alone(write)

    async def known(self, workspace: str, runs: Sequence[str]) -> Mapping[str, RunPoints]:
        wanted = {"workspace": workspace, "runs": self._database.as_list(runs)}

        def read(cursor: Cursor) -> dict[str, RunPoints]:
            cursor.execute(self._statements.known_of, wanted)
            return {run: _known.decode(known) for run, known in cursor.fetchall()}

        return await self._readers.read(read)

    async def read(self, workspace: str, run: str, key: str, wanted: Wanted) -> tuple[Points, int]:
        def read(cursor: Cursor) -> tuple[Points, int]:
            cursor.execute(self._database.begin_reading)
            try:
                parts = list(_Run(self._statements, cursor, workspace, run).parts(key, wanted))
            finally:
                cursor.execute("ROLLBACK")
            points = visible(parts, wanted.from_step, wanted.to_step)
            return REDUCE[wanted.method](points, wanted.most), len(points)

        return await self._readers.read(read)

    async def forget(self, workspace: str, run: str) -> None:
        def write(cursor: Cursor) -> None:
            for statement in self._statements.forget:
                cursor.execute(statement, {"workspace": workspace, "run": run})

        await self._writer.alone(write)


class _Run:
    """The rows of one run, in a transaction."""

    def __init__(
        self, statements: PointStatements, cursor: Cursor, workspace: str, run: str
    ) -> None:
        self._sql = statements
        self._cursor = cursor
        self._name = {"workspace": workspace, "run": run}

    def append(self, batch: Batch, now_ms: int) -> bool:
        known = self._known(self._sql.known_to_change)
        self._do(self._sql.writer, writer=batch.writer)
        row = self._cursor.fetchone()
        taken = take(known, Writer(*row) if row else None, batch, now_ms)
        if taken is None:
            return False
        known, writer = taken.run, taken.writer
        self._do(
            self._sql.put_writer,
            writer=batch.writer,
            sequence=writer.sequence,
            attempt=writer.attempt,
        )
        if batch.series:
            self._do(
                self._sql.add_batch,
                number=known.number,
                attempt=writer.attempt,
                body=encode_batch(batch),
            )
        if taken.recount or known.to_fold:
            known = self._fold(known)
        if taken.recount:
            known = msgspec.structs.replace(known, summary=recounted(self._sums(known)))
        self._do(self._sql.put_known, known=_encode(known))
        return True

    def parts(self, key: str, wanted: Wanted) -> Iterator[tuple[int, int, int | None, Points]]:
        """As `curves.visible` takes them."""
        known = self._known(self._sql.known)
        self._do(self._sql.batches)
        for attempt, number, body in self._cursor.fetchall():
            batch = _batch.decode(body)
            for series in batch.series:
                if series.key == key:
                    points = from_columns(series.steps, series.values, series.times)
                    yield attempt, number, known.limit(batch.stream, attempt), points
        self._do(
            self._sql.curve,
            key=key,
            from_step=FIRST_STEP if wanted.from_step is None else wanted.from_step,
            to_step=LAST_STEP if wanted.to_step is None else wanted.to_step,
        )
        for attempt, number, stream, data in self._cursor.fetchall():
            yield attempt, number, known.limit(stream, attempt), unpack(data)

    def _known(self, statement: str) -> RunPoints:
        self._do(statement)
        row = self._cursor.fetchone()
        if row is None:
            raise NotFound(
                f"there is no run {self._name['run']}", hint="It was removed, or never started."
            )
        return _known.decode(row[0])

    def _fold(self, known: RunPoints) -> RunPoints:
        """Sort what has arrived into chunks by key, and merge those that are small. In an attempt
        the order of arrival is kept, also where several streams write one key."""
        chunks: dict[tuple[str, int], list[_Chunk]] = {}
        self._do(self._sql.chunks)
        for key, attempt, *chunk in self._cursor.fetchall():
            chunks.setdefault((key, attempt), []).append(_Chunk(*chunk))
        number = known.number
        rows: list[dict[str, Any]] = []
        for (key, attempt), pieces in self._loose().items():
            before = chunks.get((key, attempt), [])
            for stream, columns in pieces:
                points = from_columns(*(b"".join(column) for column in zip(*columns, strict=True)))
                same = [*takewhile(partial(_is_of, stream), reversed(before))][::-1]
                merged = merges([chunk.points for chunk in same], len(points))
                earlier = same[len(same) - merged :]
                points = join([*(self._take_chunk(key, c.number) for c in earlier), points])
                for start in range(0, len(points), CHUNK_POINTS):
                    number += 1
                    part = points.at(slice(start, start + CHUNK_POINTS))
                    rows.append(self._chunk_row(key, stream, attempt, number, part))
                before = []  # what follows comes after these rows
        if rows:
            self._cursor.executemany(self._sql.add_chunk, rows)
        self._do(self._sql.drop_batches)
        return msgspec.structs.replace(known, number=number, loose=0, loose_points=0)

    def _loose(self) -> dict[tuple[str, int], list[_Piece]]:
        """What has arrived, by key and attempt, in pieces of one stream."""
        loose: dict[tuple[str, int], list[_Piece]] = {}
        self._do(self._sql.batches)
        for attempt, _, body in self._cursor.fetchall():
            batch = _batch.decode(body)
            for series in batch.series:
                pieces = loose.setdefault((series.key, attempt), [])
                if not pieces or pieces[-1][0] != batch.stream:
                    pieces.append((batch.stream, []))
                pieces[-1][1].append((series.steps, series.values, series.times))
        return loose

    def _take_chunk(self, key: str, number: int) -> Points:
        points = self._chunk(key, number)
        self._do(self._sql.drop_chunk, key=key, number=number)
        return points

    def _chunk(self, key: str, number: int) -> Points:
        self._do(self._sql.chunk, key=key, number=number)
        return unpack(self._cursor.fetchone()[0])

    def _chunk_row(
        self, key: str, stream: int, attempt: int, number: int, points: Points
    ) -> dict[str, Any]:
        return self._name | {
            "key": key,
            "number": number,
            "stream": stream,
            "attempt": attempt,
            "first_step": int(points.steps[0]),
            "last_step": int(points.steps[-1]),
            "points": len(points),
            "sum": _encode(sum_of(points, attempt)),
            "data": pack(points),
        }

    def _sums(self, known: RunPoints) -> Iterator[tuple[str, Sum]]:
        """Of every chunk, of what counts in it: only those that a resume cut are read."""
        self._do(self._sql.sums)
        for key, stream, attempt, number, first, last, found in self._cursor.fetchall():
            limit = known.limit(stream, attempt)
            if limit is None or last <= limit:
                yield key, _sum.decode(found)
            elif first <= limit:
                yield key, sum_of(self._chunk(key, number).between(None, limit), attempt)

    def _do(self, statement: str, **parameters: object) -> None:
        self._cursor.execute(statement, self._name | parameters)
