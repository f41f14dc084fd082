"""PCA: many columns of numbers become few that hold most of what differs."""

from typing import TYPE_CHECKING

import numpy as np

from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Learnt
from leptonai.data.pipeline.tables.table import Row, RowStep, Stretches, TableStep, as_numbers
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

MAX_COLUMNS = 2000  # taken in: their covariances are 32 MB then


class PCA(TableStep, frozen=True, kw_only=True, tag="pca"):
    """The columns give way to PC_0, PC_1, …, behind all others: what they hold along the directions
    in which the training data differ most. Each direction's largest part is positive.

    Sums are made column by column, and not by matrix multiplication: that one adds in another order
    for one row than for many.
    """

    fits = ("number",)

    components: int = 2
    prefix: str = "pc_"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.components <= MAX_COLUMNS:
            raise InvalidRequest(f"PCA: components are 1 to {MAX_COLUMNS}, not {self.components}")

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        count = len(columns)
        if not self.components <= count <= MAX_COLUMNS:
            raise InvalidRequest(
                f"PCA: {self.components} components of {count} columns",
                hint=f"at most as many as columns, and these at most {MAX_COLUMNS}",
            )
        rows, mean_K, squares_KK = 0, np.zeros(count), np.zeros((count, count))
        for at, frame in training.blocks(columns):
            x_BK = np.column_stack([as_numbers(frame[name]) for name in columns])
            if not len(x_BK):
                continue
            if not np.isfinite(x_BK).all():
                row, column = (int(each) for each in np.argwhere(~np.isfinite(x_BK))[0])
                raise InvalidRequest(
                    f"row {at + row} of the training data: {columns[column]!a} is missing or "
                    "infinite",
                    hint="take Clean and Impute steps first",
                )
            mean = x_BK.mean(0)
            apart, total = mean - mean_K, rows + len(x_BK)
            centred = x_BK - mean
            squares_KK += centred.T @ centred
            squares_KK += np.outer(apart, apart) * (rows * len(x_BK) / total)
            mean_K += apart * (len(x_BK) / total)
            rows = total
        if not rows:
            raise InvalidRequest("PCA: there are no rows to learn from")
        variances, directions_KK = np.linalg.eigh(squares_KK / rows)
        order = np.argsort(-variances, kind="stable")[: self.components]
        directions_CK = directions_KK[:, order].T
        largest = np.abs(directions_CK).argmax(1)
        signs = np.sign(directions_CK[np.arange(len(order)), largest])
        share = variances[order].sum() / max(variances.sum(), np.finfo(np.float64).tiny)
        return Learnt(
            {"columns": list(columns), "share_of_variance": float(share)},
            {"means": mean_K, "directions": directions_CK * signs[:, None]},
        )

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        import polars as pl

        columns = learnt.facts["columns"]
        means, directions_CK = learnt.arrays["means"].tolist(), learnt.arrays["directions"].tolist()
        centred = [
            (pl.col(name).cast(pl.Float64) - mean).alias(name)
            for name, mean in zip(columns, means, strict=True)
        ]
        made = []
        for number, direction in enumerate(directions_CK):
            total = pl.col(columns[0]) * direction[0]
            for name, part in zip(columns[1:], direction[1:], strict=True):
                total = total + pl.col(name) * part
            made.append(total.alias(f"{self.prefix}{number}"))
        return batch.with_columns(centred).with_columns(made).drop(columns)

    def of_row(self, learnt: Learnt) -> RowStep:
        columns, prefix = learnt.facts["columns"], self.prefix
        means, directions_CK = learnt.arrays["means"].tolist(), learnt.arrays["directions"].tolist()

        def apply(row: Row) -> None:
            values = [row.pop(name) for name in columns]
            if None in values:
                for number in range(len(directions_CK)):
                    row[f"{prefix}{number}"] = None
                return
            centred = [value - mean for value, mean in zip(values, means, strict=True)]
            for number, direction in enumerate(directions_CK):
                total = centred[0] * direction[0]
                for at in range(1, len(centred)):
                    total += centred[at] * direction[at]
                row[f"{prefix}{number}"] = total

        return apply
