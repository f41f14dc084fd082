"""Which source a text means: a path, an archive, a bucket, an address of the web."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from leptonai.data.progress import Steps
from leptonai.data.source import LocalSource, Source
from leptonai.errors import InvalidRequest

CACHE = "sources"  # in the cache of data sets
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@contextmanager
def open_source(place: str | Path, progress: Steps | None = None) -> Iterator[Source]:
    """Archives are unpacked, and what is fetched from the web is kept until the commit is done, so
    that an interrupted one goes on where it was.

    Args:
        progress: is told how much is fetched from the web, and of an archive unpacked.

    An address may end in `#sha256=…`, and then what comes must have that digest.

    Raises:
        NotFound: there is nothing of that name.
        InvalidRequest: no source is named like that, or it is not what the digest names.
        Forbidden, Unavailable: it cannot be got.
    """
    scheme = _SCHEME.match(place) if isinstance(place, str) else None
    if scheme is None:
        path = Path(place)
        if _is_archive(path):
            yield _unpacked(path, str(path.absolute()), progress)
        else:
            yield LocalSource(path)
        return
    assert isinstance(place, str)
    match scheme[1].lower():
        case "http" | "https":
            file, source = _fetched(place, progress)
            yield source
            file.unlink()  # it was read: the next commit is of what is there then
        case "s3" | "gs" | "az":
            from leptonai.data.buckets import BucketSource

            yield BucketSource(place)
        case other:
            raise InvalidRequest(
                f"{other}:// is no source", hint="a path, or s3://, gs://, az://, https://"
            )


def _fetched(url: str, progress: Steps | None) -> tuple[Path, Source]:
    from leptonai.data.sets.places import fetched

    bare, _, fragment = url.partition("#")
    named = parse_qs(fragment).get("sha256", [""])[0].lower()
    if fragment and not re.fullmatch(r"[0-9a-f]{64}", named):
        raise InvalidRequest(f"#{fragment[:100]} names no digest", hint="end it in #sha256=…")
    if not urlsplit(bare).hostname or urlsplit(bare).username:
        raise InvalidRequest(f"{bare!a} is no address of the web", hint="https://…")
    file = fetched(CACHE, bare, sha256=named or None, progress=progress)
    return file, _unpacked(file, bare, progress) if _is_archive(file) else _Named(file, bare)


def _unpacked(archive: Path, name: str, progress: Steps | None) -> Source:
    """What an archive holds; its one folder, if that is all there is in it."""
    from leptonai.data.sets.places import Published, unpacked

    if archive.stat().st_size == 0:
        raise InvalidRequest(f"{archive.name} is empty: 0 bytes", hint="get it again")
    nowhere = Published(url="", sha256="")
    root = unpacked(CACHE, archive, nowhere, sha256=None, progress=progress)
    inside = [each for each in root.iterdir() if each.name != "__MACOSX"]
    if len(inside) == 1 and inside[0].is_dir():
        root = inside[0]
    return _Named(root, name)


class _Named(LocalSource):
    """Files of this machine that came from elsewhere: people are told where."""

    def __init__(self, place: Path, name: str) -> None:
        super().__init__(place)
        self.name = name


def _is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ARCHIVES)
