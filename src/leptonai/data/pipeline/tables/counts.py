"""How often each value of a column is there."""

from collections.abc import Sequence
from typing import Any

from leptonai.data.pipeline.tables.table import MAX_CATEGORIES, Stretches
from leptonai.errors import InvalidRequest


def counts_of(training: Stretches, columns: Sequence[str]) -> dict[str, dict[Any, int]]:
    """Of each column; what is missing does not count.

    Raises:
        InvalidRequest: a column has more values than can be kept; says which.
    """
    counts: dict[str, dict[Any, int]] = {name: {} for name in columns}
    if not columns:
        return counts
    for _, frame in training.columns(columns):
        for name in columns:
            known = counts[name]
            found = frame[name].drop_nulls().value_counts(name="count" if name != "count" else "n")
            for value, count in found.iter_rows():
                known[value] = known.get(value, 0) + count
            if len(known) > MAX_CATEGORIES:
                raise InvalidRequest(
                    f"{name!a} has more than {MAX_CATEGORIES} different values",
                    hint="drop it, or HashEncode it",
                )
    return counts
