"""`Tabular`: a fitted pipeline over tables, rows and frames; and `fit_table`, which fits one."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leptonai.data.coded import decoded
from leptonai.data.frames import Table
from leptonai.data.pipeline.saving import FittedOn
from leptonai.data.pipeline.step import Learnt, Step
from leptonai.data.pipeline.tables.admission import Admission, fields_of, in_fields
from leptonai.data.pipeline.tables.matrix import ToMatrix, row_of
from leptonai.data.pipeline.tables.staging import Staged, Staging
from leptonai.data.pipeline.tables.table import (
    AT,
    HIDDEN,
    REFUSED,
    ROW,
    Row,
    Stretches,
    TableStep,
)
from leptonai.data.pipeline.training import fitted_on, is_dataset, taught
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

    from leptonai.data.pipeline.pipeline import Fitted, Pipeline

FEW_ROWS = 64  # up to so many are faster one by one
MEMORY_LIMIT_BYTES = 2 << 30


class Tabular:
    def __init__(self, steps: Sequence[Step], target: str | None, fitted: "Fitted") -> None:
        self.steps = [step for step in steps if isinstance(step, TableStep)]
        assert len(self.steps) == len(steps)
        self.target = target
        self.fitted = fitted
        self.admission = Admission(fitted.takes, target)
        self._apply = [
            step.of_row(learnt) for step, learnt in zip(self.steps, fitted.learnt, strict=True)
        ]
        self._class_of = (
            None
            if fitted.classes is None
            else {value: number for number, value in enumerate(fitted.classes)}
        )
        last = self.steps[-1]
        self._matrix = last if isinstance(last, ToMatrix) else None

    def transform(self, batch: Any, *, is_training: bool = False) -> Any:
        import polars as pl

        if isinstance(batch, Mapping):
            if any(isinstance(v, list | np.ndarray | pl.Series) for v in batch.values()):
                return self._output(
                    self.frame(in_fields(pl.DataFrame(dict(batch)), self.fitted.takes))
                )
            return self._one(batch)
        if isinstance(batch, pl.LazyFrame):
            batch = batch.collect()
        if isinstance(batch, pl.DataFrame):
            rows = np.arange(len(batch)) if is_training else None
            return self._output(self.frame(batch, rows))
        if is_dataset(batch):
            parts = [self.frame(frame, rows) for frame, rows in self.stretches(batch)]
            return self._output(pl.concat(parts) if parts else self.frame(pl.DataFrame()))
        if isinstance(batch, Sequence) and all(isinstance(row, Mapping) for row in batch):
            return self._several(batch)
        raise InvalidRequest(
            f"a {type(batch).__name__} is no table",
            hint="give a row as a dict, a list of such, a polars frame, or a Dataset",
        )

    def stretches(
        self, dataset: Any, *, first: int = 0, last: int | None = None
    ) -> "Iterator[tuple[pl.DataFrame, NDArray[np.int64] | None]]":
        """A Dataset's rows, with the numbers of those that taught, and -1 for others."""
        table: Table = dataset.table()
        known = taught(self.fitted, dataset)
        wanted = [each.name for each in self.fitted.takes if each.name in table.schema]
        at = first
        for rows, frame in table.stretches(wanted, first=first, last=last):
            of_these = None
            if known is not None:
                of_these = np.where(known[at : at + len(rows)], rows, -1)
            at += len(rows)
            yield frame, of_these

    # --- frames ----------------------------------------------------------------------------------

    def frame(
        self, frame: "pl.DataFrame", rows: NDArray[np.int64] | None = None, *, at: int = 0
    ) -> "pl.DataFrame":
        """As the last step leaves it, with the target if it is there.

        Args:
            rows: of each row its number, if it taught the pipeline; -1 else.
            at: number of the first row, for errors.
        """
        numbers = np.arange(at, at + len(frame))
        hidden = with_hidden(self.admission.frame(frame, at), numbers, rows)
        return self.made(hidden.lazy(), lambda row: frame.row(row - at, named=True))

    def made(
        self, frame: "pl.LazyFrame", given: Callable[[int], Row], *, done: int = 0
    ) -> "pl.DataFrame":
        """What the last step leaves of an admitted frame with the hidden columns.

        Args:
            given: a row as it came, by its number, for errors.
            done: how many of the steps it has gone through.
        """
        last = transformed(frame, self.steps[done:], self.fitted.learnt[done:])
        made = decoded(last).collect()
        refused = made[REFUSED].arg_true()
        if len(refused):
            row = int(made[AT][int(refused[0])])
            try:
                self._row(given(row))
            except InvalidRequest as wrong:
                raise InvalidRequest(f"row {row}: {wrong.message}", hint=wrong.hint) from None
            raise AssertionError(f"a frame's row was refused and is good alone: {given(row)}")
        return made

    def columns_of(self, made: "pl.DataFrame") -> "pl.DataFrame":
        """Without what only we need."""
        wanted = list(self.fitted.gives)
        if self.target is not None and self.target in made.columns:
            wanted.append(self.target)
        return made.select(wanted)

    def arrays(self, made: "pl.DataFrame") -> "tuple[NDArray[np.float32], NDArray[Any] | None]":
        """x and y, of what `frame` made."""
        assert self._matrix is not None
        numbers = made[AT].to_numpy()
        x_BK = self._matrix.matrix(made, self.fitted.gives, numbers)
        if self.target is None or self.target not in made.columns:
            return x_BK, None
        return x_BK, self._labels(made[self.target], numbers)

    def output_frame(self, made: "pl.DataFrame") -> "pl.DataFrame":
        """As it is kept in a file. Where the last step makes a matrix: as float32."""
        import polars as pl

        if self._matrix is None:
            return self.columns_of(made)
        x_BK, y_B = self.arrays(made)
        columns = {name: x_BK[:, at] for at, name in enumerate(self.fitted.gives)}
        if y_B is not None and self.target is not None:
            columns[self.target] = y_B
        return pl.DataFrame(columns)

    def _output(self, made: "pl.DataFrame") -> Any:
        if self._matrix is None:
            return self.columns_of(made)
        x_BK, y_B = self.arrays(made)
        return x_BK if y_B is None else (x_BK, y_B)

    def _labels(self, values: "pl.Series", at: NDArray[np.int64]) -> NDArray[Any]:
        import polars as pl

        if self._class_of is not None:
            found = values.replace_strict(
                list(self._class_of), list(self._class_of.values()),
                default=None, return_dtype=pl.Int64,
            )  # fmt: skip
        else:
            found = values
        if found.null_count():
            row = int(found.is_null().arg_true()[0])
            raise self._wrong_label(values[row], f"row {int(at[row])}: ")
        if found.dtype.is_integer():
            return found.cast(pl.Int64).to_numpy()
        return found.cast(pl.Float32).to_numpy()

    def _wrong_label(self, value: Any, where: str) -> InvalidRequest:
        if value is None:
            return InvalidRequest(
                f"{where}the target {self.target!a} is missing",
                hint=f'drop such rows: DropMissing(columns=("{self.target}",))',
            )
        known = ", ".join(map(str, self.fitted.classes or ()))[:200]
        return InvalidRequest(
            f"{where}the target {self.target!a} is {value!a}, which the training data never has",
            hint=f"it has {known}",
        )

    # --- rows ------------------------------------------------------------------------------------

    def _row(self, given: Mapping[str, Any]) -> Row:
        row = self.admission.row(given)
        for apply in self._apply:
            apply(row)
        return row

    def _one(self, given: Mapping[str, Any]) -> Any:
        row = self._row(given)
        if self._matrix is None:
            return self._kept(row)
        x_1K = row_of([row[name] for name in self.fitted.gives])
        self._matrix.check(x_1K, self.fitted.gives, None)
        if self.target is None or self.target not in row:
            return x_1K[0]
        return x_1K[0], self._label(row[self.target], "")

    def _several(self, batch: Sequence[Mapping[str, Any]]) -> Any:
        has_target = self.target is not None and any(self.target in row for row in batch)
        if len(batch) > FEW_ROWS and self._matrix is not None:
            return self._output(self.frame(self.admission.frame_of_rows(batch)))
        rows = []
        for at, given in enumerate(batch):
            try:
                row = self._row(given)
                if has_target and self._matrix is not None and self.target not in row:
                    raise self._wrong_label(None, "")
                rows.append(row)
            except InvalidRequest as wrong:
                raise InvalidRequest(f"row {at}: {wrong.message}", hint=wrong.hint) from None
        if self._matrix is None:
            return [self._kept(row) for row in rows]
        values = [[row[name] for name in self.fitted.gives] for row in rows]
        with np.errstate(over="ignore"):
            x_BK = (
                np.array(values, np.float64)
                .reshape(len(rows), len(self.fitted.gives))
                .astype(np.float32)
            )
        self._matrix.check(x_BK, self.fitted.gives, np.arange(len(rows)))
        if not has_target:
            return x_BK
        labels = [self._label(row[self.target or ""], f"row {at}: ") for at, row in enumerate(rows)]
        return x_BK, np.array(labels)

    def _kept(self, row: Row) -> Row:
        kept = {name: row[name] for name in self.fitted.gives}
        if self.target is not None and self.target in row:
            kept[self.target] = row[self.target]
        return kept

    def _label(self, value: Any, where: str) -> Any:
        number = value if self._class_of is None else self._class_of.get(value)
        if number is None:
            raise self._wrong_label(value, where)
        return np.int64(number) if isinstance(number, int) else np.float32(number)


