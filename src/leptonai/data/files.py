"""A version's files, laid out in a directory as they were."""

import os
import shutil
from pathlib import Path

from leptonai.data.manifest import Manifest
from leptonai.data.progress import Progress
from leptonai.data.shelf import Shelf, write_all, writing
from leptonai.data.version import Fetch, Version
from leptonai.errors import InvalidRequest


class Reached:
    """How far a laying out is: objects arrive, then files are made of them."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._written = self._told = 0
        self.total = 0  # of all files, once that is known

    def arrived(self, size: int, _: int) -> None:
        """So much of the object that the next file lies in."""
        self._tell(self._written + size)

    def written(self, size: int) -> None:
        self._written += size
        self._tell(self._written)

    def _tell(self, done: int) -> None:
        """Never less than before: of an object that has come the files are yet to be written."""
        if self._progress is not None:
            self._told = max(self._told, min(done, self.total))
            self._progress(self._told, self.total)


def check_target(directory: Path) -> None:
    """Raises:
    InvalidRequest: it is there, and not empty.
    """
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise InvalidRequest(f"{directory} is not empty", hint="name a new or empty directory")


def lay_out(
    manifest: Manifest,
    shelf: Shelf,
    directory: Path,
    *,
    fetch: Fetch | None = None,
    reached: Reached | None = None,
) -> None:
    """All files or none: they are written beside, then the directory appears. Objects that are not
    here are fetched, and those that are stay, so that another try goes on where this one was.

    Raises:
        InvalidRequest: the directory is not empty, or a path of the manifest leads out of it.
    """
    check_target(directory)
    paths = manifest.paths()
    for path in paths:
        _check_path(path)
    version = Version(manifest, shelf, fetch=fetch)
    sizes = manifest.columns["size"].tolist()
    if reached is not None:
        reached.total = sum(sizes)
    beside = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    with writing(directory.absolute().parent):
        beside.mkdir(parents=True)
        try:
            made = {""}
            for file, path in enumerate(paths):
                folder = path.rpartition("/")[0]
                if folder not in made:
                    (beside / folder).mkdir(parents=True, exist_ok=True)
                    made.add(folder)
                fd = os.open(beside / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                try:
                    write_all(fd, version.read_file(file))
                finally:
                    os.close(fd)
                if reached is not None:
                    reached.written(sizes[file])
            if directory.exists():
                directory.rmdir()
            beside.rename(directory)
        except (FileExistsError, NotADirectoryError) as wrong:
            raise InvalidRequest(
                f"the manifest has two files at one place: {wrong.filename}", hint="commit it again"
            ) from wrong
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _check_path(path: str) -> None:
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise InvalidRequest(
            f"the manifest has the path {path!a}, which may lead elsewhere", hint="do not use it"
        )
