"""A directory as one blob: a tar file that depends on names, contents and executable bits alone.

Equal directories give equal digests, whoever packs them, when and where. What is unpacked was sent
by somebody, so nothing in it may reach outside the directory it is unpacked into.
"""

import contextlib
import hashlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import IO, NamedTuple

from leptonai.blobs.walking import IGNORE_FILE, walk
from leptonai.errors import InvalidRequest, NotFound, TooLarge

MAX_ENTRIES = 100_000
MAX_TREE_BYTES = 64 << 30  # unpacked
CHUNK_BYTES = 1 << 20


class Packed(NamedTuple):
    path: Path  # of the tar; the caller deletes it
    digest: str
    size: int


def pack(directory: Path) -> Packed:
    """Make a tar of everything in a directory that no `.gitignore` in it leaves out. Reads all of
    it.

    Raises:
        NotFound: there is no such directory.
        InvalidRequest: it has a link to somewhere outside, or something that is no file.
        TooLarge: it has more than `MAX_ENTRIES` or `MAX_TREE_BYTES`.
    """
    if not directory.is_dir():
        raise NotFound(f"{directory} is not a directory", hint="check the path")
    fd, name = tempfile.mkstemp(prefix="leptonai-", suffix=".tar")
    try:
        with os.fdopen(fd, "wb") as file:
            out = _Hashed(file)
            _write(directory, out)
        return Packed(Path(name), f"sha256:{out.sha256.hexdigest()}", out.size)
    except BaseException:
        Path(name).unlink()
        raise


def unpack(tar: Path | IO[bytes], directory: Path) -> None:
    """Lay out a packed tree in an existing, empty directory.

    Raises:
        InvalidRequest: it is no tar, or one of its members reaches outside; says which.
        TooLarge: it holds more than `MAX_ENTRIES` or `MAX_TREE_BYTES`.
        OSError: the disk is full.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tar.open("rb")) if isinstance(tar, Path) else tar
        try:
            # Not "r:*": a compressed bomb is small on the wire, and we never pack one.
            archive = stack.enter_context(tarfile.open(fileobj=file, mode="r|"))
            _extract(archive, directory)
        except tarfile.TarError as error:
            raise InvalidRequest(
                f"the tree is not a readable tar: {error}", hint="pack and upload it again"
            ) from error


# --- packing -------------------------------------------------------------------------------------


def _write(directory: Path, out: "_Hashed") -> None:
    size = 0
    # USTAR where it suffices, PAX headers for long names: both without times of their own.
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for number, (name, _) in enumerate(walk(str(directory)), start=1):
            path = directory / name
            member = _member(directory, path)
            size += member.size
            if number > MAX_ENTRIES or size > MAX_TREE_BYTES:
                raise TooLarge(
                    f"{directory} has more than {MAX_ENTRIES} files or {MAX_TREE_BYTES} bytes",
                    hint=f"leave out what is not needed with a {IGNORE_FILE}",
                )
            if member.isreg():
                with path.open("rb") as content:
                    archive.addfile(member, _Exactly(content, member.size, path))
            else:
                archive.addfile(member)


def _member(root: Path, path: Path) -> tarfile.TarInfo:
    name = path.relative_to(root).as_posix()
    member = tarfile.TarInfo(name)  # times, owners and groups are zero
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    elif stat.S_ISREG(status.st_mode):
        member.size = status.st_size
        member.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    elif stat.S_ISLNK(status.st_mode):
        member.type, member.mode = tarfile.SYMTYPE, 0o777
        member.linkname = str(path.readlink())
        if escapes(name, member.linkname):
            raise InvalidRequest(
                f"{name} links to {member.linkname}, which may lie outside of {root}",
                hint="link within the directory, '..' first; or put a copy in the link's place",
            )
    else:
        raise InvalidRequest(
            f"{name} is neither a file nor a directory nor a link",
            hint=f"remove it, or name it in {IGNORE_FILE}",
        )
    return member


def escapes(name: str, target: str) -> bool:
    """Whether a link may lead out of the tree.

    Told by its words alone, so a ".." may only come first, where it leaves directories that are
    none but themselves. Behind another link ("up/..") it would mean something else than it says.
    """
    if target.startswith("/"):
        return True
    steps = [step for step in target.split("/") if step not in ("", ".")]
    depth = len([step for step in name.split("/")[:-1] if step not in ("", ".")])
    climbs = next((i for i, step in enumerate(steps) if step != ".."), len(steps))
    return climbs > depth or ".." in steps[climbs:]


class _Hashed(io.RawIOBase):
    """Writes through, and hashes on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)


class _Exactly(io.RawIOBase):
    """A file that must still have the size it had: one that shrinks while it is packed would shift
    everything behind it."""

    def __init__(self, file: IO[bytes], size: int, path: Path) -> None:
        self._file, self._left, self._path = file, size, path

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        if not data and self._left:
            raise InvalidRequest(
                f"{self._path} changed while it was packed", hint="pack it when nobody writes to it"
            )
        self._left -= len(data)
        return data


# --- unpacking -----------------------------------------------------------------------------------


def _extract(archive: tarfile.TarFile, directory: Path) -> None:
    entries = size = 0
    links: list[tarfile.TarInfo] = []
    for member in archive:
        entries, size = entries + 1, size + max(0, member.size)
        if entries > MAX_ENTRIES or size > MAX_TREE_BYTES:
            raise TooLarge(
                f"the tree has more than {MAX_ENTRIES} files or {MAX_TREE_BYTES} bytes",
                hint="leave out what is not needed",
            )
        target = directory.joinpath(*_parts(member))
        try:
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isreg() and not member.issparse():
                target.parent.mkdir(parents=True, exist_ok=True)
                _extract_file(archive, member, target)
            elif member.issym():
                if escapes(member.name, member.linkname):
                    raise _refused(
                        member, f"links to {member.linkname}, which may lie outside of the tree"
                    )
                links.append(member)
            else:
                # A sparse file among the rest: a kilobyte on the wire would fill the disk.
                raise _refused(member, "is neither a file nor a directory nor a symbolic link")
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise _refused(member, "is in the tree twice") from error
    # Last, so that no file is ever written through a link.
    for member in links:
        target = directory.joinpath(*_parts(member))
        # Below another link its own ".." would start from somewhere else than was checked.
        if any(part.is_symlink() for part in _between(directory, target)):
            raise _refused(member, "lies below a link")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.symlink_to(member.linkname)
        except FileExistsError as error:
            raise _refused(member, "is in the tree twice") from error


def _between(directory: Path, target: Path) -> list[Path]:
    """The directories on the way from one to the other."""
    return [parent for parent in target.parents if directory in parent.parents]


def _parts(member: tarfile.TarInfo) -> tuple[str, ...]:
    parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
    if member.name.startswith("/") or ".." in parts or "\0" in member.name:
        raise _refused(member, "would lie outside of the tree")
    return parts


def _extract_file(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = archive.extractfile(member)
    assert content is not None, member.name
    mode = 0o755 if member.mode & stat.S_IXUSR else 0o644
    # Exclusive: neither an earlier member nor anything that was there is written over.
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "wb") as file:
        shutil.copyfileobj(content, file, CHUNK_BYTES)


def _refused(member: tarfile.TarInfo, why: str) -> InvalidRequest:
    return InvalidRequest(f"the member {member.name!r} {why}", hint="pack the tree with leptonai")
