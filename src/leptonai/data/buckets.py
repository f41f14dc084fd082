"""`BucketSource`: what lies in an object store, read straight into packs.

Credentials are what the environment says (AWS_*, GOOGLE_*, AZURE_*), as the stores' own tools
find them; none are asked for, kept or shown.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from leptonai.blobs.places import check_bucket, open_url
from leptonai.data.walk import MAX_FILES, NEVER_DATA, Listing, changed
from leptonai.errors import Forbidden, LeptonError, NotFound, TooLarge, Unavailable

if TYPE_CHECKING:
    from obstore import GetOptions

READERS = 16  # requests at once: each waits for the network most of its time
CUTS = 5  # of one object's transfer, in a row, that brought nothing new
PAUSE_S = 0.2  # after a cut; doubles
# Without any, the machine's own are asked for, where a cloud's machines have them.
NO_CREDENTIALS = ("403 ", "401 ", "redential", "169.254.169.254", "/latest/api/token")
PIECE_BYTES = 4 << 20


class BucketSource:
    """Everything below a prefix, or one object."""

    readers = READERS
    root = None

    def __init__(self, url: str) -> None:
        """Raises:
        InvalidRequest: the URL names no bucket.
        """
        check_bucket(url)
        self.name = url.rstrip("/")
        self._only = ""  # the name of the one object that is meant
        self._tags: dict[str, str] = {}  # path → ETag, as listed
        self._store = open_url(self.name)

    def list(self) -> Listing:
        """Raises:
        NotFound: nothing lies there, or there is no such bucket.
        Forbidden: the credentials do not allow it, or there are none.
        """
        import obstore

        found: list[tuple[str, int, int, int]] = []
        with self._speaking("listed"):
            for page in obstore.list(self._store):
                for entry in page:
                    path = entry["path"]
                    if not path or not NEVER_DATA.isdisjoint(path.split("/")):
                        continue
                    found.append((path, *self._noted(path, entry)))
                    if len(found) > MAX_FILES:
                        raise TooLarge(
                            f"{self.name} holds more than {MAX_FILES} objects", hint="divide it"
                        )
        folders = {parent for path, *_ in found for parent in _parents(path)}
        # An object of no bytes at the place of a folder is how some tools note it down.
        found = [each for each in found if each[1] or each[0] not in folders]
        if not found:
            found = [self._single()]
        found.sort()
        numbers = np.array([each[1:] for each in found], np.int64).reshape(len(found), 3)
        stamps = np.zeros((len(found), 3), np.int64)
        stamps[:, 0], stamps[:, 2] = numbers[:, 1], numbers[:, 2]
        return Listing([each[0] for each in found], numbers[:, 0], stamps)

    def stretches(self) -> Iterator[Listing]:
        yield self.list()

    def read_into(self, path: str, buffer: memoryview) -> int:
        import obstore

        with self._speaking("read", path):
            data = obstore.get(self._store, self._key(path), options=self._same(path)).bytes()
        size = min(len(data), len(buffer))
        buffer[:size] = memoryview(data)[:size]
        return size

    def chunks(self, path: str) -> Iterator[memoryview]:
        """Where the connection is cut, only the rest is asked for, of the same object."""
        import obstore

        at, cuts = 0, 0
        while True:
            before = at
            try:
                with self._speaking("read", path):
                    answer = obstore.get(self._store, self._key(path), options=self._same(path, at))
                    size = answer.meta["size"]
                    for piece in answer.stream(min_chunk_size=PIECE_BYTES):
                        view = memoryview(piece)
                        at += len(view)
                        yield view
                if at >= size:
                    return
                raise Unavailable(f"{path} ended after {at} of {size} bytes", hint="try again")
            except Unavailable:
                cuts = 0 if at > before else cuts + 1
                if cuts == CUTS:
                    raise
                time.sleep(PAUSE_S * 2**cuts)

    def _single(self) -> tuple[str, int, int, int]:
        """The URL names one object, or nothing."""
        import obstore

        above, _, name = self.name.rpartition("/")
        nothing = NotFound(f"there is nothing at {self.name}", hint="check bucket and prefix")
        if not urlsplit(above).netloc:
            raise nothing
        self._store, self._only = open_url(above), name
        with self._speaking("found"):
            try:
                entry = obstore.head(self._store, name)
            except FileNotFoundError:
                raise nothing from None
        return (name, *self._noted(name, entry))

    def _noted(self, path: str, entry: Any) -> tuple[int, int, int]:
        """Size, time and a number drawn from the ETag: while they are as they were, so are the
        bytes."""
        tag = entry["e_tag"] or ""
        self._tags[path] = tag
        drawn = hashlib.blake2b(tag.encode(), digest_size=7).digest()
        written_ns = round(entry["last_modified"].timestamp() * 1_000) * 1_000_000
        return entry["size"], written_ns, int.from_bytes(drawn, "little")

    def _same(self, path: str, at: int = 0) -> "GetOptions":
        """Only of the object that was listed, not of one that overwrote it meanwhile."""
        options: GetOptions = {}
        if tag := self._tags.get(path):
            options["if_match"] = tag
        if at:
            options["range"] = {"offset": at}
        return options

    def _key(self, path: str) -> str:
        return self._only or path

    @contextmanager
    def _speaking(self, done: str, path: str = "") -> Iterator[None]:
        from obstore import exceptions

        what = f"{self.name}/{path}" if path and not self._only else self.name
        try:
            yield
        except LeptonError:
            raise
        except (PermissionError, exceptions.PermissionDeniedError) as error:
            raise _forbidden(what, done) from error
        except exceptions.UnauthenticatedError as error:
            raise _forbidden(what, done) from error
        except exceptions.PreconditionError as error:
            raise changed(path) from error
        except FileNotFoundError as error:
            if path:
                raise changed(path) from error
            raise NotFound(f"{what} does not exist", hint="check the bucket's name") from error
        except exceptions.BaseError as error:
            text = str(error)
            if "NoSuchBucket" in text or "404 Not Found" in text:
                raise NotFound(f"{what} does not exist", hint="check the bucket's name") from error
            if any(word in text for word in NO_CREDENTIALS):
                raise _forbidden(what, done) from error
            raise Unavailable(
                f"{what} cannot be {done}: {text.splitlines()[0][:300]}",
                hint="what was stored is kept: try again",
            ) from error


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _forbidden(what: str, done: str) -> Forbidden:
    return Forbidden(
        f"{what} may not be {done} with the credentials of this environment",
        hint="set AWS_*, GOOGLE_* or AZURE_* variables of somebody who may list and read it",
    )