def transformed(
    frame: "pl.LazyFrame", steps: Sequence[TableStep], learnt: Sequence[Learnt]
) -> "pl.LazyFrame":
    """By as many steps as have learnt."""
    for step, known in zip(steps, learnt, strict=False):
        frame = step.transform(_for(step, frame), known)
    return frame


def _for(step: TableStep, frame: "pl.LazyFrame") -> "pl.LazyFrame":
    return frame if step.takes_codes else decoded(frame)


def with_hidden(
    admitted: "pl.DataFrame", numbers: NDArray[np.int64], taught: NDArray[np.int64] | None
) -> "pl.DataFrame":
    """
    Args:
        numbers: of the rows.
        taught: the same of rows that taught the pipeline, and -1 of others; None if none did.
    """
    import polars as pl

    hidden = [pl.Series(AT, numbers, pl.Int64)]
    if taught is not None:
        rows = pl.Series(ROW, taught, pl.Int64)
        hidden.append(rows.set(rows < 0, None))
    return admitted.with_columns(*hidden, pl.lit(False).alias(REFUSED))


# --- learning ------------------------------------------------------------------------------------


def fit_table(pipeline: "Pipeline", part: Any, memory_limit_bytes: int | None) -> "Fitted":
    source, takes, on, members = _source(part)

    def stretches() -> Iterator[Staged]:
        for number, frame in enumerate(source()):
            yield Staged(number, "", frame)

    with Staging(stretches, memory_limit_bytes or MEMORY_LIMIT_BYTES) as staged:
        return fit_staged(pipeline, staged, "", takes, on, members)


