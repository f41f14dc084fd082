"""Unpacking an archive that somebody made: nothing in it may reach outside, or fill the disk."""

import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from lzma import LZMAError
from pathlib import Path
from typing import IO, NamedTuple

from leptonai.data.progress import Progress
from leptonai.errors import InvalidRequest, TooLarge

MAX_FILES = 2_000_000
MAX_UNPACKED_BYTES = 256 << 30
CHUNK_BYTES = 1 << 20


class _Member(NamedTuple):
    name: str
    content: IO[bytes] | None  # None: a directory


def unpack(archive: Path, into: Path, *, progress: Progress | None = None) -> None:
    """Lay out a zip or tar archive as the directory `into`, which is there whole or not at all.

    Files get no dates, so that what is unpacked is the same on every machine. Empty ones are left
    out.

    Raises:
        InvalidRequest: it is no such archive, a damaged one, or one of its members is a link, no
            file, or would lie outside; says which.
        TooLarge: it holds more than `MAX_FILES` or `MAX_UNPACKED_BYTES`.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    half_done = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=into.parent))
    try:
        with archive.open("rb") as file:
            members = _zipped if zipfile.is_zipfile(file) else _tarred
            file.seek(0)
            size = archive.stat().st_size

            def told() -> None:
                if progress is not None:
                    progress(min(file.tell(), size), size)

            _lay_out(members(archive, file), half_done, told)
        half_done.rename(into)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        LZMAError,
        EOFError,
        RuntimeError,  # how zipfile says that it wants a password
        NotImplementedError,
    ) as error:
        raise InvalidRequest(
            f"{archive.name} cannot be unpacked: {error or type(error).__name__}",
            hint="it must be a whole zip or tar archive: download it again",
        ) from None
    finally:
        shutil.rmtree(half_done, ignore_errors=True)


def _lay_out(members: Iterator[_Member], root: Path, told: Callable[[], None]) -> None:
    left = MAX_UNPACKED_BYTES
    for number, member in enumerate(members):
        if number == MAX_FILES:
            raise TooLarge(f"the archive holds more than {MAX_FILES} files", hint="divide it")
        target = root.joinpath(*_steps(member.name))
        try:
            if member.content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                while chunk := member.content.read(CHUNK_BYTES):
                    left -= len(chunk)  # as it comes: what the archive says of sizes may be untrue
                    if left < 0:
                        raise TooLarge(
                            f"the archive holds more than {MAX_UNPACKED_BYTES} bytes",
                            hint="is it the right one?",
                        )
                    file.write(chunk)
                    told()
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise _refused(member.name, "is in the archive twice") from None
        if target.stat().st_size:
            os.utime(target, (0, 0))
        else:
            target.unlink()
    if not any(root.iterdir()):
        raise EOFError("there is nothing in it")  # a tar of zeros is a whole one


def _zipped(archive: Path, file: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            kind = info.external_attr >> 28  # of a file made on Unix
            if info.is_dir():
                yield _Member(info.filename, None)
            elif kind not in (0, 0o10):
                raise _refused(info.filename, "is a link, or something else that is no file")
            else:
                with opened.open(info) as content:
                    yield _Member(info.filename, content)


def _tarred(archive: Path, file: IO[bytes]) -> Iterator[_Member]:
    with tarfile.open(fileobj=file, mode="r|*") as opened:
        for info in opened:
            if info.isdir():
                yield _Member(info.name, None)
            elif not info.isreg() or info.issparse():
                raise _refused(info.name, "is a link, or something else that is no file")
            else:
                content = opened.extractfile(info)
                assert content is not None, info.name
                yield _Member(info.name, content)


def _steps(name: str) -> list[str]:
    name = name.replace("\\", "/")
    steps = [step for step in name.split("/") if step not in ("", ".")]
    if name.startswith("/") or ".." in steps or "\0" in name:
        raise _refused(name, "would lie outside of it")
    return steps


def _refused(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"the archive's member {name!a} {why}", hint="unpack it by hand, look, and give the folder"
    )
