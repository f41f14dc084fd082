"""`Staging`: stretches of a table kept for being read again, in memory as far as it may be used,
the rest in a temporary file each, so that a text is parsed once however many steps learn from it.
"""

import io
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
        self._coming: Iterator[pl.DataFrame] | None = None
        self._kept: list[pl.DataFrame | Path] = []
        self._place: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> "Staging":
        return self

    def read(self) -> "Iterator[pl.LazyFrame]":
        """From the beginning. What nobody has asked for yet is read from the source, once."""
        import polars as pl

        if self._coming is None:
            self._coming = iter(self._source())
        at = 0
        while True:
            if at == len(self._kept):
                frame = next(self._coming, None)
                if frame is None:
                    return
                self._kept.append(self._keep(frame, at))
            each = self._kept[at]
            at += 1
            # Read and not mapped: mapped pages would count as ours.
            yield (
                pl.scan_ipc(io.BytesIO(each.read_bytes()))
                if isinstance(each, Path)
                else each.lazy()
            )

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
        self._kept = []
        if self._place is not None:
            self._place.cleanup()
