"""What the connections of one gateway share: endpoints, deadlines, and the state of going away."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from leptonai.core.routing import RouteTable
from leptonai.errors import LeptonError, NotFound

from .access_log import AccessLog
from .admission import digest_of, stranger
from .answers import TEXT, Answer, error_answer
from .endpoint import Endpoint
from .head import RequestHead, split_target
from .hosts import SharedHost
from .known_heads import AnswerHeads
from .limits import (
    CONNECT_S,
    DRAIN_IDLE_S,
    MAX_DIGESTS,
    MAX_LARGE_REPLAYS,
    MAX_LOG_LINES_PER_S,
    SWEEP_S,
    Limits,
)
from .metrics import exposition
from .observers import Digest, Usage
from .passage import Passage
from .report import Reporter
from .upstream import ReplicaConnection

if TYPE_CHECKING:
    from .downstream import ClientConnection
    from .envoy.front import Front
    from .exchange import Exchange
    from .target import Target
    from .tracing import Tracer

NO_SEQ = -1  # before any table
LOCAL = b".localhost"  # NAME.WORKSPACE.localhost is an endpoint's own host


class Gateway:
    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self.loop = loop
        self.now = time.monotonic  # the loop's own clock may stand still while it works
        self.limits = limits
        self.reporter = Reporter(self.now)
        self.seq = NO_SEQ
        self.draining = False
        self.clients: set[ClientConnection] = set()
        self.endpoints: dict[bytes, Endpoint] = {}  # by /e/WORKSPACE/NAME
        self.tables = 0  # that were followed: what an earlier one let in is judged again
        self.answer_heads = AnswerHeads()
        self.access_log: AccessLog | None = None
        self.tracer: Tracer | None = None
        self.front: Front | None = None  # Envoy, where requests come by way of it
        self._domains: dict[bytes, Endpoint] = {}
        self._shared_hosts: dict[bytes, SharedHost] = {}
        self._workspace_tokens: dict[str, frozenset[str]] = {}
        self._known_tokens: frozenset[str] = frozenset()  # of any workspace
        self._digests: dict[bytes, str] = {}  # of Authorization headers that opened something
        self._refused: dict[int, int] = {}
        self._replay_room = MAX_LARGE_REPLAYS
        self._connecting: set[asyncio.Task[None]] = set()
        self._making: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()  # no client is connected, while draining
        self._sweep: asyncio.TimerHandle | None = None
        self._request_prefix = os.urandom(8).hex().encode()
        self._request_numbers = count(1)  # no part of a traceparent may be all zeros
        self._log_second = 0
        self._log_lines = 0

    # --- the route table ---

    def follow(self, table: RouteTable) -> None:
        """Serve by this table from now on; requests under way end as they began."""
        self.seq = table.seq
        self.tables += 1
        self._workspace_tokens = {
            workspace: frozenset(hashes)
            for workspace, hashes in table.workspace_token_sha256.items()
        }
        self._known_tokens = frozenset().union(*self._workspace_tokens.values())
        before, self.endpoints = self.endpoints, {}
        for route in table.routes:
            tokens = self._workspace_tokens.get(route.workspace, frozenset())
            key = route.key.encode()
            endpoint = before.pop(key, None)
            if endpoint is None:
                endpoint = Endpoint(self, route, tokens)
            else:
                endpoint.update(route, tokens)
            self.endpoints[key] = endpoint
        for endpoint in before.values():
            endpoint.remove()
        self._domains = {
            host.encode(): endpoint
            for endpoint in self.endpoints.values()
            for host in endpoint.route.domains
        }
        self._shared_hosts = {
            host.domain.encode(): SharedHost(host, self.endpoints) for host in table.hosts
        }
        if self.front is None:
            self.reporter.serves_by(table.seq)
        else:
            self.front.follow(table)

    # --- requests ---

    def admit(self, exchange: Exchange, head: RequestHead) -> Passage | None:
        """How this head passes; None: the exchange has the answer that keeps it out."""
        if self.front is not None:
            self.front.unwrap(head, exchange.client)
        authorization = head.authorization
        digest = "" if authorization is None else self._digests.get(authorization)
        if digest is None:
            digest = digest_of(authorization)
        shared = False
        split = split_target(head.target)
        endpoint = None if split is None else self.endpoints.get(split[0])
        if split is not None and endpoint is not None:
            prefix, path = key, _ = split
        else:
            # Only what no path leads to: who got hold of our own host for an endpoint would
            # otherwise get the requests to all others.
            at_host = self._at_host(head.host, exchange.client.address)
            if at_host is not None:
                key, endpoint = at_host
                prefix, path = b"", head.target
                shared = _name_of(head.host) in self._shared_hosts
            elif split is not None:
                prefix, path = key, _ = split
            else:
                self._own_page(exchange, head, digest)
                return None
        if endpoint is None:
            exchange.answer = error_answer(self._unknown(key, digest), self._request_id(head))
            return None
        address = exchange.client.address
        route = endpoint.route
        if endpoint.door is not None:
            exchange.answer = endpoint.door.login(route, head, path, time.time())
            if exchange.answer is not None:
                exchange.endpoint = endpoint
                return None
        refusal = endpoint.gate.refusal(digest, address)
        if (
            refusal is not None
            and endpoint.door is not None
            and endpoint.door.knows(route, head, time.time())
        ):
            refusal = None
        if refusal is not None:
            exchange.endpoint = endpoint
            exchange.answer = error_answer(refusal, self._request_id(head))
            return None
        if authorization is not None and authorization not in self._digests:
            if len(self._digests) >= MAX_DIGESTS:
                self._digests.clear()
            self._digests[authorization] = digest
        return Passage(
            head,
            endpoint,
            prefix=prefix,
            path=path,
            address=address,
            caller="" if route.public else digest,
            show_authorization=digest not in self._known_tokens,
            table=self.tables,
            # Where something else than the table decides, each request is looked at.
            lasting=not shared and endpoint.door is None and self.front is None,
        )

    def enter(self, exchange: Exchange, passage: Passage, length: bytes | None) -> None:
        """Make it a request to its endpoint, or give it the answer that keeps it out for now.

        Args:
            length: of its body, as its head has it.
        """
        head, endpoint = passage.head, passage.endpoint
        number = b"%016x" % next(self._request_numbers)
        request_id = head.request_id or self._request_prefix + number
        if endpoint.limiter is not None:
            now = exchange.started_at
            caller = endpoint.limiter.caller(passage.caller, exchange.client.address, now)
            over = caller.admit(now)
            exchange.extra = caller.headers(now)
            if over is not None:
                exchange.endpoint = endpoint
                exchange.answer = error_answer(
                    over,
                    request_id,
                    extra=exchange.extra,
                    retry_after_s=caller.retry_after_s(now),
                )
                return
            if caller.tokens is not None:
                exchange.observers = (Usage(caller.tokens),)
        if passage.counts:
            endpoint.tally.match()
        if endpoint.shadows is not None and not head.websocket and endpoint.shadows.wants():
            exchange.shadow = Digest()
            exchange.observers = (*exchange.observers, exchange.shadow)
        # Without one a trace begins here, that whoever follows may record.
        traceparent = head.traceparent or b"00-%b%b-%b-01" % (self._request_prefix, number, number)
        if self.access_log is not None:
            exchange.logged = (head.method, head.target, traceparent)
        if self.tracer is not None:
            exchange.span, traceparent = self.tracer.begin(
                head.method, passage.path, traceparent, begins_here=not head.traceparent
            )
        exchange.send_to(passage, passage.encoded(request_id, traceparent, length), request_id)

    def _request_id(self, head: RequestHead) -> bytes:
        return head.request_id or b"%b%016x" % (self._request_prefix, next(self._request_numbers))

    def connect(self, target: Target) -> None:
        """Open a connection; the target is told of it, or that there is none."""
        task = self.loop.create_task(self._connect(target))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, target: Target) -> None:
        upstream = target.upstream
        try:
            async with asyncio.timeout(CONNECT_S):
                _, link = await self.loop.create_connection(
                    lambda: ReplicaConnection(self, target), upstream.host, upstream.port
                )
        except (OSError, TimeoutError, ValueError):
            target.not_opened()
        else:
            target.opened(link)

    def take_replay_room(self) -> bool:
        """A place for a large request that may have to be sent again."""
        if self._replay_room == 0:
            return False
        self._replay_room -= 1
        return True

    def give_replay_room(self) -> None:
        self._replay_room += 1

    def _at_host(self, host: bytes, address: str) -> tuple[bytes, Endpoint | None] | None:
        """The key of the endpoint whose own host it is, or that is to have this request to a host
        that several share; and that endpoint if there is one."""
        name = _name_of(host)
        shared = self._shared_hosts.get(name)
        endpoint = self._domains.get(name) if shared is None else shared.choose(address)
        if endpoint is not None:
            return endpoint.prefix, endpoint
        if name.endswith(LOCAL) and name.count(b".") == 2:
            endpoint_name, workspace, _ = name.split(b".")
            key = b"/e/%b/%b" % (workspace, endpoint_name)
            return key, self.endpoints.get(key)
        return None

    def _unknown(self, prefix: bytes, digest: str) -> LeptonError:
        _, _, workspace, name = prefix.decode("ascii", "replace").split("/", 3)
        if digest not in self._workspace_tokens.get(workspace, frozenset()):
            return stranger()
        return NotFound(
            f"workspace {workspace!r} has no endpoint {name!r}",
            hint="`leptonai endpoint list` shows what there is",
        )

    def _own_page(self, exchange: Exchange, head: RequestHead, digest: str) -> None:
        path = head.target.partition(b"?")[0]
        if path == b"/healthz":
            exchange.answer = Answer(200, b'{"status":"ok"}')
        elif path == b"/metrics" and digest in self._known_tokens:
            exchange.page = partial(self._metrics, digest)
        else:
            nothing = NotFound("nothing is served here", hint="endpoints are at /e/WORKSPACE/NAME/")
            error = stranger() if path == b"/metrics" else nothing
            exchange.answer = error_answer(error, self._request_id(head))

    async def _metrics(self, digest: str) -> Answer:
        """What the bearer of a workspace's token may know of."""
        by_envoy = {} if self.front is None else await self.front.figures()
        figures = [
            endpoint.figures(by_envoy)
            for endpoint in self.endpoints.values()
            if digest in endpoint.workspace_tokens
        ]
        text = exposition(figures, refused=self._refused, clients=len(self.clients), seq=self.seq)
        if self.tracer is not None:
            text += self.tracer.exposition()
        if self.front is not None:
            text += self.front.exposition()
        return Answer(200, text.encode(), TEXT)

    def make(self, exchange: Exchange, page: Callable[[], Awaitable[Answer]]) -> None:
        """It is answered as soon as the page is made."""
        task = self.loop.create_task(self._make(exchange, page))
        self._making.add(task)
        task.add_done_callback(self._making.discard)

    async def _make(self, exchange: Exchange, page: Callable[[], Awaitable[Answer]]) -> None:
        answer = await page()
        if not exchange.done:
            exchange.respond(answer)

    # --- connections ---

    def opened(self, client: ClientConnection) -> None:
        if len(self.clients) >= self.limits.connections:
            client.abort()  # an answer would cost what there is none left of
            return
        self.clients.add(client)
        self.keep_sweeping()

    def closed(self, client: ClientConnection) -> None:
        self.clients.discard(client)
        if self.draining and not self.clients:
            self._empty.set()

    def keep_sweeping(self) -> None:
        if self._sweep is None:
            limits = self.limits
            shortest = min(limits.head_s, limits.hold_s, limits.idle_s, limits.pool_idle_s)
            self._sweep = self.loop.call_later(min(SWEEP_S, shortest / 2), self._sweep_now)

    def _sweep_now(self) -> None:
        """End what is overdue. One look over all connections is cheaper than a timer for each
        request; without connections nothing wakes up."""
        self._sweep = None
        now = self.now()
        for client in [client for client in self.clients if client.deadline <= now]:
            client.expire(now)
        if self.close_idle_links(now - self.limits.pool_idle_s) or self.clients:
            self.keep_sweeping()

    def close_idle_links(self, since: float) -> int:
        """Close those to replicas that have been idle since then; returns how many are left."""
        return sum(
            target.close_idle(since)
            for endpoint in self.endpoints.values()
            for target in endpoint.targets
            if target.idle
        )

    # --- going away ---

    async def drain(self) -> None:
        """Let requests end: returns when no client is connected any more, or the time is up."""
        self.draining = True
        self.close_idle_links(self.now())
        deadline = self.now() + self.limits.drain_s
        # An idle client may have sent its next request already. It is answered, and told to close.
        await asyncio.sleep(min(DRAIN_IDLE_S, self.limits.drain_s))
        for client in tuple(self.clients):
            if client.resting:
                client.transport.close()
        if self.clients:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._empty.wait()

    # --- what is told ---

    def count_refused(self, status: int) -> None:
        if status >= 400:
            self._refused[status] = self._refused.get(status, 0) + 1

    def log_failure(self, exchange: Exchange, error: LeptonError) -> None:
        self.log(error.message, code=error.code, status=error.status, **exchange.named())

    def log(self, message: str, **fields: object) -> None:
        """One line of JSON on stderr; too many in one second are only counted."""
        second = int(self.now())
        if second != self._log_second:
            skipped = self._log_lines - MAX_LOG_LINES_PER_S
            if skipped > 0:
                _write_line({"message": f"{skipped} more lines were not written"})
            self._log_second, self._log_lines = second, 0
        self._log_lines += 1
        if self._log_lines <= MAX_LOG_LINES_PER_S:
            _write_line({"message": message, **fields})


def _name_of(host: bytes) -> bytes:
    return host.partition(b":")[0].lower()


def _write_line(fields: dict[str, object]) -> None:
    line = {"at_ms": time.time_ns() // 1_000_000, **fields}
    sys.stderr.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stderr.buffer.flush()
