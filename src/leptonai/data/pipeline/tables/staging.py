"""`Staging`: stretches of a table kept for being read again, in memory as far as it may be used,
the rest in a temporary file each. So a text is parsed once, and cleaned once, however many steps
learn from it, and it need not be read anew to be transformed.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from leptonai.data.ahead import ahead
from leptonai.data.shelf import writing

if TYPE_CHECKING:
    import polars as pl

SHARE = 16  # of the memory, one part in so many holds stretches: work needs the rest

Change: TypeAlias = "Callable[[pl.LazyFrame], pl.LazyFrame]"


class Staged(NamedTuple):
    """Rows of one part in one stretch."""

    stretch: int  # its number
    part: str
    frame: "pl.DataFrame"


class _Kept(NamedTuple):
    stretch: int
    part: str
    frame: "pl.DataFrame | Path"
    changes: int  # how many it has gone through


class Staging:
    def __init__(self, source: Callable[[], Iterator[Staged]], memory_limit_bytes: int) -> None:
        self.steps_done = 0
        self._source = source
        self._left_bytes = memory_limit_bytes // SHARE
        self._coming: Iterator[Staged] | None = None
        self._kept: list[_Kept] = []
        self._changes: list[Change] = []
        self._place: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> "Staging":
        return self

    def change(self, change: Change, *, steps_done: int) -> None:
        """From now on all stretches are read as this makes them. Each is made once, when it is
        read next, and takes the place of the one that was kept.

        Args:
            steps_done: how many steps of a pipeline they have gone through then.
        """
        self._changes.append(change)
        self.steps_done = steps_done

    def read(self, part: str) -> "Iterator[pl.LazyFrame]":
        """The rows of one part, from the beginning."""
        return (frame for _, name, frame in self._all(part) if name == part)

    def read_all(self) -> "Iterator[tuple[int, str, pl.LazyFrame]]":
        """The number of each stretch, a part, and its rows there."""
        return self._all(None)

    def _all(self, wanted: str | None) -> "Iterator[tuple[int, str, pl.LazyFrame]]":
        """What nobody has asked for yet is read from the source, once."""
        if self._coming is None:
            self._coming = ahead(self._source())
        at = 0
        while True:
            if at == len(self._kept):
                coming = next(self._coming, None)
                if coming is None:
                    return
                self._kept.append(self._keep(at, *coming, 0))
            each = self._kept[at]
            if wanted is None or each.part == wanted:
                if each.changes < len(self._changes):
                    each = self._kept[at] = self._changed(at, each)
                yield each.stretch, each.part, _lazy(each.frame)
            at += 1

    def _changed(self, number: int, kept: _Kept) -> _Kept:
        frame = _lazy(kept.frame)
        for change in self._changes[kept.changes :]:
            frame = change(frame)
        made = frame.collect()
        if not isinstance(kept.frame, Path):
            self._left_bytes += int(kept.frame.estimated_size())
        return self._keep(number, kept.stretch, kept.part, made, len(self._changes))

    def _keep(
        self, number: int, stretch: int, part: str, frame: "pl.DataFrame", changes: int
    ) -> _Kept:
        for change in self._changes[changes:]:
            frame = change(frame.lazy()).collect()
        changes = len(self._changes)
        size = int(frame.estimated_size())
        if size <= self._left_bytes:
            self._left_bytes -= size
            return _Kept(stretch, part, frame, changes)
        if self._place is None:
            self._place = tempfile.TemporaryDirectory(prefix="leptonai-table-")
        path = Path(self._place.name) / f"{number}.{changes}.arrow"
        with writing(path.parent):
            frame.write_ipc(path)
        (path.parent / f"{number}.{changes - 1}.arrow").unlink(missing_ok=True)
        return _Kept(stretch, part, path, changes)

    def __exit__(self, *_: object) -> None:
        self._kept = []
        self._coming = None  # no thread reads on
        if self._place is not None:
            self._place.cleanup()


def _lazy(kept: "pl.DataFrame | Path") -> "pl.LazyFrame":
    """A file is mapped, so that columns nobody asks for are not read, and only as long as it is
    worked on: what counts as our memory is one stretch."""
    import polars as pl

    return pl.scan_ipc(kept) if isinstance(kept, Path) else kept.lazy()
