"""A run in a directory: `run.json`, `points.*.log`, `artifacts/`, and TensorBoard's event files.

Without a workspace it is all there is of a run; with one it holds what could not be sent yet.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from leptonai.blobs.points import frame, frames
from leptonai.errors import InvalidRequest, NotFound, StorageFull
from leptonai.spec.runs import Run, check_key, check_run_id

RUNS = "runs"
DIRECTORY_VARIABLE = "LEPTON_RUN_DIR"
MAX_LOG_BYTES = 8 << 30  # of one process
MAX_TRIES = 100  # of a name for a file


def folder_of(id: str, base: Path | None = None) -> "RunFolder":
    """`./runs/ID`, `$LEPTON_RUN_DIR/ID`, or, where nothing can be written there, one that is
    temporary."""
    check_run_id(id)
    chosen = base or Path(os.environ.get(DIRECTORY_VARIABLE) or RUNS)
    try:
        path = chosen.absolute() / id
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        path = Path(tempfile.mkdtemp(prefix="lepton-run-")) / id
        path.mkdir()
    return RunFolder(path)


def folders_in(base: Path) -> list["RunFolder"]:
    """Those of a directory of runs, or the one that it is itself; newest first."""
    if (base / "run.json").is_file():
        return [RunFolder(base)]
    if not base.is_dir():
        raise NotFound(f"{base} is not a directory", hint="name the one that holds the runs")
    found = [RunFolder(each) for each in base.iterdir() if (each / "run.json").is_file()]
    return sorted(found, key=lambda each: (each.run_file.stat().st_mtime, each.path), reverse=True)


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.json"
        self.artifacts = path / "artifacts"

    def save(self, run: Run) -> None:
        """Whole or not at all."""
        fresh = self.run_file.with_name(f"run.json.{os.getpid()}")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2))
        fresh.replace(self.run_file)

    def load(self) -> Run:
        """Raises:
        InvalidRequest: this is no run.
        """
        try:
            return msgspec.json.decode(self.run_file.read_bytes(), type=Run)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as wrong:
            raise InvalidRequest(
                f"{self.run_file} cannot be read: {wrong}", hint="name the directory of a run"
            ) from wrong

    @property
    def log_files(self) -> list[Path]:
        """Of every process that wrote one, in the order in which they began."""
        return sorted(self.path.glob("points.*.log"))

    def batches(self) -> Iterator[bytes]:
        """All that the processes wrote here."""
        for file in self.log_files:
            for batch, _ in frames(file):
                yield batch

    def new_log(self) -> "PointsLog":
        """One that this process alone writes to.

        Raises:
            StorageFull: it cannot be made.
        """
        name = f"points.{time.time_ns() // 1_000_000:014d}.{os.getpid()}"
        for number in range(MAX_TRIES):
            try:
                return PointsLog(self.path / f"{name}.{number}.log", fresh=True)
            except (FileExistsError, BlockingIOError):
                continue
            except OSError as failure:
                raise StorageFull(f"{self.path}: {failure}", hint="free space") from failure
        raise StorageFull(f"{self.path} takes no file", hint="name another directory")

    def orphaned_logs(self) -> list["PointsLog"]:
        """What processes have left that ended: it is for us to send."""
        found = []
        for file in self.log_files:
            with suppress(OSError):  # locked: its process lives
                found.append(PointsLog(file))
        return found

    def keep_artifact(self, name: str, source: Path) -> None:
        check_artifact_name(name)
        target = self.artifacts / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copyfile(source, target)
        else:
            raise NotFound(f"{source} is no file", hint="check the path")


class PointsLog:
    """Batches that one process writes, which holds a lock on the file for as long as it lives.

    Raises:
        BlockingIOError: another process has it.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self._file = path.open("xb" if fresh else "ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise

    def append(self, batch: bytes) -> None:
        """Raises:
        StorageFull: it would become too large, or the disk is full; nothing was written.
        """
        size = self._file.seek(0, os.SEEK_END)
        if size + len(batch) > MAX_LOG_BYTES:
            raise StorageFull(f"{self.path} is full", hint="upload it: leptonai run upload")
        whole = frame(batch)
        try:
            if self._file.write(whole) != len(whole):
                raise OSError("the disk is full")
        except OSError as failure:
            os.ftruncate(self._file.fileno(), size)
            raise StorageFull(f"{self.path}: {failure}", hint="free space") from failure

    def batches(self, offset: int) -> Iterator[tuple[bytes, int]]:
        return frames(self.path, offset)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        self._file.close()


def check_artifact_name(name: str) -> None:
    check_key(name)
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidRequest(
            f"the artifact's name {name!a} is not allowed", hint="use names, joined by one /"
        )
