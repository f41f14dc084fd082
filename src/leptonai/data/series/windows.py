"""`Windowing`: how a table of time series becomes windows, the same in training and in serving.

Shape letters: R rows, K columns, T rows of a window, H rows ahead, B windows of a batch, N of all.
"""

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from leptonai.data.loader.batches import Made
from leptonai.data.series.frames import check_period, ordered
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

LONGEST = 1 << 20

_log = logging.getLogger("leptonai.data")


class Windowing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Windows of `length` rows, and as targets what a column has in the `horizon` rows after.

    A window lies within one entity; one in which a value is missing, or, with `every`, a period, is
    left out.
    """

    time: str
    length: int
    horizon: int = 0  # 0: the target is what the last row of a window itself has
    stride: int = 1  # rows from the beginning of a window to that of the next
    target: str | None = None
    columns: tuple[str, ...] | None = None  # all numbers, if not given
    entity: str | None = None
    every: str | None = None  # how far apart rows are, as polars says it: "1h"

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("horizon", 0), ("stride", 1)):
            if not least <= getattr(self, name) <= LONGEST:
                raise InvalidRequest(
                    f"{name} is a number from {least} to {LONGEST}, not {getattr(self, name)}"
                )
        if self.every is not None:
            check_period(self.every)
        if self.horizon and self.target is None:
            raise InvalidRequest("a horizon is of a target", hint="name the target's column")
        if not self.horizon and self.target is not None and self.target in (self.columns or ()):
            raise InvalidRequest(
                f"{self.target!a} is in the very row that it is to be predicted for",
                hint="a horizon of at least 1, or columns without the target",
            )

    def of(self, frame: Any) -> "Windows":
        """All windows whose target is known.

        Raises:
            InvalidRequest: there are none; or a time is missing or there twice.
        """
        frame = ordered(frame, time=self.time, entity=self.entity)
        names = self._columns(frame)
        values_RK = self._numbers(frame, names)
        starts = self._starts(frame, values_RK, self.horizon, self.stride)
        possible = len(starts)
        targets_R = None
        if self.target is not None:
            targets_R = self._numbers(frame, [self.target])[:, 0]
            ahead = np.arange(self.length, self.length + self.horizon)
            ahead = ahead if self.horizon else np.array([self.length - 1])
            starts = starts[~np.isnan(targets_R[starts[:, None] + ahead]).any(1)]
        if not len(starts):
            raise InvalidRequest(
                f"in {len(frame)} rows there is no window of {self.length} + {self.horizon} rows "
                f"of one series without gaps",
                hint="shorter windows, or fill gaps first: leptonai.data.series.frames.regular",
            )
        if possible > len(starts):
            _log.warning("%s windows without a target are left out", possible - len(starts))
        return Windows(self, names, values_RK.astype(np.float32), targets_R, starts)

    def latest(self, frame: Any) -> tuple[list[Any], NDArray[np.float32]]:
        """What to predict from: of each entity whose last rows are a window its name and that
        window, [entities, T, K]. Targets are not looked at."""
        frame = ordered(frame, time=self.time, entity=self.entity)
        values_RK = self._numbers(frame, self._columns(frame))
        starts = self._starts(frame, values_RK, 0, 1)
        _, ends = self._runs(frame)
        starts = starts[starts + self.length == ends[starts]]
        if not len(starts):
            raise InvalidRequest(
                f"there are no last {self.length} rows without gaps", hint="give more rows"
            )
        who = frame[self.entity][starts].to_list() if self.entity else [None] * len(starts)
        return who, values_RK[starts[:, None] + np.arange(self.length)].astype(np.float32)

    def _columns(self, frame: "pl.DataFrame") -> tuple[str, ...]:
        if self.columns is not None:
            return self.columns
        without = {self.time, self.entity, None if self.horizon else self.target}
        found = tuple(
            name
            for name, dtype in frame.schema.items()
            if dtype.is_numeric() and name not in without
        )
        if not found:
            raise InvalidRequest("there is no column of numbers", hint="name the columns")
        return found

    def _numbers(self, frame: "pl.DataFrame", names: Any) -> NDArray[np.float64]:
        """[R, K]; NaN where it is missing."""
        import polars as pl

        for name in names:
            if name not in frame.columns:
                there = ", ".join(frame.columns)[:200]
                raise InvalidRequest(f"there is no column {name!a}", hint=f"there are {there}")
            if not (frame[name].dtype.is_numeric() or frame[name].dtype == pl.Boolean):
                raise InvalidRequest(
                    f"{name!a} is {frame[name].dtype}, not numbers",
                    hint="encode it first, or name the columns without it",
                )
        numbers = frame.select(pl.col(names).cast(pl.Float64)).to_numpy()
        infinite = np.isinf(numbers)
        if infinite.any():
            row, column = (int(each) for each in np.argwhere(infinite)[0])
            raise InvalidRequest(
                f"{names[column]!a} is infinite at {frame[self.time][row]}",
                hint="make such values missing first",
            )
        return np.ascontiguousarray(numbers)

    def _starts(
        self, frame: "pl.DataFrame", values_RK: NDArray[np.float64], horizon: int, stride: int
    ) -> NDArray[np.int64]:
        """Of windows with room for the horizon, and without gaps."""
        begins, ends = self._runs(frame)
        rows = np.arange(len(frame))
        starts: NDArray[np.int64]
        starts = rows[(rows + self.length + horizon <= ends) & ((rows - begins) % stride == 0)]
        unknown = np.concatenate([[0], np.cumsum(np.isnan(values_RK).any(1))])
        starts = starts[unknown[starts + self.length] == unknown[starts]]
        if self.every is not None:
            gaps = np.concatenate([[0], np.cumsum(self._gaps(frame))])
            starts = starts[gaps[starts + self.length + horizon] == gaps[starts + 1]]
        return starts

    def _runs(self, frame: "pl.DataFrame") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[R] both: where the rows of each row's entity begin and end."""
        if self.entity is None or not len(frame):
            return np.zeros(len(frame), np.int64), np.full(len(frame), len(frame))
        lengths = frame[self.entity].rle().struct.field("len").to_numpy().astype(np.int64)
        ends = np.cumsum(lengths)
        return np.repeat(ends - lengths, lengths), np.repeat(ends, lengths)

    def _gaps(self, frame: "pl.DataFrame") -> NDArray[np.bool_]:
        """[R]: a row is not one period after the row before."""
        due = frame[self.time].shift(1).dt.offset_by(self.every or "")
        gaps: NDArray[np.bool_] = (due != frame[self.time]).fill_null(True).to_numpy()
        return gaps


class Windows:
    """(series [B, T, K] of float32, targets): a data set for `DataLoader`, and for fitting.

    Targets are [B, H], or [B] of what the last row has. Rows are kept once, however many windows
    they are in.
    """

    decodes = False
    digest: str | None = None

    def __init__(
        self,
        windowing: Windowing,
        columns: tuple[str, ...],
        values_RK: NDArray[np.float32],
        targets_R: NDArray[np.float64] | None,
        starts: NDArray[np.int64],
    ) -> None:
        self.windowing = windowing
        self.columns = columns
        self._values_RK = values_RK
        self._targets_R = None if targets_R is None else targets_R.astype(np.float32)
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts)

    def make(self, at_B: NDArray[np.int64]) -> Made:
        """As a loader asks for them."""
        length, horizon = self.windowing.length, self.windowing.horizon
        starts = self._starts[at_B]
        series_BTK = self._values_RK[starts[:, None] + np.arange(length)]
        if self._targets_R is None:
            return Made(series_BTK)
        if not horizon:
            return Made((series_BTK, self._targets_R[starts + length - 1]))
        ahead = np.arange(length, length + horizon)
        return Made((series_BTK, self._targets_R[starts[:, None] + ahead]))
