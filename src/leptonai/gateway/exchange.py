"""One request and its answer, from the client's first byte to the replica's last."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from leptonai.errors import LeptonError

from . import events
from .answers import Answer, body_too_slow, error_answer, replica_too_slow
from .deadlines import with_time_left
from .head import LAST_CHUNK
from .limits import BODY_BUFFER_BYTES, PROGRESS_S
from .observers import Digest, Observer
from .outgoing import Outgoing

if TYPE_CHECKING:
    from .downstream import ClientConnection
    from .endpoint import Endpoint
    from .hedges import Hedge
    from .passage import Passage
    from .target import Target
    from .tracing import Span
    from .upstream import ReplicaConnection

NOT_ANSWERED = 499  # in metrics: the client left first


class Exchange(Outgoing):
    """Belongs to its client's connection until `done`; at most one replica's connection serves it.

    A request that is refused becomes an exchange too, with its answer ready, so that answers to
    pipelined requests keep their order.
    """

    __slots__ = (
        "_arrived",
        "_dispatched_at",
        "answer",
        "attempts",
        "client",
        "close",
        "cookie",
        "deadline",
        "done",
        "endpoint",
        "events",
        "extra",
        "failed_target",
        "fresh_connection",
        "head_only",
        "hedge",
        "held_until",
        "link",
        "logged",
        "observers",
        "page",
        "passage",
        "request_done",
        "request_id",
        "responding",
        "sent",
        "shadow",
        "span",
        "started",
        "started_at",
        "status",
        "target",
        "version_1_0",
    )

    def __init__(self, client: ClientConnection, started_at: float) -> None:
        super().__init__()
        self.client = client
        self.started_at = started_at
        self.answer: Answer | None = None  # ready without a replica
        self.page: Callable[[], Awaitable[Answer]] | None = None  # makes it when it is its turn
        self.passage: Passage | None = None  # of one that goes to a replica
        self.endpoint: Endpoint | None = None
        self.version_1_0 = False
        self.close = False  # the client's connection ends with it
        self.head_only = False  # the answer has no body
        self.request_id = b""
        self.sent = False  # a replica has been sent a byte of it
        self.attempts = 0  # replicas it was sent to
        self.failed_target: Target | None = None  # the last that did not answer it
        self.fresh_connection = False  # it met a stale connection: the next shall be a new one
        self.held_until = 0.0
        self.deadline = 0.0
        self.target: Target | None = None
        self.hedge: Hedge | None = None  # what may send it to a second replica
        self.link: ReplicaConnection | None = None
        self.request_done = False  # all of it was read
        self.responding = False  # the client has been sent the start of an answer
        self.started = False
        self.done = False
        self.status = NOT_ANSWERED
        self.extra = b""  # more header lines of the answer
        self.cookie = b""  # a header line that brings the caller back to its replica
        self.observers: tuple[Observer, ...] = ()  # of the answer's body
        self.shadow: Digest | None = None  # a copy goes to the shadow version
        self.span: Span | None = None  # it is recorded
        self.logged: tuple[bytes, bytes, bytes] | None = None  # method, target, traceparent
        self.events = False  # the answer has begun as an event stream, while it was held
        self._arrived = False  # it is counted among the arrivals
        self._dispatched_at = 0.0

    def send_to(self, passage: Passage, encoded: bytes, request_id: bytes) -> None:
        """Make it a request to an endpoint; `encoded` is the head for the replica."""
        self.passage = passage
        self.endpoint = endpoint = passage.endpoint
        self.request_id = request_id
        head = passage.head
        self.chunked = head.chunked
        timeout_s: float = endpoint.route.timeout_s
        if head.timeout_ms is not None:
            timeout_s = min(timeout_s, head.timeout_ms / 1000)
        self.deadline = self.started_at + timeout_s
        self._unsent.append(encoded)
        self._unsent_bytes = len(encoded)

    # --- the client's side tells ---

    def start(self, now: float) -> None:
        """It is this request's turn on its client's connection."""
        endpoint, passage = self.endpoint, self.passage
        if self.answer is not None:
            self.respond(self.answer)
            return
        if self.page is not None:
            self.client.deadline = math.inf  # whoever makes it has one
            self.client.gateway.make(self, self.page)
            return
        assert endpoint is not None and passage is not None
        self.started = True
        endpoint.tally.arrive()
        self.client.deadline = self.deadline
        if passage.head.timeout_ms is not None:
            self.client.gateway.loop.call_at(self.deadline, self._caller_gave_up)
        endpoint.dispatch(self, now)

    def add_body(self, data: bytes) -> None:
        if not self.done and self.answer is None:  # else nobody will read it
            self.put(data)

    def end_body(self) -> None:
        self.request_done = True
        if not self.done:
            self.put_end()

    def flush(self) -> None:
        """Send the replica what has been read."""
        link = self.link
        if link is None or not self._unsent:
            return
        data = self.take()
        if not link.bytes_sent and self.passage.head.timeout_ms is not None:  # type: ignore[union-attr]
            left_s = self.deadline - self.client.gateway.now()
            data = with_time_left(data, max(0, int(1000 * left_s)))
        link.bytes_sent = self.sent = True
        if self.kept:
            self.keep(data, self.client.gateway)
        link.transport.write(data)

    def again(self) -> None:
        """Be ready to go out from the start."""
        self.rewind(self.client.gateway)
        self.fresh_connection = True

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
        self._settle(self.client.gateway.now())
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
            if self in endpoint.tally.held:
                endpoint.give_up(self)
        elif not self.request_done:
            self.fail(body_too_slow(self._patience_s))
        else:
            route, patience_s = endpoint.route, self._patience_s
            asked = patience_s < route.timeout_s
            self.fail(replica_too_slow(route.name, patience_s, as_asked=asked))

    def _caller_gave_up(self) -> None:
        if not self.done and not self.responding:
            self.expire(self.deadline)

    @property
    def _patience_s(self) -> float:
        """How long this request may take."""
        return round(self.deadline - self.started_at, 3)

    # --- the replica's side tells ---

    @property
    def plain(self) -> bool:
        """Whether an answer may reach the client as it comes: nobody looks at it, or adds to it."""
        return not (
            self.observers
            or self.extra
            or self.cookie
            or self.events
            or self.head_only
            or self.version_1_0
            or self.attempts > 1
        )

    def attach(self, link: ReplicaConnection) -> None:
        """Go out over this connection."""
        self.link = link
        link.serve(self)
        if self.client.write_paused:
            link.transport.pause_reading()
        self.flush()
        self.client.balance_reading()

    def sent_to(self, target: Target, now: float) -> None:
        """A replica was chosen."""
        traffic = target.traffic
        if not self._arrived:
            self._arrived = True
            traffic.arrivals += 1
        traffic.dispatched(now)
        self.target = target
        self._dispatched_at = now
        self.attempts += 1
        passage = self.passage
        assert passage is not None
        selection = passage.endpoint.selection
        if selection.cookie:
            name = selection.name_of(target)
            self.cookie = (
                b""
                if passage.key == name
                else b"set-cookie: %b=%b; Path=%b; HttpOnly; SameSite=Lax\r\n"
                % (selection.cookie, name, passage.root)
            )

    def drop_target(self, now: float) -> None:
        target, self.target = self.target, None
        if target is not None:
            target.release()
            target.traffic.returned(now)

    def wait_in_hold(self) -> None:
        """There is no replica for it yet."""
        self._arrived_unserved()
        assert self.passage is not None
        if self.passage.wants_events and not self.version_1_0 and not self.events:
            self.events = self.close = True
            self.client.transport.write(events.HEAD % (self.request_id, self.extra))
            self._tell_that_it_waits()

    def _tell_that_it_waits(self) -> None:
        endpoint = self.endpoint
        assert endpoint is not None
        if self in endpoint.tally.held:
            gateway = self.client.gateway
            waited_s = int(gateway.now() - self.started_at)
            self.client.transport.write(events.waiting(waited_s))
            gateway.loop.call_later(PROGRESS_S, self._tell_that_it_waits)

    def answer_lines(self) -> bytes:
        """Header lines that are ours."""
        if self.attempts > 1:
            return b"%b%bx-lepton-attempts: %d\r\n" % (self.extra, self.cookie, self.attempts)
        return self.extra + self.cookie

    def lost(self, link: ReplicaConnection, because: str, *, garbled: bool = False) -> None:
        """The replica's connection ended before its answer did.

        Args:
            garbled: what it sent is no HTTP, and would not be any better a second time.
        """
        if self.hedge is not None and self.hedge.lost(link):
            return
        self.link = None
        endpoint = self.endpoint
        assert endpoint is not None
        if self.responding:
            link.target.traffic.lost_attempts += 1
            self._settle(self.client.gateway.now())
            self.client.abort()  # anything else would look like a whole answer
            return
        stale = link.served > 0 and not link.answered and not self.fresh_connection
        endpoint.lost(self, link.target, stale=stale, garbled=garbled, because=because)

    def fail(self, error: LeptonError) -> None:
        """Answer in the replica's place, if nothing of an answer went out yet."""
        link, self.link = self.link, None
        if link is not None:
            link.exchange = None
            link.transport.abort()
        if self.responding:
            self._settle(self.client.gateway.now())
            self.client.abort()
            return
        if error.status >= 500 and self.endpoint is not None:
            self.endpoint.gateway.log_failure(self, error)
        self.respond(error_answer(error, self.request_id))

    def finish(self, now: float) -> None:
        """The whole answer of a replica has been given to the client's connection."""
        self.link = None
        if self.shadow is not None:
            self._send_to_shadow(self.shadow)
        self._settle(now, served=True)
        self.client.next_exchange(self, now)

    def _send_to_shadow(self, digest: Digest) -> None:
        endpoint = self.endpoint
        assert endpoint is not None
        if endpoint.shadows is not None and self.kept and self.request_done:
            endpoint.shadows.send(
                self.whole(),
                status=self.status,
                digest=digest.value,
                timeout_s=endpoint.route.timeout_s,
            )

    def named(self) -> dict[str, str]:
        """What a line of the log says of it."""
        assert self.endpoint is not None
        route = self.endpoint.route
        return {
            "workspace": route.workspace,
            "endpoint": route.name,
            "request_id": self.request_id.decode("ascii"),
        }

    def respond(self, answer: Answer) -> None:
        """In a replica's place."""
        self.status = answer.status
        self.responding = True
        if not self.request_done or self.client.gateway.draining:
            self.close = True
        self.client.transport.write(
            events.failed(answer.body) + LAST_CHUNK
            if self.events
            else answer.encode(
                close=self.close, keep_alive_1_0=self.version_1_0, head_only=self.head_only
            )
        )
        now = self.client.gateway.now()
        self._settle(now)
        self.client.next_exchange(self, now)

    def _settle(self, now: float, *, served: bool = False) -> None:
        """Let go of everything it holds, and count it.

        Args:
            served: a replica answered it to the end.
        """
        assert not self.done
        self.done = True
        if self.hedge is not None:
            self.hedge.end()
        gateway = self.client.gateway
        self._unsent.clear()
        if self._sent:
            self.forget_sent(gateway)
        endpoint = self.endpoint
        if endpoint is None:
            gateway.count_refused(self.status)
            return
        tally = endpoint.tally
        if not self.started:
            if self.answer is not None:
                tally.deny(self.status)
            return
        tally.in_flight -= 1
        if tally.held:
            tally.held.pop(self, None)
        if not self._arrived:
            self._arrived_unserved()
        target = self.target or self.failed_target
        traffic = tally.unserved if target is None else target.traffic
        if self.target is not None:
            self.drop_target(now)
        traffic.count(self.status, now - self.started_at)
        if self.attempts:
            for observer in self.observers:
                observer.end()
        if self.span is not None:
            assert gateway.tracer is not None
            gateway.tracer.end(self, self.span, now, target)
        if self.logged is not None:
            assert gateway.access_log is not None
            gateway.access_log.note(self, now, target)
        if served:
            traffic.served(now - self._dispatched_at)
            assert target is not None
            target.answered(self.status, now, gateway.limits.eject_s)

    def _arrived_unserved(self) -> None:
        if not self._arrived:
            self._arrived = True
            assert self.endpoint is not None
            self.endpoint.tally.unserved.arrivals += 1
