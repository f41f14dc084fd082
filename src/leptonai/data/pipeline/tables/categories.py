"""OneHot, Ordinal, HashEncode: categories become numbers."""

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Learnt
from leptonai.data.pipeline.tables.counts import counts_of
from leptonai.data.pipeline.tables.table import (
    Row,
    RowStep,
    Stretches,
    TableStep,
    refusing,
    replaced,
)
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

MAX_BUCKETS = 1 << 12
MAX_ONE_HOT = 1000  # columns of one column
UNSEEN = -1.0


class OneHot(TableStep, frozen=True, kw_only=True, tag="one_hot"):
    """Each column becomes one of 0 and 1 for each of its categories, NAME=CATEGORY, in the order of
    the categories. A missing value is in none of them.

    `unseen`: a category that the training data has not is in none of them either, or refused.
    """

    fits = ("text", "boolean", "number")
    takes_codes = True

    types: tuple[Literal["number", "text", "boolean", "time"], ...] | None = ("text", "boolean")
    most: int = 100  # categories of a column; others count as unseen: the most frequent are taken
    unseen: Literal["ignore", "refuse"] = "ignore"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.most <= MAX_ONE_HOT:
            raise InvalidRequest(f"OneHot: most is from 1 to {MAX_ONE_HOT}, not {self.most}")

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        return Learnt({"categories": _categories(training, columns, self.most)})

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        import polars as pl

        categories_of = learnt.facts["categories"]
        if self.unseen == "refuse":
            batch = _refusing_unseen(batch, categories_of)
        return replaced(
            batch,
            {
                name: [
                    (pl.col(name) == category)
                    .fill_null(False)
                    .cast(pl.Float64)
                    .alias(f"{name}={_text(category)}")
                    for category in categories
                ]
                for name, categories in categories_of.items()
            },
        )

    def of_row(self, learnt: Learnt) -> RowStep:
        refuse = self.unseen == "refuse"
        told = [
            (
                name,
                {c: f"{name}={_text(c)}" for c in categories},
                {f"{name}={_text(c)}": 0.0 for c in categories},
            )
            for name, categories in learnt.facts["categories"].items()
        ]

        def apply(row: Row) -> None:
            for name, known, zeros in told:
                value = row.pop(name)
                row.update(zeros)
                if value in known:
                    row[known[value]] = 1.0
                elif refuse and value is not None:
                    raise unseen(name, value)

        return apply


class Ordinal(TableStep, frozen=True, kw_only=True, tag="ordinal"):
    """Each category becomes its place among those of the training data, from 0. What is unseen
    becomes -1, or is refused; what is missing stays so."""

    fits = ("text", "boolean", "number")

    types: tuple[Literal["number", "text", "boolean", "time"], ...] | None = ("text", "boolean")
    unseen: Literal["ignore", "refuse"] = "ignore"

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        return Learnt({"categories": _categories(training, columns, None)})

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        if self.unseen == "refuse":
            batch = _refusing_unseen(batch, learnt.facts["categories"])
        return batch.with_columns(
            mapped(name, {c: float(place) for place, c in enumerate(categories)}, UNSEEN)
            for name, categories in learnt.facts["categories"].items()
        )

    def of_row(self, learnt: Learnt) -> RowStep:
        refuse = self.unseen == "refuse"
        told = [
            (name, {c: float(place) for place, c in enumerate(categories)})
            for name, categories in learnt.facts["categories"].items()
        ]

        def apply(row: Row) -> None:
            for name, place_of in told:
                value = row[name]
                if value is not None:
                    if refuse and value not in place_of:
                        raise unseen(name, value)
                    row[name] = place_of.get(value, UNSEEN)

        return apply


