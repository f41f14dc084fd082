"""Keeping Envoy's files as the route table says, and knowing the requests that it hands on."""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.core.routing import Route, RouteTable, Upstream
from leptonai.errors import Unavailable

from ..asking import FAILURES, ask
from . import resources
from .figures import PATH, read_figures
from .resources import Address, Json
from .shortcuts import takes_short_cut

if TYPE_CHECKING:
    from ..downstream import ClientConnection
    from ..gateway import Gateway
    from ..head import RequestHead
    from ..metrics import Traffic

KEY_FILE = "key"
ADMIN_SOCKET = "admin.sock"
ADMIN_S = 2.0  # for one answer
MAX_ADMIN_BYTES = 64 * 1024 * 1024
LEAVING_S = 0.2  # between two looks at what those that leave still have
KNOWN_LOOKS, KNOWN_AGAIN_S = 300, 0.01  # for new clusters, before routes lead there
_KEY = resources.KEY.encode()
_ADDRESS = resources.ADDRESS.encode()


class Leaver:
    """A replica that Envoy gives nothing new, and that may still have requests."""

    __slots__ = ("outstanding", "seen", "upstream")

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.outstanding = 1  # until Envoy says how many
        self.seen = False  # Envoy has been told, and so its word counts


class Front:
    def __init__(self, gateway: Gateway, directory: Path, ours: Address) -> None:
        """
        Args:
            ours: where Envoy reaches our gateway.
        """
        self._gateway = gateway
        self._directory = directory
        self._ours = ours
        self._version = 0
        self._applied = -1  # the seq of the table that Envoy's files say
        self._table: RouteTable | None = None
        self._news = asyncio.Event()
        self._written: dict[str, bytes] = {}
        self._versions: dict[str, int] = {}
        self._serving: dict[str, dict[Address, Upstream]] = {}  # by cluster
        self._leaving: dict[str, dict[Address, Leaver]] = {}
        self._grpc: dict[str, bool] = {}
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = _key(directory / KEY_FILE)

    def follow(self, table: RouteTable) -> None:
        self._table = table
        self._news.set()

    async def begin(self) -> None:
        """What an Envoy that does not run yet may start with: all requests come to us."""
        if self._table is None:
            self._table = RouteTable(seq=0, routes=(), workspace_token_sha256={})
        try:
            await self._clusters()
        except FAILURES:
            self._write_clusters()
            self._write_routes(self._table, {})
        self._news.set()

    def unwrap(self, head: RequestHead, client: ClientConnection) -> None:
        """Take off what Envoy says of a request: whose it is. Others say it in vain."""
        kept, key, address = [], b"", b""
        for field in head.passed:
            name = field[0].lower()
            if name == _KEY:
                key = field[1].strip()
            elif name == _ADDRESS:
                address = field[1].strip()
            else:
                kept.append(field)
        head.passed = kept
        if address and hmac.compare_digest(key, self._key.encode()):
            client.address = address.decode("latin-1")

    async def run(self) -> None:
        """Write what changed, for ever."""
        while True:
            pause_s = LEAVING_S if self._leaving else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._news.wait()
            try:
                if self._news.is_set():
                    self._news.clear()
                    assert self._table is not None
                    await self._apply(self._table)
                await self._look_at_leavers()
            except (*FAILURES, msgspec.MsgspecError) as error:
                self._gateway.log(f"Envoy cannot be told: {error or type(error).__name__}")
                await asyncio.sleep(LEAVING_S)
                self._news.set()

    async def _apply(self, table: RouteTable) -> None:
        short = {
            resources.cluster_of(route): route for route in table.routes if takes_short_cut(route)
        }
        for name in {*self._serving, *short}:
            self._change(name, short.get(name))
        self._grpc |= {name: route.grpc for name, route in short.items()}
        for name in {*self._serving, *self._leaving}:
            self._write_assignment(name)
        self._write_clusters()
        await self._until_known(short)
        self._write_routes(table, short)
        if not await self._is_taken("rds.json"):
            # Rather slow than by old routes, which may let in whom the new ones do not.
            self._gateway.log(f"Envoy refused {len(short)} routes: all requests come to us")
            self._write_routes(table, {})
        self._applied = table.seq
        self._gateway.reporter.serves_by(table.seq)

    async def figures(self) -> dict[tuple[str, str], Traffic]:
        """What Envoy counted, by workspace and endpoint; nothing if it does not say."""
        try:
            return read_figures((await self._ask(PATH)).decode("latin-1"))
        except FAILURES:
            return {}

    def exposition(self) -> str:
        return (
            "# HELP lepton_gateway_envoy_table_seq The route table that Envoy was told of.\n"
            "# TYPE lepton_gateway_envoy_table_seq gauge\n"
            f"lepton_gateway_envoy_table_seq {self._applied}\n"
        )

    def _change(self, name: str, route: Route | None) -> None:
        before = self._serving.pop(name, {})
        now = {(u.host, u.port): u for u in route.upstreams} if route else {}
        leaving = self._leaving.setdefault(name, {})
        for address, upstream in before.items():
            if address not in now:
                leaver = leaving[address] = Leaver(upstream)
                self._gateway.reporter.leaves(leaver)
        for address in now:
            again = leaving.pop(address, None)
            if again is not None:
                self._gateway.reporter.left(again)
        if not leaving:
            del self._leaving[name]
        if now:
            self._serving[name] = now

    async def _look_at_leavers(self) -> None:
        """Those that have ended their last request are told of, and forgotten."""
        if not self._leaving:
            return
        active = await self._active()
        for name, leaving in list(self._leaving.items()):
            for address, leaver in list(leaving.items()):
                leaver.outstanding = active.get((name, address), 0)
                if leaver.seen and not leaver.outstanding:
                    del leaving[address]
                    self._gateway.reporter.left(leaver)
                leaver.seen = True
            if not leaving:
                del self._leaving[name]
            self._write_assignment(name)
        self._write_clusters()

    async def _active(self) -> dict[tuple[str, Address], int]:
        """Requests under way, by cluster and replica."""
        found = {}
        try:
            clusters = await self._clusters()
        except (FileNotFoundError, ConnectionRefusedError):
            return {}  # it does not run: what it had is gone
        for each in clusters:
            for host in each.get("host_statuses", ()):
                socket = host["address"].get("socket_address")
                stats = {stat["name"]: stat for stat in host.get("stats", ())}
                if socket is not None:
                    number = int(stats.get("rq_active", {}).get("value", 0))
                    found[each["name"], (socket["address"], socket["port_value"])] = number
        return found

    async def _is_taken(self, name: str) -> bool:
        """Whether Envoy has read the file and agrees. One that does not run has nothing to say."""
        wanted = f'"{self._versions[name]}"'
        for _ in range(KNOWN_LOOKS):
            try:
                said = await self._ask("/stats?filter=rds.gateway.version_text$")
            except FAILURES:
                return True
            if said.decode("latin-1").rstrip().endswith(wanted):
                return True
            await asyncio.sleep(KNOWN_AGAIN_S)
        return False

    async def _clusters(self) -> list[dict[str, Any]]:
        answer = msgspec.json.decode(await self._ask("/clusters?format=json"))
        clusters: list[dict[str, Any]] = answer.get("cluster_statuses", [])
        return clusters

    async def _ask(self, path: str) -> bytes:
        folder = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
        try:  # by way of a descriptor, since a Unix socket's path may have 108 bytes only
            status, body = await ask(
                "GET",
                "envoy",
                0,
                path,
                headers={},
                within_s=ADMIN_S,
                most_bytes=MAX_ADMIN_BYTES,
                at=f"/proc/self/fd/{folder}/{ADMIN_SOCKET}",
            )
        finally:
            os.close(folder)
        if status != 200:
            raise Unavailable(f"Envoy answered with status {status}")
        return body

    async def _until_known(self, short: Iterable[str]) -> None:
        """Routes to a cluster that Envoy does not know would lose requests. One that does not run
        reads everything at once when it starts."""
        wanted = set(short)
        for _ in range(KNOWN_LOOKS):
            try:
                known = {each["name"] for each in await self._clusters()}
            except FAILURES:
                return
            if wanted <= known:
                return
            await asyncio.sleep(KNOWN_AGAIN_S)

    def _write_assignment(self, name: str) -> None:
        made = resources.assignment(name, self._serving.get(name, ()), self._leaving.get(name, ()))
        self._write(resources.eds_file(name), [made])

    def _write_clusters(self) -> None:
        names = sorted({*self._serving, *self._leaving})
        made = [resources.cluster(name, grpc=self._grpc.get(name, False)) for name in names]
        self._write("cds.json", [resources.our_cluster(self._ours), *made])

    def _write_routes(self, table: RouteTable, short: Mapping[str, Route]) -> None:
        self._write("rds.json", [resources.routes(table, short, self._key)])

    def _write(self, name: str, made: list[Json]) -> None:
        """Atomic: Envoy looks when the file is replaced."""
        body = msgspec.json.encode(made)
        if self._written.get(name) == body:
            return
        self._version += 1
        fresh = self._directory / f"{name}.new"
        with suppress(FileNotFoundError):
            fresh.unlink()
        descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(resources.response(self._version, made)))
        fresh.replace(self._directory / name)
        self._written[name] = body
        self._versions[name] = self._version


def _key(path: Path) -> str:
    """What proves to us that it is Envoy that asks; kept, so that both may start again."""
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    made = secrets.token_hex(16)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(made)
    return made
