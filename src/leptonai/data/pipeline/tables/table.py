"""`TableStep`: what all steps over tables share.

A step is written twice: as polars expressions over a stretch of a table, and as plain Python over
one row, since a single row takes polars milliseconds and Python microseconds. Both calculate with
the same 64-bit floats in the same order, so they give the same numbers; a property test holds them
to it. So division by what was learnt is multiplication with its inverse, which is what polars makes
of it anyway.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from leptonai.data.ahead import ahead
from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Form, Learnt, Step, Training
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

# Columns that a table carries through the steps, for us alone:
ROW = "__row__"  # the number of a training row among all samples: cross-fitting goes by it
AT = "__at__"  # of the row in what is transformed
REFUSED = "__refused__"  # a step will not have it: said in full by the step's own `of_row`
HIDDEN = frozenset({ROW, AT, REFUSED})
MAX_CATEGORIES = 100_000  # that a column may have
BLOCK_VALUES = 1 << 20  # that are added up at once: 8 MiB of numbers

Row: TypeAlias = dict[str, Any]  # None is missing
RowStep: TypeAlias = Callable[[Row], None]  # changes the row in place

Type: TypeAlias = Literal["number", "text", "boolean", "time"]


class Stretches:
    """The training data of a table step: call it to read it from the beginning."""

    def __init__(
        self,
        read: "Callable[[], Iterator[pl.LazyFrame]]",
        schema: "Mapping[str, pl.DataType]",
        target: str | None,
    ) -> None:
        self._read = read
        self.schema = schema  # as the step gets it, without the row numbers
        self.target = target

    def __call__(self) -> "Iterator[pl.LazyFrame]":
        return self._read()

    def columns(self, names: Sequence[str]) -> "Iterator[tuple[int, pl.DataFrame]]":
        """These columns, stretch after stretch, each with the number of its first row."""
        at = 0
        for frame in ahead(stretch.select(names).collect() for stretch in self()):
            yield at, frame
            at += len(frame)

    def blocks(self, names: Sequence[str]) -> "Iterator[tuple[int, pl.DataFrame]]":
        """As `columns`, in frames of as many rows each, wherever the stretches were cut: so that
        sums of floats are the same to the last bit."""
        import polars as pl

        rows = max(1, BLOCK_VALUES // max(1, len(names)))
        waiting: list[pl.DataFrame] = []
        first = count = 0
        for _, frame in self.columns(names):
            waiting.append(frame)
            count += len(frame)
            if count < rows:
                continue
            joined = pl.concat(waiting)
            for at in range(0, count - rows + 1, rows):
                yield first + at, joined.slice(at, rows)
            left = count % rows
            waiting = [joined.tail(left)] if left else []
            first, count = first + count - left, left
        if count:
            yield first, pl.concat(waiting)

    def numbers(self, names: Sequence[str]) -> Iterator[list[NDArray[np.float64]]]:
        """Each column's values that are there, block after block.

        Raises:
            InvalidRequest: one is infinite; says where.
        """
        for at, frame in self.blocks(names):
            found = []
            for name in names:
                values = as_numbers(frame[name])
                if not np.isfinite(values).all():
                    infinite = np.flatnonzero(np.isinf(values))
                    if len(infinite):
                        raise InvalidRequest(
                            f"row {at + int(infinite[0])} of the training data: {name!a} is "
                            "infinite",
                            hint="take a Clean step first: it makes infinities missing",
                        )
                    values = values[~np.isnan(values)]
                found.append(values)
            yield found


class TableStep(Step, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`columns` are names; all that fit, if not given, and never the target. `types` are what
    kinds of columns are taken where none are named."""

    takes: ClassVar[Form] = "table"
    gives: ClassVar[Form] = "table"
    fits: ClassVar[tuple[Type, ...]] = ("number", "text", "boolean", "time")
    may_take_target: ClassVar[bool] = False
    is_costly: ClassVar[bool] = False  # its result is kept for the steps that learn from it
    takes_codes: ClassVar[bool] = False  # in place of texts: see `data/coded.py`

    columns: tuple[str, ...] | None = None
    types: tuple[Type, ...] | None = None

    def __post_init__(self) -> None:
        for type in self.types or ():
            if type not in self.fits:
                raise InvalidRequest(
                    f"{self.named()} does not work on columns of the type {type}",
                    hint=f"on {', '.join(self.fits)}",
                )

    def fit(self, training: Training) -> Learnt:
        assert isinstance(training, Stretches)
        return self.learn(training, self.chosen(training))

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        """From the training data. What it learns names its columns."""
        return Learnt({"columns": list(columns)})

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        raise NotImplementedError

    def of_row(self, learnt: Learnt) -> RowStep:
        """The same for one row, made once."""
        raise NotImplementedError

    def chosen(self, training: Stretches) -> tuple[str, ...]:
        """The columns that it works on."""
        schema, wanted = training.schema, self.types or self.fits
        if self.columns is None:
            return tuple(
                name
                for name, dtype in schema.items()
                if name != training.target and type_of(dtype) in wanted
            )
        for name in self.columns:
            check_column(name, schema, self.named())
            if name == training.target and not self.may_take_target:
                raise InvalidRequest(
                    f"{self.named()}: {name!a} is the target, which steps leave alone",
                    hint="take it out of the columns",
                )
            if type_of(schema[name]) not in self.fits:
                raise InvalidRequest(
                    f"{self.named()} does not work on {name!a}: it is {type_of(schema[name])}",
                    hint=f"name columns that are {' or '.join(self.fits)}",
                )
        return self.columns

    @classmethod
    def named(cls) -> str:
        return cls.__name__


def type_of(dtype: "pl.DataType") -> str:
    if dtype.is_numeric():
        return "number"
    if dtype.is_temporal():
        return "time"
    return {"Boolean": "boolean", "String": "text"}.get(str(dtype), "other")


def check_column(name: str, schema: Mapping[str, Any], step: str) -> None:
    if name not in schema:
        told = ", ".join(schema)[:200]
        raise InvalidRequest(
            f"{step}: there is no column {name!a}", hint=f"at that place there are {told}"
        )


def as_numbers(column: "pl.Series") -> NDArray[np.float64]:
    """NaN where it is missing."""
    import polars as pl

    return column.cast(pl.Float64).to_numpy()


def refusing(frame: "pl.LazyFrame", wrong: "pl.Expr") -> "pl.LazyFrame":
    """Rows that the step's `of_row` raises for. While learning, nothing is refused."""
    import polars as pl

    if REFUSED not in frame.collect_schema():
        return frame
    return frame.with_columns(pl.col(REFUSED) | wrong.fill_null(False))


def replaced(frame: "pl.LazyFrame", made: "Mapping[str, list[pl.Expr]]") -> "pl.LazyFrame":
    """Each of these columns gives way to those made of it, in its place."""
    import polars as pl

    names = frame.collect_schema().names()
    return frame.select(
        expression
        for name in names
        for expression in (made[name] if name in made else [pl.col(name)])
    )
