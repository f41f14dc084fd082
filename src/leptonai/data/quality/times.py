"""Times of a time series: in order, each once, at even steps. Pure."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from leptonai.data.quality.report import MAX_EXAMPLES, Example, Found, Skipped

EVEN_SHARE = 0.8  # of the steps that are alike where steps are even
EVEN_WITHIN = 0.12  # of the usual step: months are of 28 to 31 days
LONGER_THAN = 1.5  # usual steps is a gap, where steps are even
LONGER_THAN_UNEVEN = 10.0


def time_checks(
    times_us: NDArray[np.int64],
    series: NDArray[np.uint64],
    rows: NDArray[np.int64],
    where: Callable[[int], str],
) -> list[Found | Skipped]:
    """
    Args:
        times_us: [R], of the rows that have one, in the order of the file.
        series: [R]: rows of one series have one number.
        rows: [R]: the number of each among all rows.
    """
    if len(times_us) < 2:
        reason = "fewer than two rows have a time"
        return [Skipped("timestamps", reason), Skipped("gaps", reason)]
    as_filed = np.argsort(series, kind="stable")
    same = np.diff(series[as_filed].astype(np.int64)) == 0
    back = as_filed[1:][same & (np.diff(times_us[as_filed]) < 0)]
    order = np.lexsort((times_us, series))
    same = np.diff(series[order].astype(np.int64)) == 0
    steps = np.diff(times_us[order])
    twice = order[1:][same & (steps == 0)]
    total = len(times_us)

    def examples(at: NDArray[np.int64]) -> tuple[Example, ...]:
        return tuple(
            Example(where(int(rows[one])), _moment(times_us[one]))
            for one in np.sort(at)[:MAX_EXAMPLES].tolist()
        )

    found: list[Found | Skipped] = [
        Found(
            "timestamps",
            len(back) / total,
            f"{len(back):,} of {total:,} rows are earlier than the row before",
            hint="sort the rows by their time",
            examples=examples(back),
        ),
        Found(
            "timestamps",
            len(twice) / total,
            f"{len(twice):,} of {total:,} rows have a time that their series has already",
            hint="keep one row of each time; or add the column that tells the series apart",
            examples=examples(twice),
        ),
    ]
    forward = same & (steps > 0)
    if not forward.any():
        return [*found, Skipped("gaps", "no two rows follow each other in time")]
    lengths = steps[forward]
    usual = float(np.median(lengths))
    even = float(np.mean(np.abs(lengths - usual) <= EVEN_WITHIN * usual)) >= EVEN_SHARE
    longer = lengths > (LONGER_THAN if even else LONGER_THAN_UNEVEN) * usual
    after = order[1:][forward][longer]
    worst = np.argsort(-lengths[longer], kind="stable")[:MAX_EXAMPLES]
    gaps = tuple(
        Example(
            where(int(rows[after[at]])),
            f"{_span(lengths[longer][at])} before {_moment(times_us[after[at]])}",
        )
        for at in worst.tolist()
    )
    kind = "usual" if even else "steps are uneven, the median is"
    found.append(
        Found(
            "gaps",
            len(after) / len(lengths),
            f"{len(after):,} of {len(lengths):,} steps are much longer than one ({kind} "
            f"{_span(usual)})",
            hint="fill the gaps, or mark them; gaps that recur (nights, weekends) may be meant",
            examples=gaps,
        )
    )
    return found


def _moment(time_us: int) -> str:
    return str(np.datetime64(int(time_us), "us")).removesuffix(".000000")


def _span(length_us: float) -> str:
    seconds = length_us / 1e6
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.3g}{unit}"
    return f"{seconds:.3g}s"
