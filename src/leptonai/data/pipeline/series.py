"""Steps over series. How a table becomes windows is `leptonai.data.series.windows`."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Batch, Form, Learnt, Step, Training
from leptonai.errors import InvalidRequest


class StandardiseSeries(Step, frozen=True, kw_only=True, tag="standardise_series"):
    """float32 [B, T, K]: each column with mean 0 and deviation 1 over the training windows. A
    constant one becomes 0."""

    takes: ClassVar[Form] = "series"
    gives: ClassVar[Form] = "series"

    def fit(self, training: Training) -> Learnt:
        """Source: Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance"."""
        count, mean, squares = 0, np.zeros(1), np.zeros(1)
        for batch in training():
            rows = _checked(batch).astype(np.float64).reshape(-1, batch.shape[2])
            if not len(rows):
                continue
            if count:
                _check_columns(rows.shape[1], len(mean))
            own = rows.mean(0)
            apart, share = own - mean, len(rows) / (count + len(rows))
            squares = squares + np.square(rows - own).sum(0) + np.square(apart) * count * share
            mean = mean + apart * share
            count += len(rows)
        if not count:
            raise InvalidRequest(
                "there are no windows to learn from", hint="check how they are cut"
            )
        return Learnt({"mean": mean.tolist(), "deviation": np.sqrt(squares / count).tolist()})

    def transform(
        self, batch: Batch, learnt: Learnt, chance: Chance | None = None
    ) -> NDArray[np.float32]:
        series = _checked(batch)
        mean, deviation = (
            np.array(learnt.fact(name, list[float])) for name in ("mean", "deviation")
        )
        _check_columns(series.shape[2], len(mean))
        _check_columns(series.shape[2], len(deviation))
        constant = deviation <= 1e-12 * np.maximum(1.0, np.abs(mean))
        factor = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
        standard: NDArray[np.float32] = ((series - mean) * factor).astype(np.float32)
        return standard


def _checked(batch: Any) -> NDArray[Any]:
    if not isinstance(batch, np.ndarray) or batch.ndim != 3 or batch.dtype.kind not in "biuf":
        told = f"{list(batch.shape)} of {batch.dtype}" if hasattr(batch, "dtype") else type(batch)
        raise InvalidRequest(
            f"series are an array of numbers [windows, rows, columns], not {told}",
            hint="Windowing(…).of(frame) makes them; of one window, it is window[None]",
        )
    if not np.isfinite(batch).all():
        window, row, column = np.argwhere(~np.isfinite(batch))[0].tolist()
        raise InvalidRequest(
            f"window {window}, row {row}, column {column} is {batch[window, row, column]}",
            hint="fill gaps first: leptonai.data.series.frames.regular",
        )
    return batch


def _check_columns(columns: int, learnt: int) -> None:
    if columns != learnt:
        raise InvalidRequest(
            f"series of {columns} columns, where the training data has {learnt}",
            hint="the same columns in the same order",
        )
