"""Files below a directory, whatever the names and links in it say.

Who writes into a volume may put links there that lead anywhere. The kernel resolves each path
beneath the directory (`openat2`), so that a link is followed only where it stays inside; where it
cannot, component by component, and no link at all is followed. What then is done is done to the
opened directory and a name in it, which another process cannot exchange in between.
"""

import ctypes
import errno
import os
import secrets
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from leptonai.errors import Conflict, Forbidden, InvalidRequest, LeptonError, NotFound, StorageFull

MAX_PATH_BYTES = 4_096
MAX_NAME_BYTES = 255
MAX_ENTRIES = 100_000  # of a directory that is listed
MAX_DEPTH = 512  # of what is counted
MAX_OPEN = 64  # directories in each other, while they are removed
HIDDEN = ".lepton-upload-"  # how files begin that are not complete
STALE_S = 7 * 86_400  # then nobody goes on with an upload

_OPENAT2 = 437  # the number of the system call on every architecture
_RESOLVE_BENEATH, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS = 0x08, 0x02, 0x04
_TRIES = 8  # while others rename what is on the way
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_OWN_DIRECTORY = _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # none that a link leads to


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    is_dir: bool
    size_bytes: int
    modified_at_ms: int
    by_link: bool = False  # the rest is of what a link of this name leads to


def parts_of(path: str) -> tuple[str, ...]:
    """Raises:
    InvalidRequest: it is no path inside of anything.
    """
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in path:
        raise InvalidRequest("the path leads out of the volume", hint="Leave out the '..'.")
    if any(part.startswith(HIDDEN) for part in parts):
        raise InvalidRequest(
            f"names that begin with {HIDDEN} are the platform's", hint="Choose another name."
        )
    too_long = any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts)
    if too_long or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InvalidRequest(
            "the path is too long",
            hint=f"At most {MAX_PATH_BYTES} bytes, and {MAX_NAME_BYTES} for each name.",
        )
    return parts


@dataclass(frozen=True, slots=True)
class Beneath:
    """All methods block, and raise LeptonError alone."""

    root: Path
    links: bool = True  # False: no link is followed, where a path is to mean what it says

    def entry(self, path: str) -> Entry:
        """Of the file or directory itself, or of what a link inside leads to."""
        with self._opened(path, os.O_PATH) as fd:
            status = os.fstat(fd)
            return _entry((parts_of(path) or ("",))[-1], status)

    def entries(self, path: str) -> list[Entry]:
        """Of a directory, by name. Links are told as what they lead to, if that is inside."""
        found: list[Entry] = []
        with self._opened(path, _DIRECTORY) as fd, os.scandir(fd) as scan:
            for each in scan:
                if each.name.startswith(HIDDEN):
                    _drop_if_stale(fd, each)
                    continue
                if len(found) == MAX_ENTRIES:
                    raise Conflict(
                        f"the directory has more than {MAX_ENTRIES} entries",
                        hint="List its parts, or look at it in a job that mounts the volume.",
                    )
                with suppress(OSError, LeptonError):  # gone meanwhile, or a link to elsewhere
                    if each.is_symlink():
                        found.append(
                            replace(
                                self.entry("/".join((*parts_of(path), each.name))), by_link=True
                            )
                        )
                    else:
                        found.append(_entry(each.name, each.stat(follow_symlinks=False)))
        return sorted(found, key=lambda entry: entry.name)

    def walk(self, path: str) -> Iterator[tuple[str, Entry]]:
        """Every file below a directory, with its path inside that; links are left out."""
        with self._opened(path, _DIRECTORY) as fd:
            yield from _walk(fd, "", 0)

    def usage_bytes(self, path: str) -> int:
        with self._opened(path, os.O_PATH) as fd:
            status = os.fstat(fd)
            if not stat.S_ISDIR(status.st_mode):
                return status.st_size
        return sum(entry.size_bytes for _, entry in self.walk(path))

    @contextmanager
    def reading(self, path: str) -> Iterator[int]:
        """A file, opened."""
        with self._opened(path, os.O_RDONLY | os.O_NONBLOCK) as fd:  # a pipe would hold us up
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Conflict(f"{path} is no file", hint="List it, or name a file in it.")
            yield fd

    def make_directory(self, path: str) -> None:
        """With those above it. One that is there already is no error."""
        parts = parts_of(path)
        for depth in range(1, len(parts) + 1):
            above = self.directory_of("/".join(parts[:depth]))
            with above as (fd, name), suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=fd)
        with self._opened(path, _DIRECTORY):
            pass

    @contextmanager
    def directory_of(self, path: str) -> Iterator[tuple[int, str]]:
        """The directory that holds it, opened, and its name there."""
        *above, name = parts_of(path) or ("",)
        if not name:
            raise InvalidRequest("the path is the volume itself", hint="Name something in it.")
        with self._opened("/".join(above), _DIRECTORY) as fd:
            yield fd, name

    def remove(self, path: str, *, recursive: bool = False) -> None:
        """A link is removed, not what it leads to."""
        with self.directory_of(path) as (fd, name), _told(path):
            if not stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                os.unlink(name, dir_fd=fd)
            elif recursive:
                _remove_tree(fd, name)
            else:
                os.rmdir(name, dir_fd=fd)

    def clear(self) -> None:
        """Remove all that is in it."""
        with self._opened("", _DIRECTORY) as fd, _told(""):
            for name in os.listdir(fd):  # noqa: PTH208 - of what is opened
                _remove(fd, name)

    def move(self, path: str, to: str) -> None:
        """In one step; what is there already is not replaced."""
        with self.directory_of(path) as (fd, name), self.directory_of(to) as (to_fd, to_name):
            with _told(to), suppress(FileNotFoundError):
                os.lstat(to_name, dir_fd=to_fd)
                raise Conflict(f"{to} is there already", hint="Remove it first.")
            with _told(path):
                os.rename(name, to_name, src_dir_fd=fd, dst_dir_fd=to_fd)

    def real_directory(self, path: str, *, make: bool) -> Path:
        """Where a directory in it really is: what may be mounted."""
        if make:
            self.make_directory(path)
        with self._opened(path, _DIRECTORY) as fd:
            return Path(f"/proc/self/fd/{fd}").readlink()

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        parts = parts_of(path)
        with _told(path):
            root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fd = _open_beneath(root, parts, flags | os.O_CLOEXEC, links=self.links)
            finally:
                os.close(root)
        try:
            with _told(path):
                yield fd
        finally:
            os.close(fd)


