"""Impute: what is missing is filled in."""

from typing import TYPE_CHECKING, Any, Literal

from leptonai.data.chance import Chance
from leptonai.data.coded import decoded
from leptonai.data.pipeline.step import Learnt
from leptonai.data.pipeline.tables.counts import counts_of
from leptonai.data.pipeline.tables.statistics import moments, quantiles
from leptonai.data.pipeline.tables.table import Row, RowStep, Stretches, TableStep, type_of
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

MARK = "_missing"


class Impute(TableStep, frozen=True, kw_only=True, tag="impute"):
    """Missing values become one of the training data's, or a constant. Numbers become 64-bit
    floats.

    Columns of texts and booleans always take their most frequent value, the first by order if there
    are several; `mean` and `median` are for numbers.
    """

    fits = ("number", "text", "boolean")
    takes_codes = True

    strategy: Literal["mean", "median", "mode", "constant"] = "mean"
    value: float | str | bool | None = None  # the constant
    indicator: bool = False  # a column NAME_missing of 0 and 1 beside each

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.strategy == "constant") != (self.value is not None):
            raise InvalidRequest(
                "Impute takes a value with the strategy constant, and only with it",
                hint='Impute(strategy="constant", value=0)',
            )

    def chosen(self, training: Stretches) -> tuple[str, ...]:
        columns = super().chosen(training)
        if self.strategy != "constant" or self.columns is not None:
            return columns
        fitting = {bool: "boolean", str: "text"}.get(type(self.value), "number")
        return tuple(name for name in columns if type_of(training.schema[name]) == fitting)

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        numeric = [name for name in columns if type_of(training.schema[name]) == "number"]
        values: dict[str, Any] = dict.fromkeys(columns, self.value)
        if self.strategy == "constant":
            for name in columns:
                _check_constant(name, self.value, type_of(training.schema[name]))
            if isinstance(self.value, int) and not isinstance(self.value, bool):
                values = dict.fromkeys(columns, float(self.value))
        else:
            counted = [n for n in columns if n not in numeric or self.strategy == "mode"]
            for name, counts in counts_of(training, counted).items():
                most = max(counts.values(), default=0)
                values[name] = min((v for v, n in counts.items() if n == most), default=None)
                if name in numeric and values[name] is not None:
                    values[name] = float(values[name])
            if numeric and self.strategy == "mean":
                found = moments(lambda: training.numbers(numeric), len(numeric))
                for name, each in zip(numeric, found, strict=True):
                    values[name] = each.mean if each.count else None
            if numeric and self.strategy == "median":
                middle = quantiles(lambda: training.numbers(numeric), len(numeric), [0.5])
                for name, each_middle in zip(numeric, middle, strict=True):
                    values[name] = each_middle and each_middle[0]
        for name, value in values.items():
            if value is None:
                raise InvalidRequest(
                    f"Impute: {name!a} is missing in every row of the training data",
                    hint="drop it first: Clean() does, or DropColumns()",
                )
        return Learnt({"values": values, "numbers": numeric})

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        import polars as pl

        numeric = {*learnt.facts["numbers"]}
        made = []
        if self.strategy == "constant":  # for which there may be no code
            batch = decoded(batch)
        for name, value in learnt.facts["values"].items():
            column = pl.col(name).cast(pl.Float64) if name in numeric else pl.col(name)
            made.append(column.fill_null(value))
            if self.indicator:
                made.append(pl.col(name).is_null().cast(pl.Float64).alias(name + MARK))
        return batch.with_columns(made)

    def of_row(self, learnt: Learnt) -> RowStep:
        values, indicator = list(learnt.facts["values"].items()), self.indicator
        numeric = frozenset(learnt.facts["numbers"])
        told = [(name, value, name in numeric) for name, value in values]

        def apply(row: Row) -> None:
            for name, value, is_number in told:
                found = row[name]
                if found is None:
                    row[name] = value
                elif is_number:
                    row[name] = float(found)
                if indicator:
                    row[name + MARK] = 1.0 if found is None else 0.0

        return apply


def _check_constant(name: str, value: Any, type: str) -> None:
    fits = {"number": (int, float), "text": (str,), "boolean": (bool,)}[type]
    if not isinstance(value, fits) or (type == "number" and isinstance(value, bool)):
        raise InvalidRequest(
            f"Impute: {name!a} is {type}, and {value!r} is not", hint="name the columns it is for"
        )
