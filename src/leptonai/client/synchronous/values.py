"""`asynchronous/values.py` as `tools/derive_sync_client.py` made it sync; change that."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from leptonai.client.synchronous.calls import Calls, Looks, new_key
from leptonai.client.files import Progress, digest_of, telling
from leptonai.client.http_sync import Feed, in_thread
from leptonai.client.messages import Request, delete_of, get_of, path_of, post_to
from leptonai.errors import Internal, InvalidRequest, NotFound
from leptonai.spec.values import (
    MAX_KEY_BYTES,
    KeyList,
    KeySpace,
    ObjectFacts,
    ObjectLink,
    ObjectList,
    Queue,
    QueueLength,
    QueueMessage,
)

KEYS_PAGE = 1_000
OCTETS = "application/octet-stream"


class KeySpaces:
    """Small values by key, for workloads to share."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(self, name: str) -> KeySpace:
        path = path_of("kv", "namespaces", name)
        return self._calls.read(Request(method="POST", path=path), KeySpace)

    def list(self) -> Sequence[KeySpace]:
        return self._calls.read(get_of("kv", "namespaces"), list[KeySpace])

    def remove(self, name: str) -> None:
        """With all its values."""
        self._calls.ask(delete_of("kv", "namespaces", name))

    def keys(self, space: str, prefix: str = "") -> Feed[str]:
        """In the order in which they were first put."""
        where, cursor = ("kv", "namespaces", space, "keys"), 0
        while True:
            request = get_of(*where, prefix=prefix or None, cursor=cursor, limit=KEYS_PAGE)
            page = self._calls.read(request, KeyList)
            for key in page.keys:
                yield key
            if not page.cursor:
                return
            cursor = page.cursor

    def get(self, space: str, key: str) -> bytes:
        """Raises:
        NotFound: nothing was put there.
        """
        return (self._calls.ask(get_of(*_value_at(space, key)))).body

    def put(self, space: str, key: str, value: bytes) -> None:
        """In place of what was there."""
        path = path_of(*_value_at(space, key))
        # Putting the same twice is putting it once, so it has a key.
        self._calls.ask(
            Request(method="POST", path=path, body=value, media=OCTETS, key=new_key())
        )

    def delete(self, space: str, key: str) -> None:
        """Also one that is not there."""
        self._calls.ask(delete_of(*_value_at(space, key)))


class Queues:
    """Messages that workloads hand each other: each goes to one receiver at most."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(self, name: str) -> Queue:
        return self._calls.read(post_to("/queue", Queue(name=name), key=""), Queue)

    def list(self) -> Sequence[Queue]:
        return self._calls.read(get_of("queue"), list[Queue])

    def remove(self, name: str) -> None:
        """With all its messages."""
        self._calls.ask(delete_of("queue", name))

    def length(self, name: str) -> int:
        """How many messages wait."""
        return (self._calls.read(get_of("queue", name, "length"), QueueLength)).length

    def send(self, name: str, message: str) -> None:
        """At the end. The same text, sent within five minutes, is one message: so it is sent again
        when no answer comes."""
        path = path_of("queue", name, "messages")
        self._calls.ask(post_to(path, QueueMessage(message=message), key=new_key()))

    def receive(self, name: str, *, timeout_s: float = 0.0) -> str | None:
        """Take the first message, and wait for one as long as that; None where none came.

        Raises:
            Unavailable: no answer came; the message that it may have held is lost.
        """
        request = replace(get_of("queue", name, "messages"), once=True)
        looks = Looks(timeout_s)
        while True:
            if found := self._calls.read(request, list[QueueMessage]):
                return found[0].message
            if looks.are_over:
                return None
            looks.pause()


class Objects:
    """Files under names of the user's choice. `bucket` is "private", whose objects only their
    owners see, or "public", whose objects everybody in the workspace reads."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def list(self, bucket: str, prefix: str = "") -> Feed[ObjectFacts]:
        """By their keys."""
        after = ""
        while True:
            request = get_of(
                "object_storage", bucket, prefix=prefix or None, continuation=after or None
            )
            page = self._calls.read(request, ObjectList)
            for item in page.items:
                yield item
            after = page.nextContinuationToken
            if not after:
                return

    def put(
        self, bucket: str, key: str, file: Path, progress: Progress | None = None
    ) -> None:
        """In place of what was there, when all of it has come."""
        try:
            told = telling(progress, file.stat().st_size)
        except FileNotFoundError as missing:
            raise NotFound(f"there is no {file}", hint="check the path") from missing
        path = path_of("objects", bucket, *_key_parts(key))
        self._calls.ask(Request(method="PUT", path=path, body=file, told=told))

    def get(self, bucket: str, key: str, to: Path, progress: Progress | None = None) -> None:
        """Fetch one into a file. What has come of it is kept beside its place, for the next try.

        Raises:
            NotFound: there is none.
            Internal: what arrived is something else; nothing of it stays.
        """
        path = path_of("objects", bucket, *_key_parts(key))
        try:
            head = self._calls.ask(Request(method="HEAD", path=path))
        except NotFound:  # whose answer to HEAD has no words
            raise NotFound(
                f"there is no object {key!r} in the {bucket} bucket",
                hint="`leptonai object list` shows what there is",
            ) from None
        size, digest = int(head.headers.get("content-length", 0)), head.headers.get("etag", "")
        digest = digest.strip('"')
        draft = to.with_name(f".{to.name}.{digest[-16:]}.part")
        start = draft.stat().st_size if draft.exists() else 0
        with draft.open("ab") as file:
            if start < size:
                request = Request(method="GET", path=path, ranged=True, start=start)
                with closing(self._calls.chunks(request)) as chunks:
                    for chunk in chunks:
                        in_thread(file.write, chunk)
                        start += len(chunk)
                        if progress is not None:
                            progress(start, size)
        arrived, _ = in_thread(digest_of, draft)
        if arrived != digest:
            draft.unlink()
            raise Internal(
                f"{key} is not what arrived, or was replaced meanwhile", hint="fetch it again"
            )
        draft.replace(to)

    def remove(self, bucket: str, key: str) -> None:
        """Also one that is not there."""
        self._calls.ask(delete_of("object_storage", bucket, *_key_parts(key)))

    def link(self, bucket: str, key: str, *, writes: bool = False) -> str:
        """A URL that reads the object, or writes it, without a token: for 15 minutes; one that
        reads a public one for seven days."""
        signed = bucket if bucket == "public" and not writes else f"{bucket}_presigned"
        path = path_of("object_storage", signed, *_key_parts(key))
        request = Request(method="PUT" if writes else "GET", path=path, linking=True)
        return (self._calls.read(request, ObjectLink)).url


def _value_at(space: str, key: str) -> tuple[str, ...]:
    if not key:
        raise InvalidRequest("the key is empty", hint=f"a key has 1 to {MAX_KEY_BYTES} bytes")
    return ("kv", "namespaces", space, "values", *_key_parts(key))


def _key_parts(key: str) -> list[str]:
    """Of a key with slashes in it.

    Raises:
        InvalidRequest: no URL could hold it.
    """
    parts = key.split("/")
    if not all(part.strip(".") or len(part) > 2 for part in parts):
        raise InvalidRequest(
            f"{key!r} is no key", hint="what stands between its slashes is neither '', '.' nor '..'"
        )
    return parts
