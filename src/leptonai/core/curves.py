"""Curves: points of one key as arrays; put together, kept small, and reduced to what a plot shows.

Pure. Loads numpy, so it is imported where a curve is at hand and not before.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leptonai.core.points import Sum
from leptonai.errors import Internal

_INTEGERS = ("<i1", "<i2", "<i4", "<i8")
_HEAD = struct.Struct("<IBB")  # count, type of the values, reserved
_COLUMN = struct.Struct("<qB")  # first number, type of the differences; 255: all are the same
_SAME = 255
_FLOAT32, _FLOAT64 = 4, 8


class Points(NamedTuple):
    """Of one key, by step; of those at one step, the later ones count."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    times: NDArray[np.int64]  # milliseconds since 1970

    def __len__(self) -> int:
        return len(self.steps)

    def between(self, from_step: int | None, to_step: int | None) -> "Points":
        start = 0 if from_step is None else int(np.searchsorted(self.steps, from_step, "left"))
        end = None if to_step is None else int(np.searchsorted(self.steps, to_step, "right"))
        return self.at(slice(start, end))

    def at(self, places: "slice | NDArray[np.int64]") -> "Points":
        return Points(self.steps[places], self.values[places], self.times[places])


def from_columns(steps: bytes, values: bytes, times: bytes) -> Points:
    """Of columns in the order in which the points were logged."""
    return _by_step(
        Points(
            np.frombuffer(steps, "<i8"), np.frombuffer(values, "<f8"), np.frombuffer(times, "<i8")
        )
    )


def join(parts: Sequence[Points]) -> Points:
    """All points of parts that come in the order of their arrival."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Points(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    return _by_step(
        Points(
            np.concatenate([part.steps for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.times for part in parts]),
        )
    )


def one_a_step(points: Points) -> Points:
    """Only the values that count."""
    last = np.append(points.steps[1:] != points.steps[:-1], True)[: len(points)]
    return points if last.all() else points.at(np.flatnonzero(last))


def visible(
    parts: Iterable[tuple[int, int, int | None, Points]],
    from_step: int | None = None,
    to_step: int | None = None,
) -> Points:
    """One value a step of (attempt, number, last step that counts or None, points): the newest
    attempt's, and in an attempt the last that arrived."""
    kept = []
    for _, _, limit, points in sorted(parts, key=lambda part: part[:2]):
        upto = to_step if limit is None else limit if to_step is None else min(limit, to_step)
        some = points.between(from_step, upto)
        if len(some):
            kept.append(some)
    return one_a_step(join(kept))


def sum_of(points: Points, attempt: int) -> Sum:
    """Of at least one point."""
    known = points.values[~np.isnan(points.values)]
    return Sum(
        last=float(points.values[-1]),
        step=int(points.steps[-1]),
        at=int(points.times[-1]),
        attempt=attempt,
        min=float(known.min()) if len(known) else float("nan"),
        max=float(known.max()) if len(known) else float("nan"),
    )


def _by_step(points: Points) -> Points:
    if np.all(points.steps[1:] >= points.steps[:-1]):
        return points
    return points.at(np.argsort(points.steps, kind="stable"))


# --- kept small ----------------------------------------------------------------------------------


