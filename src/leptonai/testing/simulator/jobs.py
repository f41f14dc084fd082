"""Jobs as traces record them: read from CSV, with what is wrong told by file and line."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from leptonai.core.tables import Column, Row, read_table
from leptonai.errors import InvalidRequest

TIME_UNITS_S: Mapping[str, float] = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
MAX_TIME_S = 1e11  # three thousand years: sums of times stay exact whole milliseconds
MAX_SHOWN_VALUES = 5  # of a column, in an error's hint
DEFAULT_PRIORITY = 5000

COLUMNS = (
    Column("submission_time", ("submission_time", "timestamp", "submit_time")),
    Column("duration"),
    Column("num_gpu", ("num_gpu", "num_gpus")),
    Column("id", ("job_id", "id"), optional=True),
    Column("user", optional=True),
    Column("priority", optional=True),
    Column("deadline", optional=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A gang of one-GPU workers that start and stop together.

    Times are whole milliseconds on the trace's own clock, from whatever zero it has.
    """

    id: str
    submitted_ms: int
    duration_ms: int  # with all its GPUs and without interruption
    gpus: int
    user: str = ""
    priority: int = DEFAULT_PRIORITY  # larger is more urgent
    deadline_ms: int | None = None
    min_gpus: int = 0  # elastic: runs with as few, and any number up to `gpus`; 0: with all only
    speedup: tuple[float, ...] = ()  # with 1, 2, … GPUs; none: in proportion

    def __post_init__(self) -> None:
        assert self.submitted_ms >= 0 <= self.duration_ms, self
        assert self.gpus >= 1, self
        assert 0 <= self.min_gpus <= self.gpus, self
        assert not self.speedup or (len(self.speedup) == self.gpus and min(self.speedup) > 0), self

    def speed(self, gpus: int) -> float:
        """In relation to all its GPUs."""
        if not self.speedup:
            return gpus / self.gpus
        return self.speedup[gpus - 1] / self.speedup[-1]


@dataclass(frozen=True, slots=True)
class Condition:
    """What a row must say to be read: `cluster=6214e9`, `num_gpu>0`."""

    column: str
    operator: str
    value: str

    @classmethod
    def of(cls, text: str) -> "Condition":
        parts = re.fullmatch(r"\s*([^=<>!]+?)\s*(!=|>=|<=|=|<|>)\s*(.*?)\s*", text)
        if parts is None:
            hint = "use COLUMN=VALUE, or another of != < <= > >="
            raise InvalidRequest(f"{text!r} is no condition", hint=hint)
        condition = cls(*parts.groups())
        if condition.operator not in ("=", "!=") and _number(condition.value) is None:
            what = f"{text!r} compares with {condition.value!r}"
            raise InvalidRequest(what, hint=f"use a number after {condition.operator}")
        return condition

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{self.value}"

    def holds(self, row: Row) -> bool:
        """Equal as numbers where both are, else letter by letter."""
        cell, number = row.cell(self.column), _number(row.cell(self.column))
        value = _number(self.value)
        both = number is not None and value is not None
        if self.operator == "=":
            return number == value if both else cell == self.value
        if self.operator == "!=":
            return number != value if both else cell != self.value
        if number is None:
            raise row.is_not(self.column, f"a number, for {self}")
        return _COMPARE[self.operator](number, float(self.value))


