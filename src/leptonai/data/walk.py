"""Which files a directory holds, found safely: nothing outside of it, nothing that is no file."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from leptonai.errors import InvalidRequest, NotFound, TooLarge

MAX_FILES = 10_000_000
MAX_DEPTH = 64
# Left behind by version control and by desktops; nobody means them as data.
NEVER_DATA = frozenset(
    {".git", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX", ".ipynb_checkpoints"}
)


class Found(NamedTuple):
    path: str  # below the root, with slashes
    size: int  # in bytes
    mtime_ns: int
    ctime_ns: int
    inode: int


def walk(root: Path) -> list[Found]:
    """Every file below a directory, in the order of the paths' bytes. A link to a file within it
    counts as that file.

    Raises:
        NotFound: there is no such directory.
        InvalidRequest: a link leads elsewhere, something is no file, or a name is not UTF-8.
        TooLarge: there are more than `MAX_FILES`, or more than `MAX_DEPTH` folders in each other.
    """
    if not root.is_dir():
        raise NotFound(f"{root} is not a directory", hint="check the path")
    found: list[Found] = []
    for each in _below(str(root), "", os.path.realpath(root) + "/", 0):
        found.append(each)
        if len(found) > MAX_FILES:
            raise TooLarge(f"{root} holds more than {MAX_FILES} files", hint="divide it")
    found.sort(key=lambda each: each.path.encode())
    return found


def _below(directory: str, prefix: str, real_root: str, depth: int) -> Iterator[Found]:
    if depth > MAX_DEPTH:
        raise TooLarge(
            f"{prefix} lies more than {MAX_DEPTH} folders deep", hint="flatten the folders"
        )
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name in NEVER_DATA:
                continue
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{path}/", real_root, depth + 1)
                continue
            if entry.is_symlink():
                _check_link(entry, path, real_root)
            status = entry.stat()
            if not stat.S_ISREG(status.st_mode):
                raise InvalidRequest(f"{path!a} is not a file", hint="remove it from the data")
            if not _is_text(path):
                raise InvalidRequest(f"the name {path!a} is not UTF-8", hint="rename it")
            yield Found(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _check_link(entry: "os.DirEntry[str]", path: str, real_root: str) -> None:
    target = os.path.realpath(entry.path)
    if not target.startswith(real_root):
        raise InvalidRequest(
            f"{path!a} links to {target}, outside of the data",
            hint="put a copy in the link's place",
        )
    if not Path(target).is_file():
        raise InvalidRequest(
            f"{path!a} links to {target}, which is no file",
            hint="remove it, or put a copy in the link's place",
        )


def _is_text(path: str) -> bool:
    return path.isascii() or not any("\ud800" <= char <= "\udfff" for char in path)