def fit_staged(
    pipeline: "Pipeline",
    staged: Staging,
    part: str,
    takes: tuple[Any, ...],
    on: FittedOn,
    members: Any,
) -> "Fitted":
    """From one part of stretches that have the columns of `takes` and `ROW`. What steps that are
    costly make of them takes their place."""
    import polars as pl

    from leptonai.data.pipeline.pipeline import Fitted, versions

    names = [each.name for each in takes]
    if forbidden := {*names} & HIDDEN:
        raise InvalidRequest(
            f"a column may not be called {min(forbidden)}", hint="call it otherwise"
        )
    if pipeline.target is not None and pipeline.target not in names:
        raise InvalidRequest(
            f"there is no column {pipeline.target!a}, which is to be the target",
            hint=f"there are {', '.join(names)[:200]}",
        )
    admission = Admission(takes, pipeline.target)
    learnt: list[Learnt] = []
    steps = [step for step in pipeline.steps if isinstance(step, TableStep)]

    def training(step: TableStep) -> "Iterator[pl.LazyFrame]":
        for stretch in staged.read(part):
            since = staged.steps_done
            yield _for(step, transformed(stretch, steps[since:], learnt[since:]))

    def schema() -> "dict[str, pl.DataType]":
        empty = pl.LazyFrame(schema=admission.schema | {ROW: pl.Int64()})
        after = transformed(empty, steps, learnt).collect_schema()
        return {name: dtype for name, dtype in after.items() if name not in HIDDEN}

    for step in steps:
        found = step.fit(Stretches(partial(training, step), schema(), pipeline.target))
        learnt.append(found)
        if step.is_costly and step is not steps[-1]:
            since = slice(staged.steps_done, len(learnt))
            change = partial(transformed, steps=steps[since], learnt=learnt[since])
            staged.change(change, steps_done=len(learnt))
    after = schema()
    gives = tuple(name for name in after if name != pipeline.target)
    last = learnt[-1].facts.get("columns") if isinstance(steps[-1], ToMatrix) else None
    classes = _outcome(
        Stretches(partial(training, steps[-1]), after, pipeline.target), pipeline.target
    )
    return Fitted(
        tuple(learnt), on, members, takes, tuple(last) if last else gives, classes, versions()
    )


