"""Getting a published file: verified, and resumed where it was cut off."""

import fcntl
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from leptonai.data.progress import Progress
from leptonai.durable import DISK_FULL
from leptonai.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    StorageFull,
    TooLarge,
    Unavailable,
)

MAX_DOWNLOAD_BYTES = 64 << 30
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0  # without a single byte
ATTEMPTS = 5  # in a row that bring nothing new
PAUSE_S = 0.2  # before the next request; doubles with each that brings nothing new
MAX_REQUESTS = 1_000  # for one file


def cache_directory() -> Path:
    """Where data sets are kept: below $XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base) / "leptonai" / "datasets"


@contextmanager
def one_at_a_time(directory: Path) -> Iterator[None]:
    """Several workers of a machine may want the same data set: the others wait for the first."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise StorageFull(
            f"the disk of {directory} is full", hint="free space, or set XDG_CACHE_HOME"
        ) from None


def download(url: str, to: Path, *, sha256: str | None, progress: Progress | None = None) -> None:
    """Have the file at `to`; nothing is sent if it is there already.

    What has come before an interruption is kept beside it, and only the rest is asked for, if the
    server says that it is still the same file.

    Raises:
        InvalidRequest: the address is no web address, or the content is not what was published.
        Forbidden, NotFound, TooLarge: the server does not give it, or gives too much.
        Unavailable: the server cannot be reached, or keeps hanging up.
    """
    if to.exists():
        return
    if not url.startswith(("https://", "http://")):
        raise InvalidRequest(f"{url} is not an address of the web", hint="https://…")
    part, tag = to.with_name(f"{to.name}.part"), to.with_name(f"{to.name}.part.tag")
    failures = 0
    for number in range(MAX_REQUESTS):
        before = _size(part)
        try:
            _fetch(url, part, tag, progress)
            break
        except (http.client.HTTPException, OSError) as error:
            _refuse_if_final(url, error, tag)
            failures = 0 if _size(part) > before else failures + 1
            if failures == ATTEMPTS or number + 1 == MAX_REQUESTS:
                raise Unavailable(
                    f"{url} cannot be fetched: {getattr(error, 'reason', None) or error}",
                    hint="try later: what has come is kept; or give a directory or an archive",
                ) from None
            time.sleep(PAUSE_S * 2**failures)
    found = _sha256(part)
    if sha256 is not None and found != sha256:
        part.unlink()
        tag.unlink(missing_ok=True)
        raise InvalidRequest(
            f"{url} is not what was published: its SHA-256 is {found}, not {sha256}",
            hint="try again; if it stays so, get the file elsewhere",
        )
    part.replace(to)
    tag.unlink(missing_ok=True)


def _fetch(url: str, part: Path, tag: Path, progress: Progress | None) -> None:
    """One request, for what is still missing. Raises ConnectionError if not all of it came."""
    begun, known = _size(part), tag.read_text() if tag.exists() else ""
    request = urllib.request.Request(url)  # noqa: S310  # the scheme was checked
    if begun and known:
        request.add_header("Range", f"bytes={begun}-")
        request.add_header("If-Range", known)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        resumed = answer.status == http.client.PARTIAL_CONTENT and (
            answer.headers.get("Content-Range", "").startswith(f"bytes {begun}-")
        )
        if not resumed:
            begun = 0
            tag.write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
        length = answer.headers.get("Content-Length")
        total = begun + int(length) if length else None
        if (total or 0) > MAX_DOWNLOAD_BYTES:
            raise _too_large(url)
        with part.open("ab" if resumed else "wb") as file:
            size = begun
            for chunk in iter(partial(answer.read, CHUNK_BYTES), b""):
                if progress is not None:
                    progress(size, total or 0)
                size += len(chunk)
                if size > MAX_DOWNLOAD_BYTES:
                    raise _too_large(url)
                file.write(chunk)
            if progress is not None:
                progress(size, total or 0)
    if total is not None and size < total:
        raise ConnectionError(f"the connection was cut after {size} of {total} bytes")


def _refuse_if_final(url: str, error: Exception, tag: Path) -> None:
    """Asking again does not help when the server says no, or when the disk is full."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (401, 403):
            raise Forbidden(f"{url} is not for everybody: {error}", hint="get it by hand") from None
        if error.code in (404, 410):
            raise NotFound(f"there is nothing at {url}", hint="give another address") from None
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            tag.unlink(missing_ok=True)  # what was begun is no part of it: from the start, then
    elif isinstance(error, OSError) and (error.filename or error.errno in DISK_FULL):
        raise error


def _too_large(url: str) -> TooLarge:
    return TooLarge(f"{url} is larger than {MAX_DOWNLOAD_BYTES} bytes", hint="is it the right one?")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
