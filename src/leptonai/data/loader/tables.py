"""Batches of a table: it is transformed once, and then rows of numbers are picked.

Into memory where it fits, else into a file of the cache, named by the digests of data and pipeline,
which is mapped: so another run, or another rank, finds it there.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leptonai.data.kinds import LABEL_COLUMNS
from leptonai.data.loader.batches import Made
from leptonai.data.shelf import shelf_of, write_all, writing
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.data.dataset import Dataset
    from leptonai.data.pipeline import Pipeline

MEMORY_BYTES = 1 << 30  # of a transformed table; a larger one goes to the cache

Arrays = tuple[NDArray[np.float32], NDArray[Any] | None]


class TableRows:
    """(x [B, K] of float32, y [B]), or x alone where there is no target."""

    decodes = False

    def __init__(
        self,
        dataset: "Dataset",
        pipeline: "Pipeline | None" = None,
        *,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """
        Args:
            pipeline: one that is fitted, and ends with ToMatrix. Without one, the columns have to
                be numbers, and the one that is called like a label, if there is one, is y.

        Raises:
            InvalidRequest: a row is not as the pipeline's training data was; says which.
            StorageFull: the disk of the cache is full.
        """
        pipeline = pipeline or _numbers_of(dataset)
        if pipeline.gives != "matrix":
            raise InvalidRequest(
                "the pipeline gives a table, and a model takes numbers",
                hint="let it end with ToMatrix()",
            )
        self.pipeline = pipeline
        named = hashlib.sha256(f"{dataset.digest} {pipeline.digest}".encode()).hexdigest()
        self.digest: str | None = f"sha256:{named}"
        row_bytes = 4 * len(pipeline.columns) + 8
        if row_bytes * len(dataset) <= memory_bytes:
            self._x_NK, self._y_N = _in_memory(dataset, pipeline)
        else:
            place = shelf_of(None).place.parent / "tables" / named
            self._x_NK, self._y_N = _in_cache(dataset, pipeline, place)
        if not len(self._x_NK):
            raise InvalidRequest("the steps drop every row", hint="impute what is missing")

    def __len__(self) -> int:
        return len(self._x_NK)

    def make(self, at_B: NDArray[np.int64]) -> Made:
        x_BK = self._x_NK.take(at_B, axis=0)
        return Made(x_BK if self._y_N is None else (x_BK, self._y_N.take(at_B)))


def _numbers_of(dataset: "Dataset") -> "Pipeline":
    """What makes a matrix of a table that is one already."""
    from leptonai.data.pipeline import Pipeline, ToMatrix

    names = [each.name for each in dataset.schema]
    target = next((n for wanted in LABEL_COLUMNS for n in names if n.lower() == wanted), None)
    for each in dataset.schema:
        if each.name != target and each.type not in ("integer", "number", "boolean"):
            raise InvalidRequest(
                f"the column {each.name!a} is {each.type}, not a number",
                hint="make numbers of it with a pipeline: DataLoader(dataset, pipeline=pipeline)",
            )
    return Pipeline([ToMatrix()], target=target).fit_on_all(dataset.whole())


def _stretches(dataset: "Dataset", pipeline: "Pipeline") -> Iterator[Arrays]:
    tabular = pipeline.tabular
    at = 0
    for frame, rows in tabular.stretches(dataset):
        yield tabular.arrays(tabular.frame(frame, rows, at=at))
        at += len(frame)


def _in_memory(dataset: "Dataset", pipeline: "Pipeline") -> Arrays:
    x_NK = np.empty((len(dataset), len(pipeline.columns)), np.float32)
    labels, at = [], 0
    for x_BK, y_B in _stretches(dataset, pipeline):
        x_NK[at : at + len(x_BK)] = x_BK
        at += len(x_BK)
        if y_B is not None:
            labels.append(y_B)
    return x_NK[:at], np.concatenate(labels) if labels else None


def _in_cache(dataset: "Dataset", pipeline: "Pipeline", place: Path) -> Arrays:
    """Two files: x and y, row after row. The folder appears when both are whole."""
    if not place.is_dir():
        beside = place.with_name(f"{place.name}.{os.getpid()}.partial")
        with writing(place.parent):
            beside.mkdir(parents=True, exist_ok=True)
            try:
                _write(dataset, pipeline, beside)
                try:
                    beside.rename(place)
                except OSError:
                    if not place.is_dir():  # nobody else was faster
                        raise
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    x_N = np.memmap(place / "x.f32", np.float32, "r")
    labels = [path for path in place.iterdir() if path.name.startswith("y.")]
    y_N = np.memmap(labels[0], np.dtype(labels[0].suffix[1:]), "r") if labels else None
    return x_N.reshape(-1, len(pipeline.columns)), y_N


def _write(dataset: "Dataset", pipeline: "Pipeline", beside: Path) -> None:
    with (beside / "x.f32").open("wb", buffering=0) as x_file:
        label_file = None
        try:
            for x_BK, y_B in _stretches(dataset, pipeline):
                write_all(x_file.fileno(), x_BK.tobytes())
                if y_B is not None:
                    if label_file is None:
                        label_file = (beside / f"y.{y_B.dtype.str[1:]}").open("wb", buffering=0)
                    write_all(label_file.fileno(), np.ascontiguousarray(y_B).tobytes())
        finally:
            if label_file is not None:
                label_file.close()
