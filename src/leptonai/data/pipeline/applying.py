"""A fitted pipeline over a whole table, into Parquet files: one folder a part, chunk by chunk.

A chunk is a fixed stretch of all the rows, whoever works on it, so that any number of workers write
the same files to the last byte. Each writes one file into each part's folder.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leptonai.data.frames import Table
from leptonai.data.pipeline.pipeline import Pipeline
from leptonai.data.shelf import writing
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

    from leptonai.data.dataset import Dataset
    from leptonai.data.pipeline.tables.tabular import Tabular

STRETCHES = 2  # of a chunk: a file is not too small, and memory holds one stretch
MAX_WORKERS = 64
WORKER_BYTES = 256 << 20  # that work on one chunk takes at most, about
PIPELINE_FILE = "pipeline.safetensors"  # beside the tables that it made


def apply(
    pipeline: Pipeline,
    parts: "Mapping[str, Dataset]",
    into: Path,
    *,
    workers: int = 1,
    memory_limit_bytes: int | None = None,
    chunks: Sequence[int] | None = None,
) -> list[Path]:
    """Write all rows of the parts, which are parts of the same records.

    Args:
        parts: their names, "" for rows that are to lie in no folder.
        workers: chunks at once, as far as memory allows.
        chunks: only these; all by default.

    Returns:
        The files, in their order.

    Raises:
        InvalidRequest: a row is not as the training data was; says which. Or no row is left.
        StorageFull: the disk of `into` is full.
    """
    work = _Work(pipeline, parts, into)
    wanted = range(work.chunks) if chunks is None else chunks
    if memory_limit_bytes is not None:
        workers = min(workers, memory_limit_bytes // WORKER_BYTES)
    with ThreadPoolExecutor(max(1, min(workers, MAX_WORKERS)), "lepton-apply") as pool:
        found = [path for paths in pool.map(work.one, wanted) for path in paths]
    if not found and chunks is None:
        raise InvalidRequest("the steps drop every row", hint="impute what is missing")
    return sorted(found)


class _Work:
    def __init__(self, pipeline: Pipeline, parts: "Mapping[str, Dataset]", into: Path) -> None:
        if pipeline.takes != "table":
            raise InvalidRequest(
                f"the pipeline takes {pipeline.takes}, not a table",
                hint="give it to a DataLoader: DataLoader(dataset, pipeline=pipeline)",
            )
        self._tabular: Tabular = pipeline.tabular
        first = next(iter(parts.values()))
        self._names = list(parts)
        self._into = into
        self._part_of, self._rows = _rows_of(parts)
        self._of_chunk = Table(first.records, self._rows).stretch_rows() * STRETCHES
        self._whole = first.whole()
        for name in parts:
            (into / name).mkdir(parents=True, exist_ok=True)

    @property
    def chunks(self) -> int:
        return -(-len(self._rows) // self._of_chunk)

    def one(self, chunk: int) -> list[Path]:
        rows = self._rows[chunk * self._of_chunk : (chunk + 1) * self._of_chunk]
        part = self._whole.only(rows)
        writers: dict[str, _Writer] = {}
        found: list[Path] = []
        with writing(self._into):
            try:
                at = 0
                for frame, numbers in self._tabular.stretches(part):
                    of_row = self._part_of[rows[at : at + len(frame)]]
                    made = self._tabular.frame(frame, numbers, at=int(rows[at]))
                    for name, each in self._divided(made, of_row, int(rows[at])):
                        if name not in writers:
                            path = self._into / name / f"{chunk:05d}.parquet"
                            writers[name] = _Writer(path)
                        writers[name].add(each)
                    at += len(frame)
                found += [writer.keep() for writer in writers.values()]
            finally:
                for writer in writers.values():
                    writer.close()
        return found

    def _divided(
        self, made: "pl.DataFrame", of_row: NDArray[np.int16], first: int
    ) -> "Iterator[tuple[str, pl.DataFrame]]":
        output = self._tabular.output_frame(made)
        at = made["__at__"].to_numpy() - first
        for number, name in enumerate(self._names):
            mine = of_row[at] == number
            if mine.any():
                yield name, output if mine.all() else output.filter(mine)


class _Writer:
    """A Parquet file, group of rows by group; there when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._frames: list[pl.DataFrame] = []

    def add(self, frame: "pl.DataFrame") -> None:
        self._frames.append(frame)

    def keep(self) -> Path:
        import polars as pl

        pl.concat(self._frames).write_parquet(
            self._beside, compression="lz4", statistics=False, row_group_size=1 << 17
        )
        self._beside.replace(self._path)
        return self._path

    def close(self) -> None:
        self._frames = []
        self._beside.unlink(missing_ok=True)


def _rows_of(parts: "Mapping[str, Dataset]") -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Of each of the records' rows the number of its part, or -1; and the rows that have one."""
    first = next(iter(parts.values()))
    part_of = np.full(len(first.records), -1, np.int16)
    for number, part in enumerate(parts.values()):
        if part.records.digest != first.records.digest:
            raise InvalidRequest("the parts are of different data")
        part_of[slice(None) if part.chosen is None else part.chosen] = number
    rows = np.flatnonzero(part_of >= 0)
    if len(rows) != sum(map(len, parts.values())):
        raise InvalidRequest("a row is in two parts, or twice in one", hint="divide the data again")
    return part_of, rows


def parts_of(dataset: "Dataset", shares: Mapping[str, float], seed: int) -> "dict[str, Dataset]":
    """By shares; else the parts that the data has; else all of it, in no folder."""
    if shares:
        return dataset.split(seed=seed, stratify=False, **shares)
    try:
        return dataset.split()
    except InvalidRequest:
        return {"": dataset}


def facts_of(pipeline: Pipeline) -> dict[str, Any]:
    """What a person wants to know of one."""
    from leptonai.data.pipeline.pipeline import spec_of

    fitted = pipeline.fitted
    return {
        "digest": pipeline.digest,
        "takes": pipeline.takes,
        "gives": pipeline.gives,
        "columns_in": {each.name: each.type for each in fitted.takes},
        "columns_out": list(fitted.gives),
        "target": pipeline.target,
        "classes": None if fitted.classes is None else list(fitted.classes),
        "fitted_on": {
            "reference": fitted.on.reference,
            "part": fitted.on.part,
            "samples": fitted.on.samples,
            "digest": fitted.on.digest,
        },
        "made_by": dict(fitted.made_by),
        **spec_of(pipeline),
    }


def fit_and_apply(
    pipeline: Pipeline,
    parts: "Mapping[str, Dataset]",
    into: Path,
    *,
    memory_limit_bytes: int | None = None,
    workers: int = 1,
) -> list[Path]:
    """Fit on the part `train`, or on the only one; then write them all."""
    pipeline.fit(teaching_part(parts), memory_limit_bytes=memory_limit_bytes)
    return apply(pipeline, parts, into, workers=workers, memory_limit_bytes=memory_limit_bytes)


def teaching_part(parts: "Mapping[str, Dataset]") -> "Dataset":
    """The part `train`, or the only one."""
    if "train" in parts:
        return parts["train"]
    if len(parts) > 1:
        raise InvalidRequest(
            f"of the parts {', '.join(parts)} none is to learn from", hint="call one train"
        )
    return next(iter(parts.values()))
