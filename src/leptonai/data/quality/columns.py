"""What a table's columns hold that they should not. Pure: over counts that were taken of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leptonai.data.manifest import Field
from leptonai.data.quality.report import Example, Found

FAR_OUT = 3.0  # interquartile ranges beyond the quartiles
MANY_DEVIATIONS = 3.5
MOSTLY = 0.9  # of a column's texts are numbers: it was meant to hold numbers


class Counts(NamedTuple):
    """Of one column, over all rows."""

    rows: int
    missing: int = 0
    infinite: int = 0
    unfit: int = 0  # not of its type
    lost: int = 0  # texts with characters that were lost
    numbers: int = 0  # texts that are numbers


class Fence(NamedTuple):
    """Between these is what is usual of a column."""

    low: float
    high: float


def column_checks(counts: Mapping[str, Counts], types: Mapping[str, str]) -> list[Found]:
    found: list[Found] = []
    for name, of in counts.items():
        present, meant, unfit = of.rows - of.missing, types[name], of.unfit
        if meant == "text" and MOSTLY * present <= of.numbers < present:
            meant, unfit = "number", present - of.numbers
        fill = "fill it (a median, a class of its own), or leave out the rows"
        drop = "drop the column: it holds nothing"
        told = [
            ("missing", of.missing, "no value", fill if present else drop),
            ("types", unfit, f"what is no {meant}", "correct it, or leave it empty"),
        ]
        if types[name] == "number":
            told.append(("infinite", of.infinite, "infinity", "see what was divided by zero"))
        if types[name] == "text":
            lost = "lost characters (\ufffd or NUL)"
            told.append(("encoding", of.lost, lost, "save the source again as UTF-8"))
        found += [
            Found(
                gate,
                count / max(1, of.rows),
                f"{name} has {what} in {count:,} of {of.rows:,} rows",
                where=name,
                hint=hint,
            )
            for gate, count, what, hint in told
        ]
    return found


def fence_of(values: NDArray[np.float64]) -> Fence | None:
    """Beyond which values are far out; None of fewer than four, or if all are the same.

    Source: Tukey 1977, "Exploratory Data Analysis": three interquartile ranges beyond the
        quartiles. Where half of all values are the same, by the mean absolute deviation about the
        median (Iglewicz, Hoaglin 1993, "How to Detect and Handle Outliers").
    """
    if len(values) < 4:
        return None
    first, median, third = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    reach = FAR_OUT * (third - first)
    if reach > 0:
        return Fence(first - reach, third + reach)
    deviation = float(np.median(np.abs(values - median))) / 0.6745
    if not deviation:
        deviation = 1.2533 * float(np.mean(np.abs(values - median)))
    reach = MANY_DEVIATIONS * deviation
    return Fence(median - reach, median + reach) if reach > 0 else None


def outlier_check(name: str, outside: int, rows: int, fence: Fence) -> Found:
    return Found(
        "outliers",
        outside / max(1, rows),
        f"{name} is far out in {outside:,} of {rows:,} rows: outside of "
        f"{fence.low:.4g} to {fence.high:.4g}",
        where=name,
        hint="look at them; mistakes go, a long tail wants its logarithm",
    )


def schema_checks(
    expected: Sequence[Field],
    found: Sequence[Field],
    expected_classes: Sequence[str] = (),
    found_classes: Sequence[str] = (),
) -> list[Found]:
    """What has gone, come, moved or changed its type."""
    was, now = ({each.name: each.type for each in fields} for fields in (expected, found))
    told = [
        *((f"{name} has gone: it was {was[name]}", name) for name in was if name not in now),
        *((f"{name} is new: {now[name]}", name) for name in now if name not in was),
        *(
            (f"{name} is {now[name]}, and was {was[name]}", name)
            for name in was
            if name in now and was[name] != now[name]
        ),
        *(
            (f"the class {name} is new", name)
            for name in found_classes
            if expected_classes and name not in {*expected_classes}
        ),
        *(
            (f"the class {name} has gone", name)
            for name in expected_classes
            if name not in {*found_classes}
        ),
    ]
    common = [name for name in now if name in was]
    if common != [name for name in was if name in now]:
        told.append(("the columns come in another order", ""))
    hint = "see whether the source changed; what reads the data must know"
    if not told:
        return [Found("schema", 0, "the columns are as expected")]
    # Each is one difference; the number of the gate is how many there are.
    return [Found("schema", len(told), what, where=name, hint=hint) for what, name in told]


def with_examples(
    found: Sequence[Found], examples: Mapping[tuple[str, str], tuple[Example, ...]]
) -> list[Found]:
    """
    Args:
        examples: by gate and column.
    """
    return [each._replace(examples=examples.get((each.gate, each.where), ())) for each in found]
