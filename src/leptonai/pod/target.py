"""The directory that a client keeps in step with one of its own.

Names come from outside, so each is opened part by part below the directory that was asked for, and
never through a link. A file appears under its name when it is whole.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Awaitable, Callable, Iterator, Sequence

from leptonai.blobs.tree import escapes
from leptonai.errors import InvalidRequest
from leptonai.pod.place import ENVIRONMENT, OWN_FOLDER, Place
from leptonai.spec.pods import SYNC_BLOCK_BYTES, SyncContent, SyncDone, SyncEntry, SyncWish

DIGEST_BYTES = 16
MAX_BLOCKS_TOLD = 20_000  # of one file: a larger one, over 1.2 GiB, travels whole
MAX_REFUSALS = 100
MAX_DEPTH = 100
_LOST_LINK = frozenset({errno.ELOOP, errno.ENOTDIR})
_DRAFT = ".lepton-sync."


class Confused(Exception):
    """The client does not keep to what was agreed: nothing that it says further is understood."""


class Arriving:
    """The bytes of a batch of files, cut into messages anywhere."""

    def __init__(self, receive: Callable[[], Awaitable[bytes | str]]) -> None:
        self._receive = receive
        self._left = memoryview(b"")
        self.taken = 0  # bytes, so far

    async def some(self, most: int) -> memoryview:
        while not self._left:
            message = await self._receive()
            if isinstance(message, str):
                raise Confused("words came where bytes were due")
            self._left = memoryview(message)
        data, self._left = self._left[:most], self._left[most:]
        self.taken += len(data)
        return data

    def check_end(self) -> None:
        if self._left:
            raise Confused("more bytes came than were said")


class Target:
    """The directory that is kept in step."""

    def __init__(self, root: int, *, is_home: bool) -> None:
        self._root = root
        self._is_home = is_home
        self._refused: list[str] = []
        self._written = self._removed = self._bytes = 0
        self._open: tuple[tuple[str, ...], int] | None = None  # the last directory written to

    @classmethod
    @contextlib.contextmanager
    def at(cls, place: Place, to: str) -> "Iterator[Target]":
        """
        Raises:
            InvalidRequest: it is not below the pod's home.
        """
        home = str(place.home)
        inside = to[len(home) :].lstrip("/") if to == home or to.startswith(f"{home}/") else to
        inside = inside.removeprefix("~/").removeprefix("./")
        inside = inside.rstrip("/") if not inside.startswith("/") else inside
        if inside.startswith("/") or ".." in inside.split("/"):
            raise InvalidRequest(
                f"{to[:500]} is not below the pod's home", hint="name a directory below its home"
            )
        parts = () if inside in ("", "~", ".") else _parts(inside)
        top = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            root = _descend(top, parts, make=True)
        except OSError as error:
            raise InvalidRequest(
                f"{inside} cannot be written to in the pod: {words_of(error)}",
                hint="name a directory below its home",
            ) from None
        finally:
            os.close(top)
        target = cls(root, is_home=not parts)
        try:
            yield target
        finally:
            target._close()
            os.close(root)

    def done(self) -> SyncDone:
        return SyncDone(
            written=self._written,
            removed=self._removed,
            bytes_written=self._bytes,
            refused=self._refused,
        )

    def compare(
        self, entries: Sequence[SyncEntry], delete: bool
    ) -> tuple[list[SyncWish], list[str]]:
        """What is to be sent, and what is here beside it. Makes directories and links."""
        wishes: list[SyncWish] = []
        known: set[str] = set()
        for entry in entries:
            with self._refusing(entry.path):
                parts = _parts(entry.path)
                known.add(entry.path)
                match entry.kind:
                    case "d":
                        os.close(_descend(self._root, parts, make=True))
                    case "l":
                        self._link(parts, entry)
                    case "f":
                        wish = self._wish(parts, entry)
                        if wish is not None:
                            wishes.append(wish)
        extra = [path for path in self._walk() if path not in known] if delete else []
        return wishes, extra

    async def write(self, file: SyncContent, stream: Arriving) -> None:
        """Make a file of what is here and what is sent. What is refused is read all the same."""
        until = stream.taken + sum(count for first, count in file.parts if first < 0)
        with self._refusing(file.path):
            parts = _parts(file.path)
            directory = self._directory(parts[:-1])
            name, draft = parts[-1], f"{_DRAFT}{os.getpid()}.{id(stream):x}"
            try:
                await self._draft(directory, name, draft, file, stream)
                if _kind(directory, name) == stat.S_IFDIR:
                    raise IsADirectoryError(errno.EISDIR, "there is a directory of this name")
                os.replace(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
                self._written += 1
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft, dir_fd=directory)
        while stream.taken < until:
            await stream.some(until - stream.taken)

    def remove(self, paths: Sequence[str]) -> None:
        """Files and links, and directories once they are empty: what lies deeper first."""
        for path in sorted(set(paths), key=lambda path: (-path.count("/"), path)):
            with self._refusing(path), contextlib.suppress(FileNotFoundError):
                parts = _parts(path)
                directory = _descend(self._root, parts[:-1])
                try:
                    if _kind(directory, parts[-1]) == stat.S_IFDIR:
                        os.rmdir(parts[-1], dir_fd=directory)
                    else:
                        os.unlink(parts[-1], dir_fd=directory)
                    self._removed += 1
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:  # something in it is to stay
                        raise
                finally:
                    os.close(directory)

    async def _draft(
        self, directory: int, name: str, draft: str, file: SyncContent, stream: Arriving
    ) -> None:
        """Write it under another name."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        mode = 0o755 if file.executable else 0o644
        out = os.open(draft, flags, mode, dir_fd=directory)
        old = None
        try:
            old = _open_file(directory, name)
            for first, count in file.parts:
                if first < 0:
                    end = stream.taken + count
                    while stream.taken < end:
                        data = await stream.some(end - stream.taken)
                        _write(out, data)
                        self._bytes += len(data)
                elif old is None:
                    raise FileNotFoundError(errno.ENOENT, "its earlier content is gone")
                else:
                    _copy(old, out, first * SYNC_BLOCK_BYTES, count * SYNC_BLOCK_BYTES)
            os.fchmod(out, mode)
            os.utime(out, ns=(file.mtime_ns, file.mtime_ns))
        finally:
            for descriptor in (out, old):
                if descriptor is not None:
                    os.close(descriptor)

    def _wish(self, parts: tuple[str, ...], entry: SyncEntry) -> SyncWish | None:
        try:
            directory = _descend(self._root, parts[:-1])
        except FileNotFoundError:
            return SyncWish(entry.path)
        try:
            file = _open_file(directory, parts[-1])
            if file is None:
                return SyncWish(entry.path)
            try:
                seen = os.fstat(file)
                same = (
                    seen.st_size == entry.size
                    and seen.st_mtime_ns == entry.mtime_ns
                    and bool(seen.st_mode & stat.S_IXUSR) == entry.executable
                )
                return None if same else SyncWish(entry.path, digests(file, seen.st_size))
            finally:
                os.close(file)
        finally:
            os.close(directory)

    def _link(self, parts: tuple[str, ...], entry: SyncEntry) -> None:
        if escapes(entry.path, entry.target) or "\0" in entry.target:
            raise InvalidRequest(f"it leads out, to {entry.target[:200]}", hint="send a copy")
        directory = _descend(self._root, parts[:-1], make=True)
        try:
            kind = _kind(directory, parts[-1])
            if kind == stat.S_IFLNK and os.readlink(parts[-1], dir_fd=directory) == entry.target:
                return
            if kind == stat.S_IFDIR:
                raise IsADirectoryError(errno.EISDIR, "there is a directory of this name")
            draft = f"{_DRAFT}{os.getpid()}.link"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=directory)
            os.symlink(entry.target, draft, dir_fd=directory)
            os.replace(draft, parts[-1], src_dir_fd=directory, dst_dir_fd=directory)
            self._written += 1
        finally:
            os.close(directory)

    def _walk(self) -> Iterator[str]:
        for path, directories, files, _ in os.fwalk(".", dir_fd=self._root):
            inside = path[2:]
            if self._is_home and not inside:
                # What the platform keeps there is no file of the user's.
                directories[:] = [d for d in directories if d not in (OWN_FOLDER, ENVIRONMENT)]
            for name in (*directories, *files):
                yield f"{inside}/{name}" if inside else name

    def _directory(self, parts: tuple[str, ...]) -> int:
        """Kept open for the next file, which most often lies beside it."""
        if self._open is not None and self._open[0] == parts:
            return self._open[1]
        self._close()
        directory = _descend(self._root, parts, make=True)
        self._open = (parts, directory)
        return directory

    def _close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    @contextlib.contextmanager
    def _refusing(self, path: str) -> Iterator[None]:
        """One file that cannot be written keeps no other from it."""
        try:
            yield
        except (OSError, InvalidRequest) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            words = error.message if isinstance(error, InvalidRequest) else words_of(error)
            if len(self._refused) < MAX_REFUSALS:
                self._refused.append(f"{path[:500]}: {words}")


