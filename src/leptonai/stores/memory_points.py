"""The points of runs in plain lists: for tests, and for simulations."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from leptonai.blobs.points import Batch
from leptonai.core.curves import REDUCE, Points, from_columns, visible
from leptonai.core.points import RunPoints, Writer, recounted, sums_of, take
from leptonai.errors import NotFound
from leptonai.ports.points import Wanted


@dataclass(slots=True)
class _Run:
    known: RunPoints = field(default_factory=RunPoints)
    writers: dict[str, Writer] = field(default_factory=dict)
    batches: list[tuple[int, int, Batch]] = field(default_factory=list)  # attempt, number


class MemoryPoints:
    """Keeps the promise of `ports.points.PointStore`, except that nothing outlives the process."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], _Run] = {}

    async def open(self, workspace: str, run: str) -> None:
        await asyncio.sleep(0)
        self._runs.setdefault((workspace, run), _Run())

    async def append(self, workspace: str, run: str, batch: Batch, now_ms: int) -> bool:
        await asyncio.sleep(0)
        kept = self._of(workspace, run)
        taken = take(kept.known, kept.writers.get(batch.writer), batch, now_ms)
        if taken is None:
            return False
        kept.known, kept.writers[batch.writer] = taken.run, taken.writer
        if batch.series:
            kept.batches.append((taken.writer.attempt, taken.run.number, batch))
        if taken.recount:
            known = kept.known
            kept.known = replace(known, summary=recounted(sums_of(known, kept.batches)))
        return True

    async def known(self, workspace: str, runs: Sequence[str]) -> Mapping[str, RunPoints]:
        await asyncio.sleep(0)
        found = {run: self._runs.get((workspace, run)) for run in runs}
        return {run: kept.known for run, kept in found.items() if kept is not None}

    async def read(self, workspace: str, run: str, key: str, wanted: Wanted) -> tuple[Points, int]:
        await asyncio.sleep(0)
        kept = self._of(workspace, run)
        parts = [
            (
                attempt,
                number,
                kept.known.limit(batch.stream, attempt),
                from_columns(series.steps, series.values, series.times),
            )
            for attempt, number, batch in kept.batches
            for series in batch.series
            if series.key == key
        ]
        points = visible(parts, wanted.from_step, wanted.to_step)
        return REDUCE[wanted.method](points, wanted.most), len(points)

    async def forget(self, workspace: str, run: str) -> None:
        await asyncio.sleep(0)
        self._runs.pop((workspace, run), None)

    def _of(self, workspace: str, run: str) -> _Run:
        kept = self._runs.get((workspace, run))
        if kept is None:
            raise NotFound(f"there is no run {run}", hint="It was removed, or never started.")
        return kept
