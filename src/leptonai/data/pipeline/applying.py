"""A fitted pipeline over a whole table, into Parquet files: one folder a part, chunk by chunk.

A chunk is a fixed stretch of all the rows, whoever works on it, so that any number of workers write
the same files to the last byte. Each writes one file into each part's folder.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from leptonai.data.frames import Table
from leptonai.data.manifest import Field
from leptonai.data.pipeline.pipeline import Pipeline
from leptonai.data.pipeline.tables.admission import Admission, fields_of
from leptonai.data.pipeline.tables.staging import Staged, Staging
from leptonai.data.pipeline.tables.table import Row
from leptonai.data.pipeline.tables.tabular import MEMORY_LIMIT_BYTES, fit_staged, with_hidden
from leptonai.data.pipeline.training import fitted_on, taught, training_part
from leptonai.data.shelf import writing
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

    from leptonai.data.dataset import Dataset
    from leptonai.data.pipeline.tables.tabular import Tabular

STRETCHES = 2  # of a chunk: a file is not too small, and memory holds one stretch
MAX_WORKERS = 64
WORKER_BYTES = 256 << 20  # that work on one chunk takes at most, about
ROOM_FOR_TWO_BYTES = 1 << 30  # from such a limit on two chunks are worked on, if nobody says
PartFrame: TypeAlias = "tuple[str, pl.LazyFrame]"  # rows of one part
PIPELINE_FILE = "pipeline.safetensors"  # beside the tables that it made


def apply(
    pipeline: Pipeline,
    parts: "Mapping[str, Dataset]",
    into: Path,
    *,
    workers: int | None = None,
    memory_limit_bytes: int | None = None,
) -> list[Path]:
    """Write all rows of the parts, which are parts of the same records.

    Args:
        parts: their names, "" for rows that are to lie in no folder.
        workers: chunks at once, as far as memory allows. Two, if not given and memory allows it:
            one is made while the other is written.

    Returns:
        The files, in their order.

    Raises:
        InvalidRequest: a row is not as the training data was; says which. Or no row is left.
        StorageFull: the disk of `into` is full.
    """
    divided = Divided(pipeline, parts)
    every = range(divided.chunks)
    return some_of(
        divided.apply(every, into, workers=workers, memory_limit_bytes=memory_limit_bytes)
    )


def fit_and_apply(
    pipeline: Pipeline,
    parts: "Mapping[str, Dataset]",
    into: Path,
    *,
    workers: int | None = None,
    memory_limit_bytes: int | None = None,
) -> list[Path]:
    """Fit on the part `train`, or on the only one; then write them all. As `fit` and `apply` one
    after the other, but the text is parsed once."""
    name, teacher = teaching_part(parts)
    part, rows = training_part(teacher), teacher.chosen
    if part is not teacher or (rows is not None and bool((np.diff(rows) < 0).any())):
        pipeline.fit(part, memory_limit_bytes=memory_limit_bytes)  # not all of it, or not in order
        return apply(pipeline, parts, into, workers=workers, memory_limit_bytes=memory_limit_bytes)
    table = Divided(pipeline, parts)
    on, members = fitted_on(part)
    with Staging(
        lambda: table.teaching(name, pipeline.target), memory_limit_bytes or MEMORY_LIMIT_BYTES
    ) as staged:
        fitted = fit_staged(pipeline, staged, name, table.takes, on, members)
        pipeline.has_learnt(fitted)
        tabular = pipeline.tabular

        def one(chunk: tuple[int, list[PartFrame]]) -> list[Path]:
            return table.write(chunk[0], tabular, chunk[1], into, done=staged.steps_done)

        chunks = (
            (number, [(part, frame) for _, part, frame in frames])
            for number, frames in groupby(staged.read_all(), lambda each: each[0] // STRETCHES)
        )
        return _at_once(one, chunks, workers, memory_limit_bytes)


def some_of(files: list[Path]) -> list[Path]:
    """Raises:
    InvalidRequest: there are none.
    """
    if not files:
        raise InvalidRequest("the steps drop every row", hint="impute what is missing")
    return files


def _at_once(
    one: "Callable[[Any], list[Path]]",
    chunks: Iterable[Any],
    workers: int | None,
    memory_limit_bytes: int | None,
) -> list[Path]:
    if workers is None:
        workers = 2 if (memory_limit_bytes or MEMORY_LIMIT_BYTES) >= ROOM_FOR_TWO_BYTES else 1
    if memory_limit_bytes is not None:
        workers = min(workers, memory_limit_bytes // WORKER_BYTES)
    with ThreadPoolExecutor(max(1, min(workers, MAX_WORKERS)), "lepton-apply") as pool:
        return sorted(path for paths in pool.map(one, chunks) for path in paths)


class Divided:
    """The rows of all parts, stretch by stretch, in each those of one part after those of another:
    so each is transformed for itself, and nothing has to be picked out of what was made."""

    def __init__(self, pipeline: Pipeline, parts: "Mapping[str, Dataset]") -> None:
        if pipeline.takes != "table":
            raise InvalidRequest(
                f"the pipeline takes {pipeline.takes}, not a table",
                hint="give it to a DataLoader: DataLoader(dataset, pipeline=pipeline)",
            )
        first = next(iter(parts.values()))
        self._pipeline = pipeline
        self._names = list(parts)
        self._part_of, rows = _rows_of(parts)
        all_of_them = len(rows) == len(self._part_of)
        self._table = Table(first.records, None if all_of_them else rows, coded=True)
        self._of_stretch = self._table.stretch_rows()
        self._whole = first.whole()

    @property
    def chunks(self) -> int:
        return -(-len(self._table) // (self._of_stretch * STRETCHES))

    @property
    def takes(self) -> tuple[Field, ...]:
        return fields_of(self._table.frame_of(np.arange(0)))

    def teaching(self, teacher: str, target: str | None) -> Iterator[Staged]:
        """All rows, for a pipeline that learns from one part."""
        admission = Admission(self.takes, target)
        number = self._names.index(teacher)
        for stretch, (rows, frame) in enumerate(self._table.stretches(rows=self._of_stretch)):
            taught = np.where(self._part_of[rows] == number, rows, -1)
            for part, each in self._parts(admission, rows, frame, taught):
                yield Staged(stretch, part, each)

    def apply(
        self,
        chunks: Iterable[int],
        into: Path,
        *,
        workers: int | None = None,
        memory_limit_bytes: int | None = None,
    ) -> list[Path]:
        """Write these chunks with a pipeline that has learnt. See `apply`."""
        tabular = self._pipeline.tabular

        def one(chunk: int) -> list[Path]:
            return self.write(chunk, tabular, self._chunk(chunk, tabular), into, done=0)

        return _at_once(one, chunks, workers, memory_limit_bytes)

    def _chunk(self, number: int, tabular: "Tabular") -> "Iterator[PartFrame]":
        known = taught(tabular.fitted, self._whole)
        wanted = [each.name for each in tabular.fitted.takes if each.name in self._table.schema]
        size = self._of_stretch * STRETCHES
        for rows, frame in self._table.stretches(
            wanted,
            first=number * size,
            last=min((number + 1) * size, len(self._table)),
            rows=self._of_stretch,
        ):
            of_these = None if known is None else np.where(known[rows], rows, -1)
            for part, each in self._parts(tabular.admission, rows, frame, of_these):
                yield part, each.lazy()

    def _parts(
        self,
        admission: Admission,
        rows: NDArray[np.int64],
        frame: "pl.DataFrame",
        taught: NDArray[np.int64] | None,
    ) -> "Iterator[tuple[str, pl.DataFrame]]":
        hidden = with_hidden(admission.frame(frame, int(rows[0])), rows, taught)
        of_row = self._part_of[rows]
        for number, name in enumerate(self._names):
            mine = of_row == number
            if mine.any():
                yield name, hidden if mine.all() else hidden.filter(mine)

    def write(
        self,
        chunk: int,
        tabular: "Tabular",
        frames: "Iterable[PartFrame]",
        into: Path,
        *,
        done: int,
    ) -> list[Path]:
        writers: dict[str, _Writer] = {}
        with writing(into):
            try:
                for part, frame in frames:
                    made = tabular.made(frame, self._given, done=done)
                    if len(made):
                        if part not in writers:
                            writers[part] = _Writer(into / part / f"{chunk:05d}.parquet")
                        writers[part].add(tabular.output_frame(made))
                return [writer.keep() for writer in writers.values()]
            finally:
                for writer in writers.values():
                    writer.close()

    def _given(self, row: int) -> Row:
        return Table(self._table.records).frame_of(np.array([row])).row(0, named=True)


class _Writer:
    """A Parquet file, group of rows by group; there when it is whole."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def teaching_part(parts: "Mapping[str, Dataset]") -> "tuple[str, Dataset]":
    """The part `train`, or the only one; and its name."""
    if "train" in parts:
        return "train", parts["train"]
    if len(parts) > 1:
        raise InvalidRequest(
            f"of the parts {', '.join(parts)} none is to learn from", hint="call one train"
        )
    return next(iter(parts.items()))
