"""What is written down of a process beside the control plane, for those who come later."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from leptonai.home import Home
from leptonai.processes import Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    pid: int
    started: str
    host: str
    port: int

    @property
    def process(self) -> Process:
        return Process(self.pid, self.started)

    @classmethod
    def left_behind(cls, home: Home, file: Path) -> Self | None:
        """Of one that an earlier control plane started here, and that runs."""
        try:
            record = cls(**home.read_record(file))
        except (OSError, ValueError, TypeError):
            return None
        return record if record.process.alive else None
