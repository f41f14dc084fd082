"""How many requests an endpoint got, by day, in steps of BIN_S: what its forecast is learnt from.

A day is one column of whole numbers, packed: some kB for an endpoint that is busy all day, and some
tens of bytes for a quiet one. Days are UTC's, and numbered from 1970.
"""

import math
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

from leptonai.core.elasticity.forecast import BIN_S
from leptonai.core.elasticity.values import DAY_S
from leptonai.core.traffic import TrafficWindow

KEPT_DAYS = 14
BINS_A_DAY = DAY_S // BIN_S
BIN_MS = 1000 * BIN_S
# A gateway that could not tell for longer than this says how many came, and not when.
LONGEST_WINDOW_MS = 10 * 60_000
_WIDTHS = (("B", 0xFF), ("H", 0xFFFF), ("I", 0xFFFF_FFFF))  # the largest number means: not counted

Bins = dict[int, int]  # requests by bin, and bins are numbered from 1970


def bin_of(at_ms: int) -> int:
    return at_ms // BIN_MS


def first_kept_day(now_ms: int) -> int:
    return now_ms // 1000 // DAY_S - KEPT_DAYS + 1


def counted(windows: Iterable[TrafficWindow], *, matching: bool = False) -> Bins:
    """What came in when. A window longer than a bin is spread evenly.

    Args:
        matching: only what the endpoint's target counts.
    """
    bins: Bins = {}
    for window in windows:
        length_ms = window.end_ms - window.start_ms
        if window.shadow or not 0 <= length_ms <= LONGEST_WINDOW_MS:
            continue
        first, last = bin_of(window.start_ms), bin_of(max(window.start_ms, window.end_ms - 1))
        total = window.matching if matching else window.arrivals
        given, parts = 0, last - first + 1
        for number in range(parts):
            upto = total * (number + 1) // parts
            bins[first + number] = bins.get(first + number, 0) + upto - given
            given = upto
    return bins


def by_day(bins: Mapping[int, int], known_from: int, known_to: int) -> Iterator[tuple[int, Bins]]:
    """The bins of each day that has some, by their place in it: those that were counted, and none
    where nothing came in [known_from, known_to)."""
    days: dict[int, Bins] = {}
    for one in range(known_from, known_to):
        days.setdefault(one // BINS_A_DAY, {})[one % BINS_A_DAY] = 0
    for one, number in bins.items():
        days.setdefault(one // BINS_A_DAY, {})[one % BINS_A_DAY] = number
    yield from sorted(days.items())


def with_more(packed: bytes, more: Bins) -> bytes:
    """A day with what else was counted of it; b"" is a day of which nothing is known."""
    day = unpack(packed)
    for place, number in more.items():
        before = day[place]
        day[place] = number + (0 if math.isnan(before) else before)
    return pack(day)


def pack(day: Sequence[float]) -> bytes:
    """Of the numbers of one day; NaN where nobody counted. What is too large is as large as can
    be: more than four thousand million requests in a bin."""
    largest = max((number for number in day if number == number), default=0)
    code, missing = next((each for each in _WIDTHS if largest < each[1]), _WIDTHS[-1])
    column = array(code, (min(int(n), missing - 1) if n == n else missing for n in day))
    return code.encode() + zlib.compress(column.tobytes())


def unpack(packed: bytes) -> list[float]:
    """Always a whole day: what cannot be read was not counted."""
    nothing = [math.nan] * BINS_A_DAY
    missing = dict(_WIDTHS).get(packed[:1].decode("latin-1"))
    if missing is None:
        return nothing
    column = array(packed[:1].decode())
    try:
        column.frombytes(zlib.decompress(packed[1:]))
    except (zlib.error, ValueError):
        return nothing
    if len(column) != BINS_A_DAY:
        return nothing
    return [math.nan if number == missing else float(number) for number in column]


def history(days: Mapping[int, bytes]) -> tuple[float, list[float]]:
    """When it begins, in seconds since 1970, and the counts from then to the last one, without a
    break."""
    if not days:
        return 0.0, []
    first, last = min(days), max(days)
    numbers: list[float] = []
    for day in range(first, last + 1):
        numbers += unpack(days.get(day, b""))
    known = [place for place, number in enumerate(numbers) if number == number]
    begins, ends = (known[0], known[-1] + 1) if known else (0, 0)
    return float(first * DAY_S + begins * BIN_S), numbers[begins:ends]


def rates(counts: Sequence[float], step_s: int) -> list[float | None]:
    """Requests/s in steps of `step_s`, a multiple of BIN_S; None where nobody counted."""
    width = step_s // BIN_S
    found: list[float | None] = []
    for start in range(0, len(counts), width):
        known = [number for number in counts[start : start + width] if number == number]
        found.append(sum(known) / (BIN_S * len(known)) if known else None)
    return found
