"""Which files a directory holds, found safely: nothing outside of it, nothing that is no file."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest, NotFound, TooLarge

MAX_FILES = 10_000_000
MAX_DEPTH = 64
# Left behind by version control and by desktops; nobody means them as data.
NEVER_DATA = frozenset(
    {".git", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX", ".ipynb_checkpoints"}
)


class Listing(NamedTuple):
    """Files in the order of their paths' bytes, without their contents."""

    paths: list[str]  # below the source's root, with slashes
    sizes: NDArray[np.int64]  # [N] in bytes
    # [N, 3]: while a file's are the same, so is its content, if they are not brand-new. Of local
    # files: times of content and of state in ns, and the inode.
    stamps: NDArray[np.int64]
    empty: tuple[str, ...] = ()  # folders that hold nothing

    def only(self, files: Sequence[int]) -> "Listing":
        chosen = np.asarray(files, np.int64)
        paths = [self.paths[file] for file in files]
        return Listing(paths, self.sizes[chosen], self.stamps[chosen], self.empty)


def walk(root: Path) -> Listing:
    """Every file below a directory. A link to a file within it counts as that file.

    Raises:
        NotFound: there is no such directory.
        InvalidRequest: a link leads elsewhere, something is no file, or a name is not UTF-8.
        TooLarge: there are more than `MAX_FILES`, or more than `MAX_DEPTH` folders in each other.
    """
    if not root.is_dir():
        raise NotFound(f"{root} is not a directory", hint="check the path")
    real_root = os.path.realpath(root) + "/"
    paths: list[str] = []
    numbers: list[int] = []  # four of each
    empty: list[str] = []
    waiting = [(str(root), "")]
    while waiting:
        directory, prefix = waiting.pop()
        if prefix.count("/") > MAX_DEPTH:
            raise TooLarge(
                f"{prefix!a} lies more than {MAX_DEPTH} folders deep", hint="flatten the folders"
            )
        before = len(paths) + len(waiting)
        # By its descriptor, so that no file's state is asked for by its whole path.
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if (name := entry.name) in NEVER_DATA:
                        continue
                    path = prefix + name
                    if entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append((f"{directory}/{name}", path + "/"))
                        continue
                    else:
                        status = _linked(entry, f"{directory}/{name}", path, real_root)
                    if not path.isascii() and not _is_text(path):
                        raise InvalidRequest(f"the name {path!a} is not UTF-8", hint="rename it")
                    paths.append(path)
                    numbers += (
                        status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino,
                    )  # fmt: skip
        finally:
            os.close(fd)
        if len(paths) > MAX_FILES:
            raise TooLarge(f"{root} holds more than {MAX_FILES} files", hint="divide it")
        if len(paths) + len(waiting) == before and prefix:
            empty.append(prefix.removesuffix("/"))
    # Characters and their UTF-8 bytes come in the same order.
    order = sorted(range(len(paths)), key=paths.__getitem__)
    states = np.array(numbers, np.int64).reshape(len(paths), 4)[np.array(order, np.int64)]
    return Listing([paths[at] for at in order], states[:, 0], states[:, 1:], tuple(sorted(empty)))


def _linked(entry: "os.DirEntry[str]", at: str, path: str, real_root: str) -> os.stat_result:
    """What a link leads to, where that is allowed."""
    if entry.is_symlink():
        _check_link(at, path, real_root)
    status = entry.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequest(f"{path!a} is not a file", hint="remove it from the data")
    return status


def _check_link(at: str, path: str, real_root: str) -> None:
    target = os.path.realpath(at)
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
    return not any("\ud800" <= char <= "\udfff" for char in path)
