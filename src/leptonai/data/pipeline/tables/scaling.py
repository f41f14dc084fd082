"""Scale and ClipOutliers: numbers of one size, within what is usual."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NoReturn

from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Learnt
from leptonai.data.pipeline.tables.statistics import Numbers, moments, quantiles
from leptonai.data.pipeline.tables.table import Row, RowStep, Stretches, TableStep
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

NORMAL = 1.4826  # a normal distribution's deviation in median distances to the median


class Scale(TableStep, frozen=True, kw_only=True, tag="scale"):
    """(value - learnt offset) x learnt factor. A column without any spread becomes 0.

    `standard`: mean 0, deviation 1. `min_max`: from 0 to 1. `robust`: median 0, and the middle half
    of the values has the width 1.
    """

    fits = ("number",)
    takes_codes = True

    method: Literal["standard", "min_max", "robust"] = "standard"

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        def read() -> Iterator[list[Numbers]]:
            return training.numbers(columns)

        offsets, widths = [], []
        if self.method == "robust":
            for name, found in zip(
                columns, quantiles(read, len(columns), [0.25, 0.5, 0.75]), strict=True
            ):
                low, middle, high = found or _no_values(self, name)
                offsets.append(middle)
                widths.append(high - low)
        else:
            for name, each in zip(columns, moments(read, len(columns)), strict=True):
                if not each.count:
                    _no_values(self, name)
                standard = self.method == "standard"
                offsets.append(each.mean if standard else each.least)
                widths.append(each.deviation if standard else each.most - each.least)
        return Learnt(
            {
                "columns": list(columns),
                "offsets": offsets,
                "factors": [1.0 / width if width > 0 else 0.0 for width in widths],
            }
        )

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        import polars as pl

        return batch.with_columns(
            (pl.col(name).cast(pl.Float64) - offset) * factor
            for name, offset, factor in _told(learnt, "offsets", "factors")
        )

    def of_row(self, learnt: Learnt) -> RowStep:
        told = _told(learnt, "offsets", "factors")

        def apply(row: Row) -> None:
            for name, offset, factor in told:
                if row[name] is not None:
                    row[name] = (row[name] - offset) * factor

        return apply


class ClipOutliers(TableStep, frozen=True, kw_only=True, tag="clip_outliers"):
    """Numbers beyond the learnt limits become the limits.

    `iqr`: the middle half of the values, and `factor` times its width on each side (1.5 if not
    given). `z`: the mean and `factor` deviations (3). `mad`: the median and `factor` times the
    median distance to it, scaled to be a deviation where the values are normal (3.5).
    """

    fits = ("number",)
    takes_codes = True

    method: Literal["iqr", "z", "mad"] = "iqr"
    factor: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor is not None and not self.factor > 0:
            raise InvalidRequest(f"ClipOutliers: factor is above 0, not {self.factor}")

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        def read() -> Iterator[list[Numbers]]:
            return training.numbers(columns)

        factor = self.factor or {"iqr": 1.5, "z": 3.0, "mad": 3.5}[self.method]
        limits: list[tuple[float, float]] = []
        if self.method == "iqr":
            for name, found in zip(
                columns, quantiles(read, len(columns), [0.25, 0.75]), strict=True
            ):
                low, high = found or _no_values(self, name)
                limits.append((low - factor * (high - low), high + factor * (high - low)))
        elif self.method == "z":
            for name, each in zip(columns, moments(read, len(columns)), strict=True):
                if not each.count:
                    _no_values(self, name)
                away = factor * each.deviation
                limits.append((each.mean - away, each.mean + away))
        else:
            middles = [
                (found or _no_values(self, name))[0]
                for name, found in zip(columns, quantiles(read, len(columns), [0.5]), strict=True)
            ]

            def distances() -> Iterator[list[Numbers]]:
                for stretch in read():
                    yield [abs(v - m) for v, m in zip(stretch, middles, strict=True)]

            for middle, distance in zip(
                middles, quantiles(distances, len(columns), [0.5]), strict=True
            ):
                assert distance is not None
                away = factor * NORMAL * distance[0]
                limits.append((middle - away, middle + away))
        return Learnt(
            {
                "columns": list(columns),
                "least": [low for low, _ in limits],
                "most": [high for _, high in limits],
            }
        )

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        import polars as pl

        return batch.with_columns(
            pl.col(name).cast(pl.Float64).clip(low, high)
            for name, low, high in _told(learnt, "least", "most")
        )

    def of_row(self, learnt: Learnt) -> RowStep:
        told = _told(learnt, "least", "most")

        def apply(row: Row) -> None:
            for name, low, high in told:
                value = row[name]
                if value is not None:
                    row[name] = low if value < low else high if value > high else float(value)

        return apply


def _told(learnt: Learnt, one: str, other: str) -> list[tuple[str, float, float]]:
    facts = learnt.facts
    return list(zip(facts["columns"], facts[one], facts[other], strict=True))


def _no_values(step: TableStep, name: str) -> NoReturn:
    raise InvalidRequest(
        f"{step.named()}: {name!a} is missing in every row of the training data",
        hint="drop it first: Clean() does, or DropColumns()",
    )
