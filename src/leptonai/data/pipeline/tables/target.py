"""TargetEncode: a category becomes what the target is on average where it stands."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Learnt
from leptonai.data.pipeline.tables.counts import counts_of
from leptonai.data.pipeline.tables.table import (
    ROW,
    Row,
    RowStep,
    Stretches,
    TableStep,
    as_numbers,
    type_of,
)
from leptonai.data.split import mixed
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

MAX_FOLDS = 50


class TargetEncode(TableStep, frozen=True, kw_only=True, tag="target_encode"):
    """(sum of the target where the category is + smoothing x its mean) / (how often + smoothing).

    A row of the training data would find its own target in that, so it gets what the other folds
    teach: each row is in one of `folds`, by its number. What is missing, or unseen, gets the mean.
    A target of two classes counts as 0 and 1, in their order.

    Source: Micci-Barreca 2001, "A preprocessing scheme for high-cardinality categorical
        attributes"; cross-fitting as in Chernozhukov et al. 2018, "Double/debiased machine
        learning".
    """

    fits = ("text", "boolean")

    smoothing: float = 10.0
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.folds <= MAX_FOLDS or not self.smoothing > 0:
            raise InvalidRequest(
                f"TargetEncode: folds are 2 to {MAX_FOLDS}, and smoothing is above 0; not "
                f"{self.folds} and {self.smoothing}"
            )

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        if training.target is None:
            raise InvalidRequest(
                "TargetEncode needs a target", hint='Pipeline([…], target="price")'
            )
        target = training.target
        classes = _two_classes(training, target)
        categories = {name: sorted(counts) for name, counts in counts_of(training, columns).items()}
        sums = {name: np.zeros((self.folds, len(each))) for name, each in categories.items()}
        counts = {name: np.zeros((self.folds, len(each))) for name, each in categories.items()}
        total, rows = np.zeros(self.folds), np.zeros(self.folds)
        for at, frame in training.blocks([*columns, target, ROW]):
            y = _target(frame[target], classes)
            if not np.isfinite(y).all():
                raise InvalidRequest(
                    f"row {at + int(np.flatnonzero(~np.isfinite(y))[0])} of the training data: the "
                    f"target {target!a} is missing or infinite",
                    hint=f'drop such rows: DropMissing(columns=("{target}",))',
                )
            fold = fold_of(frame[ROW].to_numpy(), self.seed, self.folds)
            total += np.bincount(fold, y, self.folds)
            rows += np.bincount(fold, minlength=self.folds)
            for name, known in categories.items():
                if not known:
                    continue
                code = _codes(frame[name], known)
                there = code >= 0
                place = fold[there] * len(known) + code[there]
                size, shape = self.folds * len(known), (self.folds, len(known))
                sums[name] += np.bincount(place, y[there], size).reshape(shape)
                counts[name] += np.bincount(place, minlength=size).reshape(shape)
        if not rows.sum():
            raise InvalidRequest("TargetEncode: there are no rows to learn from")
        arrays = {"means": _means(total, rows)}
        for number, name in enumerate(columns):
            arrays[f"{number}.values"] = self._values(sums[name], counts[name], arrays["means"])
        return Learnt({"columns": list(columns), "categories": categories}, arrays)

    def _values(
        self, sums_FC: NDArray[Any], counts_FC: NDArray[Any], means: NDArray[Any]
    ) -> NDArray[np.float64]:
        """[folds + 1, C]: what each fold gets of the others, and last what all teach."""
        without_FC = np.vstack([sums_FC.sum(0) - sums_FC, sums_FC.sum(0)])
        number_FC = np.vstack([counts_FC.sum(0) - counts_FC, counts_FC.sum(0)])
        made: NDArray[np.float64] = (without_FC + self.smoothing * means[:, None]) / (
            number_FC + self.smoothing
        )
        return made

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        import polars as pl

        names = learnt.facts["columns"]
        has_rows = ROW in batch.collect_schema()
        means = learnt.arrays["means"]
        seed, folds = self.seed, self.folds

        def encoded(number: int, name: str) -> "pl.Expr":
            known = learnt.facts["categories"][name]
            values = learnt.arrays[f"{number}.values"]
            padded = np.column_stack([values, means])  # -1, the last, is whatever is not known

            def look_up(columns: "pl.Series") -> "pl.Series":
                fields = columns.struct.unnest()
                code = _codes(fields[name], known)
                row = np.full(len(code), folds)
                if has_rows:
                    numbers = fields[ROW]
                    is_training = numbers.is_not_null().to_numpy()
                    of = fold_of(numbers.fill_null(0).to_numpy(), seed, folds)
                    row = np.where(is_training, of, row)
                return pl.Series(name, padded[row, code])

            columns = pl.struct([name, ROW] if has_rows else [name])
            return columns.map_batches(look_up, return_dtype=pl.Float64).alias(name)

        return batch.with_columns(encoded(number, name) for number, name in enumerate(names))

    def of_row(self, learnt: Learnt) -> RowStep:
        """One row alone is none of the training data."""
        mean = float(learnt.arrays["means"][-1])
        told = []
        for number, name in enumerate(learnt.facts["columns"]):
            values = learnt.arrays[f"{number}.values"][-1].tolist()
            known = dict(zip(learnt.facts["categories"][name], values, strict=True))
            told.append((name, known))

        def apply(row: Row) -> None:
            for name, known in told:
                row[name] = known.get(row[name], mean)

        return apply


def fold_of(rows: NDArray[np.int64], seed: int, folds: int) -> NDArray[np.int64]:
    drawn = mixed(rows.astype(np.uint64), seed) >> np.uint64(11)
    return (drawn % np.uint64(folds)).astype(np.int64)


def _means(total: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """[folds + 1]: without each fold, and last of all."""
    sums = np.append(total.sum() - total, total.sum())
    counts = np.append(rows.sum() - rows, rows.sum())
    whole = total.sum() / rows.sum()
    made: NDArray[np.float64] = np.where(counts > 0, sums / np.maximum(counts, 1), whole)
    return made


def _codes(values: "pl.Series", known: list[Any]) -> NDArray[np.int64]:
    """Of each value its place; -1 for what is missing or not among them."""
    import polars as pl

    if not known:
        return np.full(len(values), -1)
    found = values.replace_strict(
        known, list(range(len(known))), default=None, return_dtype=pl.Int64
    )
    return found.fill_null(-1).to_numpy()


def _two_classes(training: Stretches, target: str) -> list[Any] | None:
    """None where the target is a number."""
    if type_of(training.schema[target]) == "number":
        return None
    classes = sorted(counts_of(training, [target])[target])
    if len(classes) != 2:
        raise InvalidRequest(
            f"TargetEncode: the target {target!a} has {len(classes)} classes",
            hint="it is for numbers and for two classes; OneHot or HashEncode the column instead",
        )
    return classes


def _target(values: "pl.Series", classes: list[Any] | None) -> NDArray[np.float64]:
    import polars as pl

    if classes is None:
        return as_numbers(values)
    return as_numbers(values.replace_strict(classes, [0, 1], default=None, return_dtype=pl.Int64))