_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def read_jobs(
    lines: Iterable[str],
    *,
    source: str,
    columns: Mapping[str, str] | None = None,
    where: Sequence[Condition] = (),
    time_unit: str = "s",
    most_gpus: int | None = None,
) -> tuple[Job, ...]:
    """The jobs of a table whose header has COLUMNS, in the order of its rows.

    Args:
        source: the file's name, for complaints.
        columns: which header is meant, by the name of the column in COLUMNS.
        where: only rows for which all of these hold are looked at.
        time_unit: one of TIME_UNITS_S, of every time that is a number. Times may also be dates.
        most_gpus: that a job can have; more is an error.

    Raises:
        InvalidRequest: with file, line and what was expected.
    """
    known = {column.name for column in COLUMNS}
    if unknown := sorted(set(columns or {}) - known):
        hint = f"use one of {', '.join(column.name for column in COLUMNS)}"
        raise InvalidRequest(f"there is no column {unknown[0]!r} to name", hint=hint)
    compared = dict.fromkeys(condition.column for condition in where)
    wanted = [
        Column(column.name, (columns[column.name],))
        if columns and column.name in columns
        else replace(column, optional=column.optional and column.name not in compared)
        for column in COLUMNS
    ]
    wanted += [Column(name) for name in compared if name not in known]
    jobs: list[Job] = []
    first_line: dict[str, int] = {}
    seen_values: dict[str, dict[str, None]] = {condition.column: {} for condition in where}
    for row in read_table(lines, source=source, columns=wanted):
        for condition in where:
            if not condition.holds(row):
                seen_values[condition.column].setdefault(row.cell(condition.column))
                break
        else:
            job = _job(row, len(jobs), TIME_UNITS_S[time_unit], most_gpus)
            if job.id in first_line:
                what = f"the job {job.id!r} is there twice"
                raise row.wrong(what, expected=f"another id than in line {first_line[job.id]}")
            first_line[job.id] = row.line
            jobs.append(job)
    if not jobs:
        what = f"{source}: no row has {' and '.join(map(str, where))}"
        raise InvalidRequest(what, hint=_there_are(seen_values))
    return tuple(jobs)


def with_uniform_deadlines(
    jobs: Sequence[Job], low: float, high: float, *, seed: int
) -> tuple[Job, ...]:
    """Deadlines at submission + U × duration, U drawn evenly from low to high for each job in
    order, with numpy's default generator."""
    factors = np.random.default_rng(seed).uniform(low, high, len(jobs))
    return tuple(
        replace(job, deadline_ms=job.submitted_ms + round(factor * job.duration_ms))
        for job, factor in zip(jobs, factors.tolist(), strict=True)
    )


def as_equals(jobs: Iterable[Job]) -> list[Job]:
    """As most policies of the literature see jobs: without users and priorities."""
    return [replace(job, user="", priority=DEFAULT_PRIORITY) for job in jobs]


def _job(row: Row, number: int, unit_s: float, most_gpus: int | None) -> Job:
    gpus = row.number("num_gpu", zero=True)
    if gpus == 0:
        left_out = f"at least 1, or --where '{row.header('num_gpu')}>0' to leave such rows out"
        raise row.wrong(f"{row.header('num_gpu')} is 0", expected=left_out)
    if not gpus.is_integer():
        raise row.wrong(f"{row.header('num_gpu')} is {gpus:g}", expected="a whole number")
    if most_gpus is not None and gpus > most_gpus:
        what = f"{row.header('num_gpu')} is {gpus:g}, and the cluster has {most_gpus} in all"
        raise row.wrong(what, expected=f"at most {most_gpus}")
    deadline = None
    if "deadline" in row and row.cell("deadline"):
        deadline = _instant_ms(row, "deadline", unit_s)
    return Job(
        id=row.text("id") if "id" in row else f"row {number + 1}",
        submitted_ms=_instant_ms(row, "submission_time", unit_s),
        duration_ms=_ms(row, "duration", row.number("duration", zero=True) * unit_s),
        gpus=int(gpus),
        user=row.cell("user") if "user" in row else "",
        priority=row.whole("priority", zero=True) if "priority" in row else DEFAULT_PRIORITY,
        deadline_ms=deadline,
    )


def _instant_ms(row: Row, column: str, unit_s: float) -> int:
    instant = row.instant(column)
    if isinstance(instant, datetime):
        return _ms(row, column, instant.timestamp())
    return _ms(row, column, instant * unit_s)


def _ms(row: Row, column: str, seconds: float) -> int:
    if not 0 <= seconds <= MAX_TIME_S:
        raise row.is_not(column, f"a time from 0 to {MAX_TIME_S:g} s")
    return round(seconds * 1_000)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _there_are(seen_values: Mapping[str, Mapping[str, None]]) -> str:
    """Some values of each column that a condition did not hold for."""
    parts = []
    for column, values in seen_values.items():
        shown = [*values][:MAX_SHOWN_VALUES]
        more = ", …" if len(values) > len(shown) else ""
        if shown:
            parts.append(f"{column} is {', '.join(shown)}{more}")
    return f"there, {'; '.join(parts)}"
