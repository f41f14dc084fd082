"""One request and its answer, from the client's first byte to the replica's last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonai.errors import LeptonError

from . import events
from .answers import Answer, ReplicaTooSlow, RequestTooSlow, error_answer
from .deadlines import with_time_left
from .head import IDEMPOTENT, LAST_CHUNK, RequestHead, value_of
from .limits import BODY_BUFFER_BYTES, PROGRESS_S
from .observers import Digest, Observer
from .outgoing import Outgoing

if TYPE_CHECKING:
    from .downstream import ClientConnection
    from .endpoint import Endpoint
    from .hedges import Hedge
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
        "_caller_deadline",
        "_dispatched_at",
        "_wants_events",
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
        "key",
        "link",
        "logged",
        "observers",
        "replica",
        "request_done",
        "request_id",
        "responding",
        "root",
        "safe",
        "sent",
        "shadow",
        "span",
        "started",
        "started_at",
        "status",
        "target",
        "version_1_0",
        "websocket",
    )

    def __init__(self, client: ClientConnection, started_at: float) -> None:
        super().__init__()
        self.client = client
        self.started_at = started_at
        self.answer: Answer | None = None  # ready without a replica
        self.endpoint: Endpoint | None = None
        self.version_1_0 = False
        self.close = False  # the client's connection ends with it
        self.head_only = False  # the answer has no body
        self.websocket = False
        self.request_id = b""
        self.replica = b""  # the one it must go to; b"" leaves the choice to us
        self.key = b""  # what its replica is chosen by, where not by load
        self.safe = False  # to do twice
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
        self.root = b"/"  # the endpoint's path, as the caller sees it
        self.cookie = b""  # a header line that brings the caller back to its replica
        self.observers: tuple[Observer, ...] = ()  # of the answer's body
        self.shadow: Digest | None = None  # a copy goes to the shadow version
        self.span: Span | None = None  # it is recorded
        self.logged: tuple[bytes, bytes, bytes] | None = None  # method, target, traceparent
        self.events = False  # the answer has begun as an event stream, while it was held
        self._wants_events = False
        self._caller_deadline = False  # the caller said how long it waits
        self._arrived = False  # it is counted among the arrivals
        self._dispatched_at = 0.0

    def send_to(self, endpoint: Endpoint, head: RequestHead, encoded: bytes) -> None:
        """Make it a request for this endpoint; `encoded` is the head for the replica."""
        self.endpoint = endpoint
        self.chunked = head.chunked
        self.websocket = head.websocket
        self.request_id = head.request_id
        self.safe = (head.method in IDEMPOTENT or head.idempotency_key) and not head.websocket
        if endpoint.route.route_by_replica_header:
            self.replica = head.replica
        self.deadline = self.started_at + endpoint.route.timeout_s
        if head.timeout_ms is not None:
            self._caller_deadline = True
            self.deadline = min(self.deadline, self.started_at + head.timeout_ms / 1000)
        if endpoint.route.hold.progress and not self.version_1_0 and not head.websocket:
            accepted = value_of(head.lines, b"accept")
            self._wants_events = not self.head_only and b"text/event-stream" in accepted
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
            self.endpoint.tally.arrive()
            self.client.deadline = self.deadline
            if self._caller_deadline:
                self.client.gateway.loop.call_at(self.deadline, self._caller_gave_up)
            self.endpoint.dispatch(self)

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
        if self._caller_deadline and not link.bytes_sent:
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
            if self in endpoint.tally.held:
                endpoint.give_up(self)
        elif not self.request_done:
            self.fail(
                RequestTooSlow(
                    f"the request's body did not arrive within {self._patience_s:g} s",
                    hint="send it faster, or raise the endpoint's ingress timeout",
                )
            )
        else:
            self.fail(
                ReplicaTooSlow(
                    f"endpoint {endpoint.route.name!r} did not answer"
                    f" within {self._patience_s:g} s",
                    hint="make its work shorter, or raise its ingress timeout",
                )
            )

    def _caller_gave_up(self) -> None:
        if not self.done and not self.responding:
            self.expire(self.deadline)

    @property
    def _patience_s(self) -> float:
        """How long this request may take."""
        return round(self.deadline - self.started_at, 3)

    # --- the replica's side tells ---

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
        assert self.endpoint is not None
        selection = self.endpoint.selection
        if selection.cookie:
            name = selection.name_of(target)
            self.cookie = (
                b""
                if self.key == name
                else b"set-cookie: %b=%b; Path=%b; HttpOnly; SameSite=Lax\r\n"
                % (selection.cookie, name, self.root)
            )

    def drop_target(self, now: float) -> None:
        target, self.target = self.target, None
        if target is not None:
            target.release()
            target.traffic.returned(now)

    def wait_in_hold(self) -> None:
        """There is no replica for it yet."""
        self._arrived_unserved()
        if self._wants_events and not self.events:
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
            self._settle()
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
            self._settle()
            self.client.abort()
            return
        if error.status >= 500 and self.endpoint is not None:
            self.endpoint.gateway.log_failure(self, error)
        self._respond(error_answer(error, self.request_id))

    def finish(self) -> None:
        """The whole answer of a replica has been given to the client's connection."""
        self.link = None
        endpoint = self.endpoint
        assert endpoint is not None
        shadows = endpoint.shadows
        if self.shadow is not None and shadows is not None and self.kept and self.request_done:
            shadows.send(
                self.whole(),
                status=self.status,
                digest=self.shadow.value,
                timeout_s=endpoint.route.timeout_s,
            )
        self._settle(served=True)
        self.client.next_exchange(self)

    def named(self) -> dict[str, str]:
        """What a line of the log says of it."""
        assert self.endpoint is not None
        route = self.endpoint.route
        return {
            "workspace": route.workspace,
            "endpoint": route.name,
            "request_id": self.request_id.decode("ascii"),
        }

    def _respond(self, answer: Answer) -> None:
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
        self._settle()
        self.client.next_exchange(self)

    def _settle(self, *, served: bool = False) -> None:
        """Let go of everything it holds, and count it.

        Args:
            served: a replica answered it to the end.
        """
        assert not self.done
        self.done = True
        if self.hedge is not None:
            self.hedge.end()
        self._unsent.clear()
        self.forget_sent(self.client.gateway)
        endpoint = self.endpoint
        gateway = self.client.gateway
        if endpoint is None:
            gateway.count_refused(self.status)
            return
        tally = endpoint.tally
        if not self.started:
            if self.answer is not None:
                tally.deny(self.status)
            return
        now = gateway.now()
        tally.in_flight -= 1
        if tally.held:
            tally.held.pop(self, None)
        target = self.target or self.failed_target
        traffic = tally.unserved if target is None else target.traffic
        self._arrived_unserved()
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