def pack(points: Points) -> bytes:
    """About 6 bytes a point of a training that logs float32 values at a steady pace, where raw
    columns take 24; unpacking takes 5 ns a point, which general compression would not."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = points.values.astype(np.float32)
        exact = np.array_equal(narrow.astype(np.float64), points.values, equal_nan=True)
    values = narrow.astype("<f4") if exact else points.values.astype("<f8")
    head = _HEAD.pack(len(points), _FLOAT32 if exact else _FLOAT64, 0)
    return b"".join(
        (head, _pack_integers(points.steps), _pack_integers(points.times), values.tobytes())
    )


def unpack(packed: bytes) -> Points:
    """Raises:
    Internal: it is damaged.
    """
    try:
        count, float_bytes, _ = _HEAD.unpack_from(packed)
        steps, at = _unpack_integers(packed, _HEAD.size, count)
        times, at = _unpack_integers(packed, at, count)
        values = np.frombuffer(packed, f"<f{float_bytes}", count, at).astype(np.float64)
    except (struct.error, ValueError, IndexError, TypeError) as damaged:
        raise Internal(
            f"a part of a curve is damaged: {damaged}", hint="restore the database from a backup"
        ) from damaged
    return Points(steps, values, times)


def _pack_integers(column: NDArray[np.int64]) -> bytes:
    first = int(column[0]) if len(column) else 0
    steps = np.diff(column)
    if len(steps) == 0 or np.all(steps == steps[0]):
        same = int(steps[0]) if len(steps) else 0
        return _COLUMN.pack(first, _SAME) + struct.pack("<q", same)
    least, most = int(steps.min()), int(steps.max())
    code = next(
        code
        for code, kind in enumerate(_INTEGERS)
        if np.iinfo(kind).min <= least and most <= np.iinfo(kind).max
    )
    return _COLUMN.pack(first, code) + steps.astype(_INTEGERS[code]).tobytes()


def _unpack_integers(packed: bytes, at: int, count: int) -> tuple[NDArray[np.int64], int]:
    first, code = _COLUMN.unpack_from(packed, at)
    at += _COLUMN.size
    if code == _SAME:
        (same,) = struct.unpack_from("<q", packed, at)
        return first + same * np.arange(count, dtype=np.int64), at + 8
    kind = np.dtype(_INTEGERS[code])
    column = np.empty(count, np.int64)
    column[0] = first
    np.cumsum(np.frombuffer(packed, kind, count - 1, at), dtype=np.int64, out=column[1:])
    column[1:] += first
    return column, at + kind.itemsize * (count - 1)


# --- reduced -------------------------------------------------------------------------------------


def minmax(points: Points, most: int) -> Points:
    """The least and the greatest of each of equally many points, and both ends: no peak is lost.

    NaN is neither, but where there is nothing else.
    """
    count, buckets = len(points), (most - 2) // 2
    if count <= most:
        return points
    if buckets < 1:
        return points.at(np.array((0, count - 1)))
    size = -(-count // buckets)
    padded = np.full(buckets * size, np.nan)
    padded[:count] = points.values
    unknown = np.isnan(padded)
    grid = padded.reshape(buckets, size)
    hidden = unknown.reshape(buckets, size)
    least = np.where(hidden, np.inf, grid).argmin(axis=1)
    greatest = np.where(hidden, -np.inf, grid).argmax(axis=1)
    starts = np.arange(buckets) * size
    starts = starts[starts < count]
    places = np.unique(
        np.concatenate(
            (starts + least[: len(starts)], starts + greatest[: len(starts)], (0, count - 1))
        )
    )
    return points.at(places[places < count])


def lttb(points: Points, most: int) -> Points:
    """Largest triangle three buckets: of each of equally many points the one that stands out most.

    Source: Steinarsson 2013, "Downsampling Time Series for Visual Representation", section 4.2.
    """
    count = len(points)
    if count <= most:
        return points
    if most < 3:
        return points.at(np.array((0, count - 1)))
    edges = np.linspace(1, count - 1, most - 1).astype(np.int64)  # of most - 2 buckets
    x = points.steps
    y = np.where(np.isfinite(points.values), points.values, 0.0)
    sizes = np.diff(np.append(edges, count))
    mean_x = np.add.reduceat(x, edges) / sizes  # the last one is of the last point alone
    mean_y = np.add.reduceat(y, edges) / sizes
    chosen = [0]
    for bucket in range(most - 2):
        start, end = int(edges[bucket]), int(edges[bucket + 1])
        at, next_x, next_y = chosen[-1], mean_x[bucket + 1], mean_y[bucket + 1]
        area = np.abs(
            (x[at] - next_x) * (y[start:end] - y[at]) - (x[at] - x[start:end]) * (next_y - y[at])
        )
        chosen.append(start + int(area.argmax()))
    return points.at(np.array([*chosen, count - 1]))


REDUCE = {"minmax": minmax, "lttb": lttb}
