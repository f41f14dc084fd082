"""Which files a directory holds, found safely: nothing outside of it, nothing that is no file."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest, NotFound, TooLarge

MAX_FILES = 10_000_000
MAX_DEPTH = 64
STRETCH_FILES = 4_096  # that are found before they are told of, or a few more
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

    def only(self, files: Sequence[int] | NDArray[np.int64]) -> "Listing":
        chosen = np.asarray(files, np.int64)
        if len(chosen) and (np.diff(chosen) == 1).all():  # without a look at each
            run = slice(int(chosen[0]), int(chosen[-1]) + 1)
            return Listing(self.paths[run], self.sizes[run], self.stamps[run], self.empty)
        paths = [self.paths[file] for file in chosen.tolist()]
        return Listing(paths, self.sizes[chosen], self.stamps[chosen], self.empty)


def joined(stretches: Iterable[Listing]) -> Listing:
    """One after the other."""
    all = [Listing([], np.empty(0, np.int64), np.empty((0, 3), np.int64)), *stretches]
    return Listing(
        list(chain.from_iterable(each.paths for each in all)),
        np.concatenate([each.sizes for each in all]),
        np.concatenate([each.stamps for each in all]),
        tuple(sorted({path for each in all for path in each.empty})),
    )


def walk(root: Path) -> Iterator[Listing]:
    """Every file below a directory, a stretch at a time. A link to a file within it counts as that
    file.

    Raises:
        NotFound: there is no such directory.
        InvalidRequest: a link leads elsewhere, something is no file, may not be read or goes while
            it is looked at, or a name is not UTF-8.
        TooLarge: there are more than `MAX_FILES`, or more than `MAX_DEPTH` folders in each other.
    """
    if not root.is_dir():
        raise NotFound(f"{root} is not a directory", hint="check the path")
    walking = _Walk(root)
    yield from walking.below(str(root), "", None)
    yield walking.taken()


class _Walk:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root = os.path.realpath(root) + "/"
        self._count = 0  # of all that were found
        self._paths: list[str] = []
        self._numbers: list[int] = []  # four of each
        self._empty: list[str] = []

    def below(self, folder: str, prefix: str, above: int | None) -> Iterator[Listing]:
        """
        Args:
            above: the descriptor of the directory that this one's name is looked up in. So it is
                not looked up anew for each file, and is the same one all the time.
        """
        if prefix.count("/") > MAX_DEPTH:
            raise TooLarge(
                f"{prefix!a} lies more than {MAX_DEPTH} folders deep", hint="flatten the folders"
            )
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if prefix else 0)
        try:
            fd = os.open(folder, flags, dir_fd=above)
        except PermissionError:
            raise unreadable(prefix or folder) from None
        except (FileNotFoundError, NotADirectoryError):
            raise changed(prefix or folder) from None
        try:
            names = _names(fd, prefix)
            if not names and prefix:
                self._empty.append(prefix.removesuffix("/"))
            for folder, run in _runs(names):
                if folder:
                    yield from self.below(folder[:-1], prefix + folder, fd)
                for at in range(0, len(run), STRETCH_FILES):
                    self._add(fd, prefix, run[at : at + STRETCH_FILES])
                    if len(self._paths) >= STRETCH_FILES:
                        yield self.taken()
        finally:
            os.close(fd)

    def taken(self) -> Listing:
        """What was found and not told of."""
        states = np.array(self._numbers, np.int64).reshape(-1, 4)
        stretch = Listing(self._paths, states[:, 0], states[:, 1:], tuple(self._empty))
        self._paths, self._numbers, self._empty = [], [], []
        return stretch

    def _add(self, fd: int, prefix: str, names: list[str]) -> None:
        self._count += len(names)
        if self._count > MAX_FILES:
            raise TooLarge(f"{self._root} holds more than {MAX_FILES} files", hint="divide it")
        look, is_file, numbers = os.stat, stat.S_ISREG, self._numbers
        for name in names:
            try:
                status = look(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                raise changed(prefix + name) from None
            if not is_file(status.st_mode):
                status = self._linked(fd, prefix + name, status)
            numbers += (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        self._paths += [prefix + name for name in names]

    def _linked(self, fd: int, path: str, status: os.stat_result) -> os.stat_result:
        """What a link leads to, where that is allowed."""
        if stat.S_ISLNK(status.st_mode):
            _check_link(f"{self._root}/{path}", path, self._real_root)
            status = os.stat(path.rpartition("/")[2], dir_fd=fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest(f"{path!a} is not a file", hint="remove it from the data")
        return status


def _names(fd: int, prefix: str) -> list[str]:
    """What a directory holds, in order; directories end in a slash, as in the paths below them. So
    what is found is in the order of paths."""
    with os.scandir(fd) as entries:
        names = [
            f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in entries
            if entry.name not in NEVER_DATA
        ]
    if not "".join(names).isascii():
        for name in names:
            if any("\ud800" <= char <= "\udfff" for char in name):
                raise InvalidRequest(f"the name {prefix + name!a} is not UTF-8", hint="rename it")
    names.sort()  # characters and their UTF-8 bytes come in the same order
    return names


def _runs(names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each folder, and the files that follow it; before the first folder "", and those before."""
    folders = [at for at, name in enumerate(names) if name[-1] == "/"]
    for at, end in zip([-1, *folders], [*folders, len(names)], strict=True):
        yield names[at] if at >= 0 else "", names[at + 1 : end]


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


def changed(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path!a} changed while it was read", hint="commit again when nobody writes to it"
    )


def unreadable(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path!a} may not be read", hint=f"give yourself the right: chmod u+r {path!a}"
    )
