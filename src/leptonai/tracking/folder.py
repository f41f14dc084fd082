"""A run in a directory: `run.json`, `points.log`, `artifacts/`, and TensorBoard's event files.

Without a workspace it is all there is of a run; with one it holds what could not be sent yet.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from leptonai.blobs.points import frame, frames
from leptonai.errors import InvalidRequest, NotFound, StorageFull
from leptonai.spec.runs import Run, check_key, check_run_id

RUNS = "runs"
DIRECTORY_VARIABLE = "LEPTON_RUN_DIR"
MAX_LOG_BYTES = 8 << 30


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
        self.log_file = path / "points.log"
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
    def log_bytes(self) -> int:
        try:
            return self.log_file.stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, batch: bytes) -> None:
        """Raises:
        StorageFull: it would become too large, or the disk is full; nothing was written.
        """
        if self.log_bytes + len(batch) > MAX_LOG_BYTES:
            raise StorageFull(f"{self.log_file} is full", hint="upload it: leptonai run upload")
        size = self.log_bytes
        with self.log_file.open("ab", buffering=0) as file:
            try:
                file.write(frame(batch))
            except OSError as failure:
                os.ftruncate(file.fileno(), size)
                raise StorageFull(f"{self.log_file}: {failure}", hint="free space") from failure

    def batches(self, offset: int = 0) -> Iterator[tuple[bytes, int]]:
        return frames(self.log_file, offset)

    def forget_batches(self) -> None:
        self.log_file.unlink(missing_ok=True)

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


def check_artifact_name(name: str) -> None:
    check_key(name)
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidRequest(
            f"the artifact's name {name!a} is not allowed", hint="use names, joined by one /"
        )
