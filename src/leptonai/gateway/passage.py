"""What a request's head comes to: where it goes, who sent it, and how a replica reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .head import IDEMPOTENT, RequestHead, upstream_request, value_of

if TYPE_CHECKING:
    from .endpoint import Endpoint


class Passage:
    """Of a request that was let in. Good for every request with the same head, but for its length,
    from the same client, until another route table comes: a connection keeps its last one, so that
    a client which asks the same again is neither read nor judged again.
    """

    __slots__ = (
        "after",
        "before",
        "caller",
        "counts",
        "endpoint",
        "head",
        "key",
        "lasting",
        "path",
        "replica",
        "root",
        "safe",
        "table",
        "wants_events",
    )

    def __init__(
        self,
        head: RequestHead,
        endpoint: Endpoint,
        *,
        prefix: bytes,
        path: bytes,
        address: str,
        caller: str,
        show_authorization: bool,
        table: int,
        lasting: bool = True,
    ) -> None:
        """
        Args:
            prefix: the endpoint's path as the caller sees it; b"" at a host of its own.
            path: the rest of it.
            caller: the digest of a token that was found good; "" without one.
            table: the number of the route table that let it in.
            lasting: it is good for more than this request.
        """
        route = endpoint.route
        self.head = head
        self.endpoint = endpoint
        self.caller = caller
        self.table = table
        self.lasting = lasting
        self.path = path
        counted = endpoint.counted
        self.counts = counted is not None and counted.counts(head.method, path)
        self.root = prefix + b"/"
        self.safe = (head.method in IDEMPOTENT or head.idempotency_key) and not head.websocket
        self.replica = head.replica if route.route_by_replica_header else b""
        plain = endpoint.selection.plain
        self.key = b"" if plain else endpoint.selection.key_of(head, address)
        self.wants_events = (
            route.hold.progress
            and head.method != b"HEAD"
            and not head.websocket
            and b"text/event-stream" in value_of(head.passed, b"accept")
        )
        self.before, self.after = upstream_request(
            head,
            head.target if route.keeps_prefix else path,
            prefix=prefix,
            address=address.encode(),
            client=caller[:16].encode() if caller else address.encode(),
            show_authorization=show_authorization,
            credential=route.credential.encode(),
            plain_answer=endpoint.reads_answers,
        )

    def encoded(self, request_id: bytes, traceparent: bytes, length: bytes | None) -> bytes:
        """The head that goes to a replica."""
        if length is None:
            return b"%b%b\r\ntraceparent: %b%b" % (
                *(self.before, request_id, traceparent, self.after),
            )
        return b"%b%b\r\ntraceparent: %b\r\ncontent-length: %b%b" % (
            *(self.before, request_id, traceparent, length, self.after),
        )
