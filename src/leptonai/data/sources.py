"""Which source a text means."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from leptonai.data.commit import Progress
from leptonai.data.source import LocalSource, Source
from leptonai.errors import InvalidRequest

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@contextlib.contextmanager
def open_source(place: str | Path, *, progress: Progress | None = None) -> Iterator[Source]:
    """Raises:
    NotFound: there is nothing of that name.
    InvalidRequest: no source is named like that.
    """
    url = _URL.match(place) if isinstance(place, str) else None
    if url is None:
        yield LocalSource(place)
        return
    raise InvalidRequest(
        f"{str(place)!a} is not a source", hint="a path, or s3://, gs://, az://, https://"
    )
