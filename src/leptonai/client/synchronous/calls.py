"""`asynchronous/calls.py` as `tools/derive_sync_client.py` made it sync; change that."""

import math
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from leptonai.client.connection import Connection
from leptonai.client.files import Progress, telling
from leptonai.client.http_sync import Http, Feed, pause
from leptonai.client.messages import (
    Answer,
    Cut,
    Lines,
    NotReached,
    Parameter,
    Request,
    get_of,
    is_done_already,
    may_try_again,
    path_of,
    pause_s,
    skip_bytes,
)
from leptonai.errors import Internal, LeptonError, RangeNotSatisfiable, Unavailable
from leptonai.spec.metadata import Metadata
from leptonai.spec.replicas import LogAnswer, LogLine

if TYPE_CHECKING:
    from leptonai.data.shelf import Arriving, Shelf

T = TypeVar("T")

PAGE_SIZE = 500
LOG_PAGE_LINES = 10_000
FIRST_LOOK_S = 0.02  # between two looks at what is waited for; grows to the longest
LONGEST_LOOK_S = 1.0


class Looks:
    """Looks at what somebody waits for, seldomer the longer it takes."""

    def __init__(self, timeout_s: float | None) -> None:
        self._give_up = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._look_s = FIRST_LOOK_S

    @property
    def are_over(self) -> bool:
        """Whether there is no time for another one."""
        return time.monotonic() >= self._give_up

    def pause(self) -> None:
        """Until the next one; the last is at the end of the time."""
        pause(min(self._look_s, max(0.0, self._give_up - time.monotonic())))
        self._look_s = min(LONGEST_LOOK_S, self._look_s * 1.3)


