"""Clean, DropColumns, DropMissing: what does not belong into a table goes."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leptonai.data.chance import Chance
from leptonai.data.coded import changed_codes, decoded, is_coded, recoded
from leptonai.data.pipeline.step import Learnt
from leptonai.data.pipeline.tables.table import (
    HIDDEN,
    Row,
    RowStep,
    Stretches,
    TableStep,
    check_column,
    refusing,
    type_of,
)
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

LOOKED_AT, OFTEN = 1000, 4  # values: each is there so often or more, where few are in it often
MISSING = ("", "na", "n/a", "nan", "null", "none")


class Clean(TableStep, frozen=True, kw_only=True, tag="clean"):
    """Texts lose the blanks around them, and those that only say that there is nothing are missing,
    as infinite numbers are. Of what it works on, columns of numbers that were written as texts
    become numbers; those that are empty, the same in every row of the training data, or a copy
    of an earlier one go.
    """

    is_costly = True
    takes_codes = True

    strip: bool = True
    missing: tuple[str, ...] = MISSING  # in lower case
    infinite_is_missing: bool = True
    numbers: bool = True  # texts that are all numbers become numbers
    constant: bool = True  # drop those with one value, or none
    duplicate: bool = True  # drop copies

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:

        texts = [name for name in columns if type_of(training.schema[name]) == "text"]
        floats = [name for name in columns if training.schema[name].is_float()]
        numeric = {*texts} if self.numbers else set()
        present: set[str] = set()
        first: dict[str, Any] = {}
        varies: set[str] = set()
        copies = _Copies(columns)
        for _, frame in training.columns(columns):
            cleaned = frame.with_columns(self._cleaned(frame.schema, texts, floats))
            for name in [*numeric]:
                as_number = cleaned.select(_as_number(name)).to_series()
                if as_number.null_count() > cleaned[name].null_count():
                    numeric.discard(name)
            for name in columns:
                values = cleaned[name]
                if values.null_count() < len(values):
                    present.add(name)
                if name not in varies and len(values):
                    first.setdefault(name, values[0])
                    if values.n_unique() > 1 or values[0] != first[name]:
                        varies.add(name)
            copies.look(cleaned)
            if len(varies) == len(columns) and not numeric and not copies.found():
                break  # nothing is left to be found out
        drop = {name for name in columns if self.constant and name not in varies}
        if self.duplicate:
            drop |= copies.found() - drop
        return Learnt(
            {
                "columns": list(columns),
                "texts": texts,
                "floats": floats,
                "numbers": [name for name in texts if name in numeric & present],
                "drop": [name for name in columns if name in drop],
            }
        )

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        import polars as pl

        facts = learnt.facts
        cleaned = batch.drop(facts["drop"]).with_columns(
            self._cleaned(
                batch.collect_schema(),
                [name for name in facts["texts"] if name not in facts["drop"]],
                [name for name in facts["floats"] if name not in facts["drop"]],
            )
        )
        for name in facts["numbers"]:
            if name not in facts["drop"]:
                number = _as_number(name)
                wrong = number.is_null() & pl.col(name).is_not_null()
                cleaned = refusing(cleaned, wrong).with_columns(number)
        return cleaned

    def _cleaned(
        self, schema: "Mapping[str, pl.DataType]", texts: Iterable[str], floats: Iterable[str]
    ) -> "list[pl.Expr]":
        import polars as pl

        made = []
        for name in texts:
            dtype = schema[name]
            cleaned = changed_codes(dtype, "cleaned") if is_coded(dtype) else pl.String()
            made.append(pl.col(name).map_batches(self._texts, return_dtype=cleaned))
        for name in floats:
            if self.infinite_is_missing:
                number = pl.col(name)
                made.append(pl.when(number.is_finite()).then(number).alias(name))
        return made

    def _texts(self, values: "pl.Series") -> "pl.Series":
        """Each text of a column once, where few are in it often."""
        import polars as pl

        if is_coded(values.dtype):
            return recoded(values, self._each_text, changed_codes(values.dtype, "cleaned"))
        if values.head(LOOKED_AT).n_unique() > LOOKED_AT // OFTEN:
            return self._each_text(values)
        coded = values.cast(pl.Categorical(pl.Categories.random()))
        distinct = coded.unique().drop_nulls()
        by_code = distinct.cast(pl.String).gather(distinct.to_physical().arg_sort())
        return self._each_text(by_code).gather(coded.to_physical()).alias(values.name)

    def _each_text(self, values: "pl.Series") -> "pl.Series":
        texts = values.str.strip_chars(BLANKS) if self.strip else values
        return texts.set(texts.str.to_lowercase().is_in(list(self.missing)), None)

    def of_row(self, learnt: Learnt) -> RowStep:
        facts = learnt.facts
        drop, numbers = facts["drop"], [n for n in facts["numbers"] if n not in facts["drop"]]
        texts = [name for name in facts["texts"] if name not in drop]
        floats = [name for name in facts["floats"] if name not in drop]
        strip, missing, finite = self.strip, frozenset(self.missing), self.infinite_is_missing

        def apply(row: Row) -> None:
            for name in drop:
                del row[name]
            for name in texts:
                text = row[name]
                if text is not None:
                    text = text.strip(BLANKS) if strip else text
                    row[name] = None if text.lower() in missing else text
            if finite:
                for name in floats:
                    if row[name] is not None and math.isinf(row[name]):
                        row[name] = None
            for name in numbers:
                if row[name] is not None:
                    row[name] = number_of(name, row[name])

        return apply


class DropColumns(TableStep, frozen=True, kw_only=True, tag="drop_columns"):
    """The named columns; without names, those of which more than a share is missing."""

    takes_codes = True
    missing_above: float = 0.5

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        if self.columns is not None:
            return Learnt({"drop": list(columns)})
        rows, missing = 0, dict.fromkeys(columns, 0)
        for _, frame in training.columns(columns):
            rows += len(frame)
            for name in columns:
                missing[name] += frame[name].null_count()
        return Learnt({"drop": [n for n in columns if missing[n] > self.missing_above * rows]})

    def chosen(self, training: Stretches) -> tuple[str, ...]:
        """Also columns of types that nothing else works on."""
        if self.columns is None:
            return TableStep.chosen(self, training)
        for name in self.columns:
            check_column(name, training.schema, self.named())
            if name == training.target:
                raise InvalidRequest(
                    f"{name!a} is the target: it is not dropped", hint="take it out of the columns"
                )
        return self.columns

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        return batch.drop(learnt.facts["drop"])

    def of_row(self, learnt: Learnt) -> RowStep:
        drop = learnt.facts["drop"]

        def apply(row: Row) -> None:
            for name in drop:
                del row[name]

        return apply


class Select(TableStep, frozen=True, kw_only=True, tag="select"):
    """These columns alone, in this order, and the target."""

    takes_codes = True

    def __post_init__(self) -> None:
        if not self.columns:
            raise InvalidRequest("Select needs columns", hint='Select(columns=("age", "city"))')

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        kept = [*columns, *([training.target] if training.target else [])]
        return Learnt({"columns": kept, "target": training.target})

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        there = batch.collect_schema().names()
        may_lack = {learnt.facts["target"]} - {*there}
        kept = [name for name in learnt.facts["columns"] if name not in may_lack]
        return batch.select([*kept, *(name for name in there if name in HIDDEN)])

    def of_row(self, learnt: Learnt) -> RowStep:
        kept = frozenset(learnt.facts["columns"])

        def apply(row: Row) -> None:
            for name in [name for name in row if name not in kept]:
                del row[name]

        return apply


class DropMissing(TableStep, frozen=True, kw_only=True, tag="drop_missing"):
    """Rows in which one of the columns is missing go, from frames and datasets. Given as dicts they
    are refused: who sent one waits for its answer."""

    takes_codes = True
    may_take_target = True

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        there = batch.collect_schema()
        return batch.drop_nulls([name for name in learnt.facts["columns"] if name in there])

    def of_row(self, learnt: Learnt) -> RowStep:
        columns = learnt.facts["columns"]

        def apply(row: Row) -> None:
            for name in columns:
                if name in row and row[name] is None:
                    raise InvalidRequest(
                        f"{name!a} is missing, and rows without it are dropped",
                        hint="send it, or have the pipeline impute it",
                    )

        return apply


NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_A_NUMBER = re.compile(NUMBER.replace("$", r"\Z"))
BLANKS = " \t\r\n\f\v\u00a0"  # spelled out: Python and polars do not agree on what is blank


def number_of(name: str, text: str) -> float:
    if _A_NUMBER.search(text) is None or math.isinf(number := float(text)):
        raise InvalidRequest(
            f"{name!a} is {text!a}, and was a number in the training data", hint="send a number"
        )
    return number


def _as_number(name: str) -> "pl.Expr":
    import polars as pl

    text = pl.col(name).cast(pl.String)
    number = text.cast(pl.Float64, strict=False)
    return pl.when(text.str.contains(NUMBER) & number.is_finite()).then(number).alias(name)


class _Copies:
    """Columns that are the same in all rows: groups of equals, which fall apart as rows come."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._groups = [list(columns)] if len(columns) > 1 else []

    def look(self, frame: "pl.DataFrame") -> None:
        groups = []
        for group in self._groups:
            parts: list[list[str]] = []
            for name in group:
                values = decoded(frame.select(name)).to_series()
                for part in parts:
                    other = decoded(frame.select(part[0])).to_series()
                    if values.dtype == other.dtype and values.equals(other, null_equal=True):
                        part.append(name)
                        break
                else:
                    parts.append([name])
            groups += [part for part in parts if len(part) > 1]
        self._groups = groups

    def found(self) -> set[str]:
        return {name for group in self._groups for name in group[1:]}