class HashEncode(TableStep, frozen=True, kw_only=True, tag="hash_encode"):
    """All the columns together become `buckets` columns HASH_0, HASH_1, …: each value adds 1 or -1
    to one of them, chosen by a hash of its column's name and itself. It learns nothing, so nothing
    is ever unseen.

    Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning".
    """

    fits = ("text", "boolean")
    is_costly = True

    buckets: int = 32
    prefix: str = "hash_"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.buckets <= MAX_BUCKETS:
            raise InvalidRequest(f"HashEncode: buckets are 1 to {MAX_BUCKETS}, not {self.buckets}")

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        import polars as pl

        columns, buckets = learnt.facts["columns"], self.buckets
        names = [f"{self.prefix}{bucket}" for bucket in range(buckets)]

        def hashed(frame: "pl.DataFrame") -> "pl.DataFrame":
            import numpy as np

            sums = np.zeros((buckets, len(frame)))
            for name in columns:
                values = frame[name].cast(pl.String).to_physical()
                distinct = values.unique()
                places = {
                    v: bucket_of(name, v, buckets) for v in distinct.to_list() if v is not None
                }
                if not places:
                    continue
                found = pl.DataFrame(
                    {
                        "value": list(places),
                        "bucket": [bucket for bucket, _ in places.values()],
                        "sign": [sign for _, sign in places.values()],
                    }
                )
                each = (
                    values.alias("value")
                    .to_frame()
                    .with_row_index("at")
                    .drop_nulls("value")
                    .join(found, on="value", how="left")
                )
                np.add.at(
                    sums,
                    (each["bucket"].to_numpy(), each["at"].to_numpy()),
                    each["sign"].to_numpy(),
                )
            made = [pl.Series(name, sums[at]) for at, name in enumerate(names)]
            return frame.drop(columns).with_columns(made)

        schema = batch.collect_schema()
        after = {name: dtype for name, dtype in schema.items() if name not in columns}
        return batch.map_batches(
            hashed,
            schema=pl.Schema(after | dict.fromkeys(names, pl.Float64())),
            predicate_pushdown=False,
            projection_pushdown=False,
            slice_pushdown=False,
        )

    def of_row(self, learnt: Learnt) -> RowStep:
        columns, buckets = learnt.facts["columns"], self.buckets
        zeros = {f"{self.prefix}{bucket}": 0.0 for bucket in range(buckets)}
        prefix = self.prefix

        def apply(row: Row) -> None:
            made = dict(zeros)
            for name in columns:
                value = row.pop(name)
                if value is not None:
                    bucket, sign = bucket_of(name, _text(value), buckets)
                    made[f"{prefix}{bucket}"] += sign
            row.update(made)

        return apply


def bucket_of(column: str, text: str, buckets: int) -> tuple[int, float]:
    """The same on every machine and in every version."""
    drawn = blake2b(f"{column}\0{text}".encode(), digest_size=8).digest()
    number = int.from_bytes(drawn, "little")
    return (number >> 1) % buckets, 1.0 if number & 1 else -1.0


def unseen(name: str, value: Any) -> InvalidRequest:
    return InvalidRequest(
        f"{name!a} is {value!a}, which the training data never has",
        hint='send one that it has, or make the step with unseen="ignore"',
    )


def mapped(name: str, values: dict[Any, float], default: float) -> "pl.Expr":
    """What is missing stays so."""
    import polars as pl

    column = pl.col(name)
    found = column.replace_strict(
        list(values), list(values.values()), default=default, return_dtype=pl.Float64
    )
    return pl.when(column.is_not_null()).then(found).alias(name)


def _refusing_unseen(frame: "pl.LazyFrame", categories_of: dict[str, list[Any]]) -> "pl.LazyFrame":
    import polars as pl

    for name, categories in categories_of.items():
        frame = refusing(frame, ~pl.col(name).is_in(categories))
    return frame


def _categories(
    training: Stretches, columns: tuple[str, ...], most: int | None
) -> dict[str, list[Any]]:
    found = {}
    for name, counts in counts_of(training, columns).items():
        kept = sorted(counts, key=lambda value: (-counts[value], value))[:most]
        found[name] = sorted(kept)
        if not kept:
            raise InvalidRequest(
                f"{name!a} is missing in every row of the training data",
                hint="drop it first: Clean() does, or DropColumns()",
            )
    return found


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
