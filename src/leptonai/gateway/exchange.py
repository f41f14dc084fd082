"""One request and its answer, from the client's first byte to the replica's last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonai.errors import LeptonError

from .answers import Answer, ReplicaFailed, ReplicaTooSlow, RequestTooSlow, error_answer
from .head import IDEMPOTENT, LAST_CHUNK, RequestHead, chunk
from .limits import BODY_BUFFER_BYTES, MAX_REPLAY_BYTES

if TYPE_CHECKING:
    from .downstream import ClientConnection
    from .endpoint import Endpoint, Target
    from .upstream import ReplicaConnection

NOT_ANSWERED = 499  # in metrics: the client left first


class Exchange:
    """Belongs to its client's connection until `done`; at most one replica's connection serves it.

    A request that is refused becomes an exchange too, with its answer ready, so that answers to
    pipelined requests keep their order.
    """

    __slots__ = (
        "_replay",
        "_unsent",
        "_unsent_bytes",
        "answer",
        "chunked",
        "client",
        "close",
        "deadline",
        "done",
        "endpoint",
        "fresh_connection",
        "head_only",
        "held_until",
        "link",
        "replica",
        "request_done",
        "request_id",
        "responding",
        "retryable",
        "started",
        "started_at",
        "status",
        "target",
        "version_1_0",
        "websocket",
    )

    def __init__(self, client: ClientConnection, started_at: float) -> None:
        self.client = client
        self.started_at = started_at
        self.answer: Answer | None = None  # ready without a replica
        self.endpoint: Endpoint | None = None
        self.close = False  # the client's connection afterwards
        self.version_1_0 = False
        self.head_only = False  # HEAD: an answer has no body
        self.websocket = False
        self.chunked = False  # the request's body, towards the replica
        self.request_id = b""
        self.replica = b""  # the one it must go to; b"" leaves the choice to us
        self.retryable = False
        self.fresh_connection = False  # it met a stale connection once: that was its one retry
        self.held_until = 0.0
        self.deadline = 0.0
        self.target: Target | None = None
        self.link: ReplicaConnection | None = None
        self.request_done = False  # all of it was read
        self.responding = False  # the client has been sent the start of an answer
        self.started = False
        self.done = False
        self.status = NOT_ANSWERED
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._replay = b""  # the whole request, while it may still have to be sent again

    def send_to(self, endpoint: Endpoint, head: RequestHead, encoded: bytes) -> None:
        """Make it a request for this endpoint; `encoded` is the head for the replica."""
        self.endpoint = endpoint
        self.chunked = head.chunked
        self.websocket = head.websocket
        self.request_id = head.request_id
        self.retryable = head.method in IDEMPOTENT and not head.websocket
        if endpoint.route.route_by_replica_header:
            self.replica = head.replica
        self.deadline = self.started_at + endpoint.route.timeout_s
        self._unsent.append(encoded)
        self._unsent_bytes = len(encoded)

    # --- the client's side tells ---

    def start(self) -> None:
        """It is this request's turn on its client's connection."""
        if self.answer is not None:
            self._respond(self.answer)
        else:
            assert self.endpoint is not None
            self.started = True
            self.endpoint.in_flight += 1
            self.client.deadline = self.deadline
            self.endpoint.dispatch(self)

    def add_body(self, data: bytes) -> None:
        if self.done or self.answer is not None:
            return  # nobody will read it
        if self.chunked:
            data = chunk(data)
        self._unsent.append(data)
        self._unsent_bytes += len(data)

    def end_body(self) -> None:
        self.request_done = True
        if self.chunked and not self.done:
            self._unsent.append(LAST_CHUNK)
            self._unsent_bytes += len(LAST_CHUNK)

    def flush(self) -> None:
        """Send the replica what has been read."""
        link = self.link
        if link is None or not self._unsent:
            return
        data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        if not link.bytes_sent:
            link.bytes_sent = True
            if self.retryable and self.request_done and len(data) <= MAX_REPLAY_BYTES:
                self._replay = data
        link.transport.write(data)

    @property
    def blocked(self) -> bool:
        """Whether more of the request should not be read for now."""
        if self.link is not None:
            return self.link.write_paused
        return self._unsent_bytes > BODY_BUFFER_BYTES

    def abandon(self) -> None:
        """The client is gone."""
        if self.done:
            return
        link, self.link = self.link, None
        self._settle()
        if link is not None:
            link.exchange = None
            if link.tunnel:
                link.transport.close()
            else:
                link.transport.abort()

    def expire(self, now: float) -> None:
        """The client's deadline, which `start`, `hold` and answers set, has passed."""
        endpoint = self.endpoint
        assert endpoint is not None
        if self.responding:
            self.client.abort()  # neither side said anything for as long as a request may take
        elif now < self.deadline:
            self.client.deadline = self.deadline
            if self in endpoint.held:
                endpoint.give_up(self)
        elif not self.request_done:
            self.fail(
                RequestTooSlow(
                    f"the request's body did not arrive within {endpoint.route.timeout_s} s",
                    hint="send it faster, or raise the endpoint's ingress timeout",
                )
            )
        else:
            self.fail(
                ReplicaTooSlow(
                    f"endpoint {endpoint.route.name!r} did not answer"
                    f" within {endpoint.route.timeout_s} s",
                    hint="make its work shorter, or raise its ingress timeout",
                )
            )

    # --- the replica's side tells ---

    def attach(self, link: ReplicaConnection) -> None:
        """Go out over this connection."""
        self.link = link
        link.serve(self)
        if self.client.write_paused:
            link.transport.pause_reading()
        self.flush()
        self.client.balance_reading()

    def lost(self, link: ReplicaConnection, because: str) -> None:
        """The replica's connection ended before its answer did."""
        self.link = None
        endpoint = self.endpoint
        assert endpoint is not None
        if self.responding:
            self._settle()
            self.client.abort()  # anything else would look like a whole answer
        elif self._replay and link.served > 0 and not link.answered and not self.fresh_connection:
            # It closed an idle connection while our request was on its way.
            self.fresh_connection = True
            self._unsent = [self._replay]
            self._replay = b""
            self._drop_target()
            endpoint.dispatch(self)
        else:
            name = link.target.upstream.replica
            self.fail(
                ReplicaFailed(
                    f"replica {name!r} of endpoint {endpoint.route.name!r} {because}",
                    hint="it may have done the work: repeat the request if that is harmless",
                )
            )

    def fail(self, error: LeptonError) -> None:
        """Answer in the replica's place, if nothing of an answer went out yet."""
        link, self.link = self.link, None
        if link is not None:
            link.exchange = None
            link.transport.abort()
        if self.responding:
            self._settle()
            self.client.abort()
            return
        if error.status >= 500 and self.endpoint is not None:
            self.endpoint.gateway.log_failure(self, error)
        self._respond(error_answer(error, self.request_id))

    def finish(self) -> None:
        """The whole answer has been given to the client's connection."""
        self.link = None
        self._settle()
        self.client.next_exchange(self)

    def _respond(self, answer: Answer) -> None:
        self.status = answer.status
        self.responding = True
        if not self.request_done or self.client.gateway.draining:
            self.close = True
        self.client.transport.write(
            answer.encode(
                close=self.close, keep_alive_1_0=self.version_1_0, head_only=self.head_only
            )
        )
        self.finish()

    def _settle(self) -> None:
        """Let go of everything it holds, and count it."""
        assert not self.done
        self.done = True
        self._unsent.clear()
        self._replay = b""
        self._drop_target()
        endpoint = self.endpoint
        gateway = self.client.gateway
        if endpoint is None:
            gateway.count_refused(self.status)
            return
        if self.started:
            endpoint.in_flight -= 1
            endpoint.held.pop(self, None)
        endpoint.traffic.count(self.status, gateway.now() - self.started_at)

    def _drop_target(self) -> None:
        if self.target is not None:
            self.target.outstanding -= 1
            self.target = None
