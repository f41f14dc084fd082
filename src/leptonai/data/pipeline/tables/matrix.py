"""ToMatrix: a table becomes numbers that a model can read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Form, Learnt
from leptonai.data.pipeline.tables.table import Row, RowStep, Stretches, TableStep, type_of
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl


class ToMatrix(TableStep, frozen=True, kw_only=True, tag="to_matrix"):
    """float32 [N, K]: the columns as they are by then, in their order, without the target.

    `missing`: a value that is missing is refused, or NaN.
    """

    gives: ClassVar[Form] = "matrix"
    fits = ("number", "boolean")

    missing: Literal["refuse", "nan"] = "refuse"

    def learn(self, training: Stretches, columns: tuple[str, ...]) -> Learnt:
        for name, dtype in training.schema.items():
            if self.columns is None and name != training.target and name not in columns:
                raise InvalidRequest(
                    f"ToMatrix: {name!a} is {type_of(dtype)}, not a number",
                    hint="encode it first (OneHot, Ordinal, DateFeatures), or drop it",
                )
        if not columns:
            raise InvalidRequest("ToMatrix: no columns are left", hint="see what the steps drop")
        return Learnt({"columns": list(columns)})

    def matrix(
        self, frame: "pl.DataFrame", columns: Sequence[str], numbers: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Of a table that this step has made.

        Args:
            numbers: of the rows, for errors.

        Raises:
            InvalidRequest: a value is missing or too large; says where.
        """
        import polars as pl

        x_BK = np.empty((len(frame), len(columns)), np.float32)
        with np.errstate(over="ignore"):
            for at, name in enumerate(columns):
                x_BK[:, at] = frame[name].cast(pl.Float64).to_numpy()
        self.check(x_BK, columns, numbers)
        return x_BK

    def check(
        self,
        x_BK: NDArray[np.float32],
        columns: Sequence[str],
        numbers: NDArray[np.int64] | None,
    ) -> None:
        finite = np.isfinite(x_BK)
        if self.missing == "nan":
            finite |= np.isnan(x_BK)
        if not finite.all():
            row, column = (int(at) for at in np.argwhere(~finite)[0])
            what = "missing" if np.isnan(x_BK[row, column]) else "infinite, or too large"
            where = "" if numbers is None else f"row {numbers[row]}: "
            raise InvalidRequest(
                f"{where}{columns[column]!a} is {what}",
                hint='take an Impute step first, or ToMatrix(missing="nan")'
                if what == "missing"
                else "take a Clean or a ClipOutliers step first",
            )

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        """Still a table: `matrix` makes arrays of it, once it was collected."""
        return batch

    def of_row(self, learnt: Learnt) -> RowStep:
        def apply(row: Row) -> None:
            pass

        return apply


def row_of(values: list[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.array([values], np.float64).astype(np.float32)