def digests(file: int, size: int) -> list[bytes]:
    """Of each block. Reads all of it; [] where it is too large for that to be worth it."""
    if size > MAX_BLOCKS_TOLD * SYNC_BLOCK_BYTES:
        return []
    found = []
    for offset in range(0, size, SYNC_BLOCK_BYTES):
        block = os.pread(file, SYNC_BLOCK_BYTES, offset)
        found.append(hashlib.blake2b(block, digest_size=DIGEST_BYTES).digest())
    return found


def _parts(path: str) -> tuple[str, ...]:
    parts = tuple(path.split("/"))
    if any(part in ("", ".", "..") for part in parts) or "\0" in path or len(parts) > MAX_DEPTH:
        raise InvalidRequest("it would lie outside of the directory", hint="send plain names")
    return parts


def _descend(top: int, parts: tuple[str, ...], *, make: bool = False) -> int:
    """Open a directory below another, through no link."""
    here = os.dup(top)
    for part in parts:
        try:
            try:
                there = _open_directory(here, part)
            except FileNotFoundError:
                if not make:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
                there = _open_directory(here, part)
        except OSError as error:
            if error.errno in _LOST_LINK:
                raise NotADirectoryError(
                    errno.ENOTDIR, f"{part} is no directory in the pod"
                ) from None
            raise
        finally:
            os.close(here)
        here = there
    return here


def _open_directory(here: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=here)


def _open_file(directory: int, name: str) -> int | None:
    """A plain file; None where there is none, or something else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES):
            return None
        raise
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    return None


def _kind(directory: int, name: str) -> int:
    """0 where there is nothing."""
    try:
        return stat.S_IFMT(os.lstat(name, dir_fd=directory).st_mode)
    except FileNotFoundError:
        return 0


def _copy(old: int, out: int, offset: int, count: int) -> None:
    while count > 0:
        data = os.pread(old, min(count, 1 << 20), offset)
        if not data:
            return  # the last block is a short one
        _write(out, data)
        offset += len(data)
        count -= len(data)


def _write(out: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


def words_of(error: OSError) -> str:
    return error.strerror or str(error)
