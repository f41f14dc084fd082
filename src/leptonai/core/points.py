"""What becomes of a batch of points that arrives: the one place that knows the rules.

Pure. Every store runs it, so that all of them accept, refuse and supersede the same. An attempt is
what lies between two resumes; each belongs to the stream that resumed. A writer stays in its
attempt, so what it sends late is still known to be old.
"""

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from leptonai.blobs.points import Batch, Series
from leptonai.errors import InvalidRequest, TooLarge
from leptonai.spec.runs import KeySummary, number_of

MAX_RUN_POINTS = 1 << 28
MAX_RUN_KEYS = 5_000
MAX_CUTS = 10_000  # resumes of a run, each further on than the one before
FOLD_BATCHES = 64  # that arrived; then they are sorted into chunks
FOLD_POINTS = 100_000
CHUNK_POINTS = 16_384


class Cut(msgspec.Struct, frozen=True, array_like=True):
    """Of earlier attempts of this stream, points after the step are superseded."""

    attempt: int
    stream: int
    step: int


class Sum(msgspec.Struct, frozen=True, array_like=True):
    """Of some points of one key. Least and greatest are over all that were logged and that no
    resume superseded, those included that were logged anew at the same step."""

    last: float  # at the largest step; of two there, the newer attempt's, then the later one
    step: int
    at: int  # milliseconds since 1970
    attempt: int
    min: float  # NaN only if all are
    max: float


class RunPoints(msgspec.Struct, frozen=True, array_like=True):
    """What is known of all points of a run, beside themselves."""

    attempt: int = 0  # the newest
    cuts: tuple[Cut, ...] = ()
    number: int = 0  # of the last batch or chunk
    count: int = 0  # points that arrived
    loose: int = 0  # batches that are not yet in chunks
    loose_points: int = 0
    heard_at_ms: int = 0
    summary: dict[str, Sum] = msgspec.field(default_factory=dict)

    @property
    def to_fold(self) -> bool:
        return self.loose >= FOLD_BATCHES or self.loose_points >= FOLD_POINTS

    def limit(self, stream: int, attempt: int) -> int | None:
        """The last step that counts of an attempt; None: all do."""
        return min(
            (cut.step for cut in self.cuts if cut.stream == stream and cut.attempt > attempt),
            default=None,
        )


class Writer(msgspec.Struct, frozen=True, array_like=True):
    """What is known of who sends batches."""

    sequence: int  # of its last batch that is stored
    attempt: int


class Taken(msgspec.Struct, frozen=True):
    """A batch was new: what is known now, and whether the summary has to be made again of what is
    stored."""

    run: RunPoints
    writer: Writer
    recount: bool


def take(run: RunPoints, writer: Writer | None, batch: Batch, now_ms: int) -> Taken | None:
    """Decide a batch; None where it is stored already.

    Raises:
        TooLarge: the run has too many points, keys or resumes.
        InvalidRequest: this stream cannot resume.
    """
    if writer is not None and batch.sequence <= writer.sequence:
        return None
    attempt = run.attempt if writer is None else writer.attempt
    if batch.resume is not None:
        run = resume(run, batch.stream, batch.resume)
        attempt = run.attempt
    if run.count + batch.count > MAX_RUN_POINTS:
        raise TooLarge(
            f"the run has {run.count} points", hint=f"At most {MAX_RUN_POINTS} are kept: log less."
        )
    limit = run.limit(batch.stream, attempt)
    summary = dict(run.summary)
    for series in batch.series:
        found = summed(series, attempt, limit)
        if found is not None:
            before = summary.get(series.key)
            summary[series.key] = found if before is None else added(before, found)
    if len(summary) > MAX_RUN_KEYS:
        raise TooLarge(
            f"the run would have {len(summary)} keys", hint=f"At most {MAX_RUN_KEYS} are kept."
        )
    if batch.series:
        run = replace(
            run,
            number=run.number + 1,
            count=run.count + batch.count,
            loose=run.loose + 1,
            loose_points=run.loose_points + batch.count,
        )
    run = replace(run, heard_at_ms=now_ms, summary=summary)
    return Taken(run, Writer(batch.sequence, attempt), batch.resume is not None)