def _outcome(training: Stretches, target: str | None) -> tuple[Any, ...] | None:
    """That something is left; and the classes of the target, where it is a category."""
    rows, found = 0, set()
    names = [target] if target is not None else []
    categorical = target is not None and str(training.schema[target]) in ("String", "Boolean")
    for stretch in training():
        frame = stretch.select([*names, ROW]).collect()
        if target is not None and frame[target].null_count():
            row = int(frame[ROW][int(frame[target].is_null().arg_true()[0])])
            raise InvalidRequest(
                f"row {row} of the training data: the target {target!a} is missing",
                hint=f'drop such rows: DropMissing(columns=("{target}",))',
            )
        if categorical:
            found |= {*frame[names[0]].unique().to_list()}
        rows += len(frame)
    if not rows:
        raise InvalidRequest(
            "no row of the training data is left: the steps drop them all",
            hint="drop the columns that are often missing, or impute them",
        )
    return tuple(sorted(found)) if categorical else None


def _source(part: Any) -> tuple[Any, tuple[Any, ...], FittedOn, Any]:
    """The stretches of training data, each with its row numbers."""
    import polars as pl

    if is_dataset(part):
        table = Table(part.records, part.chosen, coded=True)
        on, members = fitted_on(part)
        empty = table.frame_of(np.arange(0))

        takes = fields_of(empty)

        def read() -> "Iterator[pl.DataFrame]":
            for rows, frame in table.stretches():
                yield in_fields(frame, takes).with_columns(pl.Series(ROW, rows, pl.Int64))

        return read, takes, on, members
    frame = _as_frame(part)
    takes = fields_of(frame)
    digest = hashlib.sha256()
    frame = in_fields(frame, takes)
    for stretch in frame.iter_slices(1 << 16):
        digest.update(repr(stretch.rows()).encode())

    def slices() -> "Iterator[pl.DataFrame]":
        numbered = frame.with_columns(pl.Series(ROW, np.arange(len(frame)), pl.Int64))
        yield from numbered.iter_slices(1 << 17)

    on = FittedOn(digest=f"sha256:{digest.hexdigest()}", samples=len(frame))
    return slices, takes, on, None


def _as_frame(part: Any) -> "pl.DataFrame":
    import polars as pl

    if isinstance(part, pl.LazyFrame):
        return part.collect()
    if isinstance(part, pl.DataFrame):
        return part
    try:
        return pl.DataFrame(part, infer_schema_length=None)
    except Exception as wrong:
        raise InvalidRequest(
            f"a {type(part).__name__} is no table: {wrong}",
            hint="give a Dataset of a table, a polars frame, or a list of rows",
        ) from None