class Calls:
    """Requests to one workspace, sent again while that is safe and may help."""

    def __init__(self, connection: Connection, *, retry_for_s: float, timeout_s: float) -> None:
        self.http = Http(connection.url, timeout_s=timeout_s)
        self.connection = connection
        self._retry_for_s = retry_for_s

    @property
    def shelf(self) -> "Shelf":
        """Where blobs lie on this machine."""
        from leptonai.data.shelf import shelf_of

        return shelf_of(self.connection.blobs)

    def read(self, request: Request, kind: type[T]) -> T:
        return (self.ask(request)).read(kind)

    def ask(self, request: Request) -> Answer:
        """The good answer to a request.

        Raises:
            LeptonError: what the server says; Unavailable if it does not answer.
        """
        give_up = time.monotonic() + self._retry_for_s
        attempt = 0
        while True:
            failure: LeptonError
            wait_s = pause_s(attempt, random.random())  # noqa: S311 - no secret
            try:
                answer = self.http.exchange(request, self.connection.token)
            except NotReached as reason:
                failure, again = self._unavailable(reason), True
            except Cut as reason:
                failure, again = self._unavailable(reason), request.repeatable
            else:
                if answer.ok or (request.linking and answer.status == 307):
                    return answer
                if attempt > 0 and is_done_already(request, answer):
                    return answer
                failure, again = answer.error(), may_try_again(request, answer)
                wait_s = max(wait_s, answer.retry_after_s or 0.0)
            if not again or time.monotonic() + wait_s > give_up:
                raise failure
            pause(wait_s)
            attempt += 1

    def pages(
        self,
        items_of: Callable[[Answer], list[T]],
        *parts: str,
        page_size: int = PAGE_SIZE,
        **query: Parameter,
    ) -> Feed[list[T]]:
        """What a list holds, page by page, until one is not full."""
        page = 1
        while True:
            request = get_of(*parts, **query, page=page, page_size=page_size)
            items = items_of(self.ask(request))
            yield items
            if len(items) < page_size:
                return
            page += 1

    def lines(self, request: Request) -> Feed[str]:
        lines = Lines()
        with closing(self.chunks(request)) as chunks:
            for chunk in chunks:
                for line in lines.feed(chunk):
                    yield line
        for line in lines.end():
            yield line

    def chunks(self, request: Request) -> Feed[bytes]:
        """The body of an answer as it arrives. Where the connection breaks, it is asked for again,
        and what was already seen is skipped: the body only ever grows."""
        seen_bytes = request.start
        attempt = 0
        give_up = time.monotonic() + self._retry_for_s
        while True:
            failure: LeptonError
            seen_before, began = seen_bytes, time.monotonic()
            try:
                if request.ranged:
                    request = replace(request, start=seen_bytes)
                stream = self.http.stream(request, self.connection.token)
                with closing(stream):
                    if stream.status in (200, 206):
                        skip = seen_bytes if stream.status == 200 else 0
                        for whole in stream.chunks():
                            chunk, skip = skip_bytes(whole, skip)
                            if chunk:
                                seen_bytes += len(chunk)
                                yield chunk
                        return
                    answer = Answer(stream.status, stream.read())
                    failure, again = answer.error(), may_try_again(request, answer)
            except (NotReached, Cut) as reason:
                failure, again = self._unavailable(reason), True
            if seen_bytes > seen_before or time.monotonic() - began > self._retry_for_s:
                attempt, give_up = 0, time.monotonic() + self._retry_for_s  # it was up meanwhile
            wait_s = pause_s(attempt, random.random())  # noqa: S311 - no secret
            if not again or time.monotonic() + wait_s > give_up:
                raise failure
            pause(wait_s)
            attempt += 1

    def history(
        self, start_ns: int, end_ns: int, last: int | None = None, **of_what: str | None
    ) -> Feed[LogLine]:
        """Page through `/logs`, forward. Pages overlap in the last instant of the one before."""
        if last is not None:
            for line in self._last_lines(start_ns, end_ns, last, of_what):
                yield line
            return
        while True:
            lines = self._page_of_lines(start_ns, end_ns, "forward", LOG_PAGE_LINES, of_what)
            if len(lines) < LOG_PAGE_LINES:
                for line in lines:
                    yield line
                return
            first_ns, last_ns = int(lines[0][0]), int(lines[-1][0])
            one_instant = first_ns == last_ns  # fills a page: there is no way to ask for its rest
            for line in lines:
                if one_instant or int(line[0]) < last_ns:
                    yield line
            start_ns = last_ns + 1 if one_instant else last_ns

    def _last_lines(
        self, start_ns: int, end_ns: int, last: int, of_what: Mapping[str, str | None]
    ) -> list[LogLine]:
        found: list[LogLine] = []
        while len(found) < last:
            limit = min(LOG_PAGE_LINES, last - len(found))
            page = self._page_of_lines(start_ns, end_ns, "backward", limit, of_what)
            found = [*page, *found]
            if len(page) < limit:
                break
            end_ns = int(page[0][0])
        return found

    def _page_of_lines(
        self,
        start_ns: int,
        end_ns: int,
        direction: str,
        limit: int,
        of_what: Mapping[str, str | None],
    ) -> list[LogLine]:
        """In the order of their times, whatever the direction."""
        request = get_of(
            "logs", start=start_ns, end=end_ns, direction=direction, limit=limit, **of_what
        )
        streams = (self.read(request, LogAnswer)).data.result
        lines = (line for stream in streams for line in stream.values)
        return sorted(lines, key=lambda line: int(line[0]))

    def download(
        self, digest: str, arriving: "Arriving", progress: Progress | None = None
    ) -> None:
        """Have the rest of a blob arrive.

        Raises:
            Internal: what arrives is something else.
        """
        path = path_of("blobs", digest)
        total = 0
        if progress is not None:
            head = self.ask(Request(method="HEAD", path=path))
            total = int(head.headers.get("content-length", 0))
        told = telling(progress, total)
        while arriving.digest != digest:
            begun = arriving.size
            request = Request(method="GET", path=path, ranged=True, start=begun)
            try:
                with closing(self.chunks(request)) as chunks:
                    for chunk in chunks:
                        arriving.write(chunk)
                        if told is not None:
                            told(arriving.size)
            except RangeNotSatisfiable:
                pass  # what was here is longer than the whole
            arrived = arriving.digest
            if arrived == digest:
                return
            arriving.restart()
            if not begun:
                raise Internal(
                    f"the blob {digest} arrived as {arrived}",
                    hint="try again; if it stays so, the blob is damaged: upload it again",
                )

    def _unavailable(self, reason: Exception) -> Unavailable:
        local = self.connection.local
        message = f"cannot reach Lepton at {self.connection.server}: {reason}"
        if local and isinstance(reason, NotReached):
            message = f"no Lepton platform is running at {self.connection.server}: {reason}"
        return Unavailable(message, hint=self.connection.unreachable_hint)


def new_key() -> str:
    return os.urandom(16).hex()  # as `secrets` makes it, which would load OpenSSL's hashes


def sent_metadata(metadata: Metadata) -> Metadata:
    """What is sent of it."""
    name = metadata.name or metadata.id
    return Metadata(id=name, name=name, labels=metadata.labels, visibility=metadata.visibility)
