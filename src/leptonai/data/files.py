"""A version's files, laid out in a directory as they were."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from leptonai.data.manifest import Manifest
from leptonai.data.shelf import Shelf, write_all, writing
from leptonai.data.version import Fetch, Version
from leptonai.errors import InvalidRequest


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
    progress: Callable[[int, int], None] | None = None,
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
    sizes, done = manifest.columns["size"].tolist(), 0
    total = sum(sizes)
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
                done += sizes[file]
                if progress is not None:
                    progress(done, total)
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
