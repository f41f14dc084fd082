"""Where a ready-made data set comes from: its publisher, another address, or this machine."""

import hashlib
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from leptonai.data.progress import Steps, of_step
from leptonai.data.sets.archives import unpack
from leptonai.data.sets.downloads import cache_directory, download, one_at_a_time
from leptonai.errors import NotFound

IDENTITY_DIGITS = 16  # of a hash that names a directory of the cache


class Published(NamedTuple):
    """A file as its authors published it."""

    url: str
    sha256: str


def is_address(source: str | Path) -> bool:
    return isinstance(source, str) and "://" in source


def fetched(name: str, url: str, *, sha256: str | None, progress: Steps | None = None) -> Path:
    """The file, in the cache of this data set; downloaded unless it is there."""
    directory = cache_directory() / name / _identity(url, sha256 or "")
    file = directory / (urlsplit(url).path.rpartition("/")[2] or "file")
    with one_at_a_time(directory):
        download(url, file, sha256=sha256, progress=of_step(progress, "fetching"))
    return file


def unpacked(
    name: str,
    source: str | Path | None,
    archive: Published,
    *,
    sha256: str | None,
    progress: Steps | None = None,
) -> Path:
    """The directory that holds the data set.

    Args:
        source: a directory, an archive, or an address of one; by default the publisher's.
        sha256: of the archive at a given address; not checked unless given.
        progress: is told how much is fetched, then how much of the archive unpacked.

    Raises:
        NotFound: there is no such file or directory.
        InvalidRequest: the archive is not what was published, or cannot be unpacked.
    """
    if source is None:
        path = fetched(name, archive.url, sha256=archive.sha256, progress=progress)
    elif is_address(source):
        path = fetched(name, str(source), sha256=sha256, progress=progress)
    else:
        path = Path(source)
    if path.is_dir():
        return path
    if not path.is_file():
        raise NotFound(f"there is no {path}", hint="give a directory, an archive or an address")
    status = path.stat()
    identity = _identity(str(path.resolve()), str(status.st_size), str(status.st_mtime_ns))
    directory = cache_directory() / name / f"unpacked-{identity}"
    with one_at_a_time(directory.parent):
        if not directory.exists():
            unpack(path, directory, progress=of_step(progress, "unpacking"))
    return directory


def _identity(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:IDENTITY_DIGITS]