def resume(run: RunPoints, stream: int, step: int) -> RunPoints:
    """A new attempt of a stream, which goes on from a step."""
    if stream < 0:
        raise InvalidRequest("a machine does not resume", hint="Resume the stream of a rank.")
    attempt = run.attempt + 1
    # A cut that is not before this one cuts nothing more than it.
    kept = tuple(cut for cut in run.cuts if cut.stream != stream or cut.step < step)
    if len(kept) >= MAX_CUTS:
        raise TooLarge(f"the run was resumed {len(kept)} times", hint="Start another run.")
    return replace(run, attempt=attempt, cuts=(*kept, Cut(attempt, stream, step)))


def summed(series: Series, attempt: int, limit: int | None) -> Sum | None:
    """Of the points that count; None where none does."""
    steps, values, times = (
        array("q", series.steps),
        array("d", series.values),
        array("q", series.times),
    )
    places = [at for at, step in enumerate(steps) if limit is None or step <= limit]
    if not places:
        return None
    last = max(places, key=lambda at: (steps[at], at))
    known = [value for at in places if (value := values[at]) == value]
    return Sum(
        last=values[last],
        step=steps[last],
        at=times[last],
        attempt=attempt,
        min=min(known, default=float("nan")),
        max=max(known, default=float("nan")),
    )


def added(before: Sum, after: Sum) -> Sum:
    """Of both; `after` arrived later."""
    newer = after if (after.step, after.attempt) >= (before.step, before.attempt) else before
    return replace(newer, min=_least(before.min, after.min), max=-_least(-before.max, -after.max))


def recounted(sums: Iterable[tuple[str, Sum]]) -> dict[str, Sum]:
    """The summary of what is stored, in the order of its arrival."""
    summary: dict[str, Sum] = {}
    for key, found in sums:
        before = summary.get(key)
        summary[key] = found if before is None else added(before, found)
    return summary


def merges(counts: list[int], new: int) -> int:
    """How many of the newest chunks, whose counts come oldest first, to merge with new points: so
    that chunks are few, and a point is rewritten but a few times."""
    merged = 0
    for count in reversed(counts):
        if count >= 2 * new or count + new > CHUNK_POINTS:
            break
        new += count
        merged += 1
    return merged


def _least(one: float, other: float) -> float:
    if one != one:
        return other
    return one if other != other else min(one, other)


def shown(summary: Mapping[str, Sum], only: Collection[str] = ()) -> dict[str, KeySummary]:
    """As the wire has it: of all keys, or of those that are named."""
    return {
        key: KeySummary(
            last=number_of(found.last),
            step=found.step,
            at=found.at,
            min=number_of(found.min),
            max=number_of(found.max),
        )
        for key, found in summary.items()
        if not only or key in only
    }


def replay(batches: Iterable[Batch]) -> tuple[RunPoints, list[tuple[int, int, Batch]]]:
    """What is known after all of these batches, and those that were new with their attempt and
    number: as a store would keep them."""
    run, writers, kept = RunPoints(), dict[str, Writer](), list[tuple[int, int, Batch]]()
    for batch in batches:
        taken = take(run, writers.get(batch.writer), batch, 0)
        if taken is not None:
            run, writers[batch.writer] = taken.run, taken.writer
            kept.append((taken.writer.attempt, run.number, batch))
            if taken.recount:
                run = replace(run, summary=recounted(sums_of(run, kept)))
    return run, kept


def sums_of(run: RunPoints, kept: Iterable[tuple[int, int, Batch]]) -> Iterator[tuple[str, Sum]]:
    """Of every series of these batches, of what counts in it."""
    for attempt, _, batch in kept:
        for series in batch.series:
            found = summed(series, attempt, run.limit(batch.stream, attempt))
            if found is not None:
                yield series.key, found
