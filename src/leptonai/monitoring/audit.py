"""The audit log: one line of JSON for every attempt to change something."""

import contextlib
import logging
import os
from pathlib import Path

import msgspec

MAX_BYTES = 64 << 20  # of a file; one older file is kept

_log = logging.getLogger(__name__)


class AuditLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who did what when, and how it ended. It never holds a body: those may hold secrets."""

    at_ms: int
    request: str  # the id that the answer carries
    principal: str
    role: str
    workspace: str
    action: str  # method and path
    status: int
    code: str = ""  # of the error, if it was refused
    job: str = ""  # whose token was used
    address: str = ""  # of the caller


class AuditLog:
    """Appends whole lines; several processes may share one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._size = 0  # as far as this process knows

    def write(self, line: AuditLine) -> None:
        """Keep the line. What it tells of has happened already, so a full disk is only reported."""
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            self._size += os.write(self._descriptor, msgspec.json.encode(line) + b"\n")
            if self._size >= MAX_BYTES:
                self.close()
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except OSError as error:
            _log.error("an audit line was lost: %s", error)

    def close(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(descriptor).st_size
        return descriptor