def _open_beneath(root: int, parts: tuple[str, ...], flags: int, *, links: bool) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | (0 if links else _RESOLVE_NO_SYMLINKS)
    how = struct.pack("=QQQ", flags, 0, resolve)
    name = os.fsencode("/".join(parts) or ".")
    for _ in range(_TRIES):
        fd = int(libc.syscall(_OPENAT2, root, name, how, len(how)))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number in (errno.ENOSYS, errno.EPERM):  # an old kernel, or a filter of system calls
            return _open_one_by_one(root, parts, flags)
        if number != errno.EAGAIN:
            raise OSError(number, os.strerror(number))
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _open_one_by_one(root: int, parts: tuple[str, ...], flags: int) -> int:
    at = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    try:
        for part in parts[:-1]:
            step = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(part, step, dir_fd=at)
            os.close(at)
            at = below
        fd = os.open(parts[-1] if parts else ".", flags | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)
    if stat.S_ISLNK(os.fstat(fd).st_mode):  # O_PATH opens the link itself
        os.close(fd)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    return fd


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What the system says, in our words."""
    shown = f"/{path.lstrip('/')[:200]}"
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOENT:
                told: LeptonError = NotFound(f"there is no {shown}", hint="List what there is.")
            case errno.EXDEV | errno.ELOOP:
                told = Forbidden(
                    f"a link leads {shown} out of the volume",
                    hint="Name what is in the volume itself, or put a copy in the link's place.",
                )
            case errno.ENOTDIR:
                told = Conflict(f"{shown} is no directory", hint="List what there is.")
            case errno.EISDIR:
                told = Conflict(f"{shown} is a directory", hint="Name a file in it.")
            case errno.ENOTEMPTY:
                told = Conflict(
                    f"{shown} is not empty",
                    hint="Remove it with all that is in it: `leptonai storage rm -r`.",
                )
            case errno.EACCES | errno.EPERM | errno.EROFS:
                told = Forbidden(
                    f"{shown}: {error.strerror}", hint="Ask whoever runs the platform."
                )
            case errno.ENOSPC | errno.EDQUOT:
                told = StorageFull(f"{shown}: {error.strerror}", hint="Free space in the volume.")
            case _:
                told = Conflict(f"{shown}: {error.strerror or error}", hint="Look at the volume.")
        raise told from error


def _drop_if_stale(fd: int, upload: "os.DirEntry[str]") -> None:
    with suppress(OSError):
        if time.time() - upload.stat(follow_symlinks=False).st_mtime > STALE_S:
            os.unlink(upload.name, dir_fd=fd)


def _entry(name: str, status: os.stat_result) -> Entry:
    is_dir = stat.S_ISDIR(status.st_mode)
    size = 0 if is_dir else status.st_size
    return Entry(name, is_dir, size, status.st_mtime_ns // 1_000_000)


def _walk(fd: int, below: str, depth: int) -> Iterator[tuple[str, Entry]]:
    with os.scandir(fd) as scan:
        entries = sorted(scan, key=lambda each: each.name)
    for each in entries:
        with suppress(FileNotFoundError, PermissionError):
            status = each.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and not each.name.startswith(HIDDEN):
                yield f"{below}{each.name}", _entry(each.name, status)
            elif stat.S_ISDIR(status.st_mode) and depth < MAX_DEPTH:
                inner = os.open(each.name, _OWN_DIRECTORY, dir_fd=fd)
                try:
                    yield from _walk(inner, f"{below}{each.name}/", depth + 1)
                finally:
                    os.close(inner)


def _remove(fd: int, name: str) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
            _remove_tree(fd, name)
        else:
            os.unlink(name, dir_fd=fd)


def _remove_tree(fd: int, name: str) -> None:
    """However deep it is: what lies too deep to be held open is moved up, and comes next."""
    top = os.open(name, _OWN_DIRECTORY, dir_fd=fd)
    try:
        while _empty(top, top, 0):
            pass
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=fd)


def _empty(fd: int, top: int, depth: int) -> bool:
    """Whether something was moved up."""
    moved = False
    for name in os.listdir(fd):
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                os.unlink(name, dir_fd=fd)
                continue
            if depth == MAX_OPEN:
                up = f"{HIDDEN}{secrets.token_hex(8)}"
                os.rename(name, up, src_dir_fd=fd, dst_dir_fd=top)
                moved = True
                continue
            inner = os.open(name, _OWN_DIRECTORY, dir_fd=fd)
            try:
                moved |= _empty(inner, top, depth + 1)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=fd)
    return moved
