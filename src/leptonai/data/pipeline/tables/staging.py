"""`Staging`: stretches of a table kept for being read again, in memory as far as it may be used,
the rest in a temporary file each, so that a text is parsed once however many steps learn from it.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from leptonai.data.shelf import writing

if TYPE_CHECKING:
    import polars as pl

SHARE = 4  # of the memory, one part in so many holds stretches: work needs the rest


class Staging:
    def __init__(
        self, source: "Callable[[], Iterator[pl.DataFrame]]", memory_limit_bytes: int
    ) -> None:
        self._source = source
        self._left_bytes = memory_limit_bytes // SHARE
        self._kept: list[pl.DataFrame | Path] | None = None
        self._place: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> "Staging":
        return self

    def read(self) -> "Iterator[pl.LazyFrame]":
        """From the beginning. The first reading is to go to its end."""
        import polars as pl

        if self._kept is None:
            kept: list[pl.DataFrame | Path] = []
            for frame in self._source():
                kept.append(self._keep(frame, len(kept)))
                yield frame.lazy()
            self._kept = kept
            return
        for each in self._kept:
            if isinstance(each, Path):
                yield pl.scan_ipc(each)
            else:
                yield each.lazy()

    def _keep(self, frame: "pl.DataFrame", number: int) -> "pl.DataFrame | Path":
        size = int(frame.estimated_size())
        if size <= self._left_bytes:
            self._left_bytes -= size
            return frame
        if self._place is None:
            self._place = tempfile.TemporaryDirectory(prefix="leptonai-table-")
        path = Path(self._place.name) / f"{number}.arrow"
        with writing(path.parent):
            frame.write_ipc(path)
        return path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kept = None
        if self._place is not None:
            self._place.cleanup()
