"""The nodes as columns: what each has left, and for every size of worker how many more fit where.

Amounts are numpy arrays over the nodes, which are sorted by id. For each worker size that was asked
about there is a row: how many copies fit on each node, and how good a place that is. A row is
brought up to date when it is read, for the nodes that changed since: so a decision costs what
changed, not the size of the cluster.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from leptonai.core.resources import MILLIS, Free, Needs
from leptonai.core.scheduler.values import ANY_PORT, Assignment, NodeView, Power, Worker

UNBOUNDED = 1 << 30  # workers that need nothing fit without end
MAX_LOG = 100_000  # changes of nodes that rows may lag behind before they are computed anew

Name = TypeVar("Name", str, tuple[str, str])

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class WorkerSize:
    """What placing a worker depends on."""

    needs: Needs
    ports: int

    @classmethod
    def of(cls, worker: Worker) -> "WorkerSize":
        return cls(worker.needs, len(worker.ports))


class Columns:
    """Some nodes. Every array is over these nodes; `gpu` is [nodes, devices].

    `gpu` is what each device has left, in thousandths; a device that is not there has nothing left.
    """

    __slots__ = ("_nodes", "at", "cpu", "disk", "gpu", "memory")

    def __init__(self, nodes: "Nodes", at: Ints, amounts: "_Amounts") -> None:
        self._nodes = nodes
        self.at = at  # which nodes they are, by their position in the order of ids
        self.cpu = amounts.cpu  # millis left
        self.memory = amounts.memory  # bytes left
        self.disk = amounts.disk  # bytes left
        self.gpu = amounts.gpu

    def only(self, rows: Ints) -> "Columns":
        amounts = _Amounts(self.cpu, self.memory, self.disk, self.gpu)
        return Columns(self._nodes, self.at[rows], amounts.of(rows))

    @property
    def cpu_total(self) -> Ints:
        return self._nodes.total.cpu[self.at]

    @property
    def gpus_total(self) -> Ints:
        return self._nodes.gpus_total[self.at]

    @property
    def cpu_most(self) -> int:
        """Of any one node, in millis."""
        return self._nodes.cpu_most

    @property
    def gpus_most(self) -> int:
        """Of any one node."""
        return int(self._nodes.total.gpu.shape[1])

    @property
    def gpu_type(self) -> Ints:
        """An index into gpu_types."""
        return self._nodes.gpu_type[self.at]

    @property
    def gpu_types(self) -> Sequence[str]:
        return self._nodes.gpu_types

    @property
    def power(self) -> "Powers":
        """Of these nodes; what is not known is nothing."""
        return self._nodes.powers.of(self.at)

    @property
    def views(self) -> Sequence[NodeView]:
        """All the nodes: look up by `at`."""
        return self._nodes.views


@dataclass(frozen=True, slots=True)
class Powers:
    """What nodes draw, in watts: `Power` as columns."""

    idle: Floats  # with nothing placed
    by_socket: Floats  # more for each socket in use
    by_gpu: Floats  # more for each GPU in use
    cpu_millis_per_socket: Ints

    @classmethod
    def of_views(cls, views: Sequence[NodeView]) -> "Powers":
        powers = [view.power or NO_POWER for view in views]
        sockets = [
            -(-view.capacity.cpu_millis // power.cpu_millis_per_socket)
            for view, power in zip(views, powers, strict=True)
        ]
        idle = [
            sockets * power.cpu_idle + view.capacity.gpus * power.gpu_idle
            for sockets, view, power in zip(sockets, views, powers, strict=True)
        ]
        return cls(
            np.array(idle, dtype=np.float64),
            np.array([power.cpu_busy - power.cpu_idle for power in powers], dtype=np.float64),
            np.array([power.gpu_busy - power.gpu_idle for power in powers], dtype=np.float64),
            _column(power.cpu_millis_per_socket for power in powers),
        )

    def of(self, at: Ints) -> "Powers":
        return Powers(
            self.idle[at], self.by_socket[at], self.by_gpu[at], self.cpu_millis_per_socket[at]
        )


NO_POWER = Power(cpu_idle=0.0, cpu_busy=0.0, cpu_millis_per_socket=1)

# How good a place each of these nodes is for a worker that fits there; smaller is better.
Score = Callable[[Needs, Columns], Floats]


@dataclass(slots=True)
class Row:
    """Where workers of one size fit."""

    copies: Ints  # how many fit together, by node
    score: Floats  # of placing one there: smaller is better; inf where none fits
    seen: int  # how much of the log of changes is accounted for


@dataclass(frozen=True, slots=True)
class Hold:
    """What a worker holds of its node."""

    replica: str
    needs: Needs
    gpus: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    started_at_ms: int | None = None  # None: does not end by itself


@dataclass(slots=True)
class _Amounts:
    cpu: Ints
    memory: Ints
    disk: Ints
    gpu: Ints  # [nodes, devices]

    def add(self, at: int, needs: Needs, gpus: Iterable[int], sign: int) -> None:
        if needs.cpu_millis:
            self.cpu[at] += sign * needs.cpu_millis
        if needs.memory_bytes:
            self.memory[at] += sign * needs.memory_bytes
        if needs.disk_bytes:
            self.disk[at] += sign * needs.disk_bytes
        for device in gpus:
            if device < self.gpu.shape[1]:  # else the node shrank under its replicas
                self.gpu[at, device] += sign * needs.gpu_millis

    def clear(self) -> None:
        for column in (self.cpu, self.memory, self.disk, self.gpu):
            column[...] = 0

    def of(self, at: Ints) -> "_Amounts":
        return _Amounts(self.cpu[at], self.memory[at], self.disk[at], self.gpu[at])

    def __add__(self, other: "_Amounts") -> "_Amounts":
        return _Amounts(
            self.cpu + other.cpu,
            self.memory + other.memory,
            self.disk + other.disk,
            self.gpu + other.gpu,
        )


class Nodes:
    def __init__(self, views: Iterable[NodeView], score: Score) -> None:
        self.views = tuple(sorted(views, key=lambda view: view.id))
        self.at = {view.id: at for at, view in enumerate(self.views)}
        capacities = [view.capacity for view in self.views]
        self._all = np.arange(len(capacities), dtype=np.int64)
        self.total = _Amounts(
            _column(capacity.cpu_millis for capacity in capacities),
            _column(capacity.memory_bytes for capacity in capacities),
            _column(capacity.disk_bytes for capacity in capacities),
            _devices([capacity.gpus for capacity in capacities]),
        )
        self.cpu_millis_total = int(self.total.cpu.sum())
        self.cpu_most = int(self.total.cpu.max(initial=0))
        self.gpu_millis_total = int(self.total.gpu.sum())
        self.powers = Powers.of_views(self.views)
        self.gpus_total = _column(capacity.gpus for capacity in capacities)
        self._free = self.total.of(self._all)  # a copy
        self._ending = self.total.of(self._all)  # held by what ends by itself
        self._ending.clear()
        spare = _column(view.spare_bytes for view in self.views)
        self._free.memory -= spare
        self._ending.memory += spare
        self.gpu_types, self.gpu_type = _coded(capacity.gpu_type for capacity in capacities)
        switches, self.switch = _coded(view.switch for view in self.views)
        self.switches = len(switches)
        self._usable = np.array([view.schedulable for view in self.views], dtype=np.bool_)
        self.ports_left = _column(view.ports_to - view.ports_from for view in self.views)
        self._ports: list[set[int]] = [set() for _ in self.views]
        self.last_start_ms = np.zeros(len(self.views), dtype=np.int64)  # of what ends by itself
        self._starts: list[dict[str, int]] = [{} for _ in self.views]
        # What is closed to all but overdue gangs.
        self._kept_cpu, self._kept_memory, self._kept_disk, self._kept_gpus = np.zeros(
            (4, len(self.views)), dtype=np.int64
        )
        self._kept_for: dict[int, str] = {}  # the first of those gangs, by node
        self._score = score
        self._rows: dict[tuple[WorkerSize, bool], Row] = {}
        self._when_ended: dict[WorkerSize, Ints] = {}  # copies, with nothing kept
        self._log: list[int] = []  # each time a node changed
        self._log_from = 0  # how much was cut off its front

    def __len__(self) -> int:
        return len(self.views)

    @cached_property
    def domain(self) -> Ints:
        """Of each node: a number for its domain."""
        return _coded(view.domain for view in self.views)[1]

    def replaced(self, views: Iterable[NodeView]) -> "Nodes":
        """Other nodes, of which nothing is taken, that are scored the same way."""
        return Nodes(views, self._score)

    # --- what changes -----------------------------------------------------------------------------

    def take(self, at: int, hold: Hold) -> None:
        self._free.add(at, hold.needs, hold.gpus, -1)
        for port in hold.ports:
            self._take_port(at, port)
        if hold.started_at_ms is None:
            self._when_ended.clear()
        else:
            self._ending.add(at, hold.needs, hold.gpus, 1)
            self._starts[at][hold.replica] = hold.started_at_ms
            self.last_start_ms[at] = max(self.last_start_ms[at], hold.started_at_ms)
        self._log.append(at)

    def give(self, at: int, hold: Hold) -> None:
        """Take back what was taken."""
        self._free.add(at, hold.needs, hold.gpus, 1)
        for port in hold.ports:
            self._give_port(at, port)
        if hold.started_at_ms is None:
            self._when_ended.clear()
        else:
            self._ending.add(at, hold.needs, hold.gpus, -1)
            del self._starts[at][hold.replica]
            self.last_start_ms[at] = max(self._starts[at].values(), default=0)
        self._log.append(at)

    def take_port(self, at: int, port: int) -> None:
        self._take_port(at, port)
        self._log.append(at)

    def give_port(self, at: int, port: int) -> None:
        self._give_port(at, port)
        self._log.append(at)

    def keep(self, at: int, gang: str, needs: Needs, copies: int) -> None:
        """Close room for so many workers of a gang to all others."""
        self._kept_cpu[at] += copies * needs.cpu_millis
        self._kept_memory[at] += copies * needs.memory_bytes
        self._kept_disk[at] += copies * needs.disk_bytes
        self._kept_gpus[at] += copies * needs.gpus
        self._kept_for.setdefault(at, gang)
        self._log.append(at)

    def keep_nothing(self) -> None:
        for at in self._kept_for:
            self._kept_cpu[at] = self._kept_memory[at] = self._kept_disk[at] = 0
            self._kept_gpus[at] = 0
        self._log += self._kept_for
        self._kept_for.clear()

    def can_take(self, at: int, hold: Hold) -> bool:
        """Whether exactly this is free: these devices, these ports."""
        free = self._free
        return (
            bool(self._usable[at])
            and hold.needs.cpu_millis <= free.cpu[at]
            and hold.needs.memory_bytes <= free.memory[at]
            and hold.needs.disk_bytes <= free.disk[at]
            and all(
                device < self.gpus_total[at] and free.gpu[at, device] >= hold.needs.gpu_millis
                for device in hold.gpus
            )
            and self._ports[at].isdisjoint(hold.ports)
        )

    def score_by(self, score: Score) -> None:
        """From now on; what was scored before is forgotten."""
        self._score = score
        self._rows.clear()

    # --- what is asked ----------------------------------------------------------------------------

    def row(self, size: WorkerSize, *, beside_kept: bool = True) -> Row:
        """Where workers of this size fit: beside what is kept for others, or in all the rest."""
        beside_kept = beside_kept and bool(self._kept_for)
        now = self._log_from + len(self._log)
        row = self._rows.get((size, beside_kept))
        if row is None:
            row = Row(self._all, np.zeros(0), -1)
            self._rows[size, beside_kept] = row
        if row.seen < self._log_from:
            columns = self._columns(self._all, beside_kept=beside_kept)
            row.copies = self._copies(columns, size)
            row.score = self._scored(columns, size, row.copies)
        elif row.seen < now:
            log = self._log[row.seen - self._log_from :]
            changed = np.array(log if len(log) == 1 else list(set(log)), dtype=np.int64)
            columns = self._columns(changed, beside_kept=beside_kept)
            row.copies[changed] = copies = self._copies(columns, size)
            row.score[changed] = self._scored(columns, size, copies)
        row.seen = now
        if len(self._log) > MAX_LOG:
            self._log_from, self._log = now, []
        return row

    def columns(self) -> Columns:
        """All the nodes, as they are now."""
        return self._columns(self._all, beside_kept=False)

    def copies_when_ended(self, size: WorkerSize) -> Ints:
        """How many fit, by node, once all that ends by itself has ended: beside what is kept."""
        if size not in self._when_ended:
            ended = Columns(self, self._all, self._free + self._ending)
            self._when_ended[size] = self._copies(ended, size)
        copies = self._when_ended[size]
        if self._kept_for:
            at = np.array(sorted(self._kept_for), dtype=np.int64)
            ended = Columns(
                self, at, self._beside_kept(at, self._free.of(at) + self._ending.of(at))
            )
            copies = copies.copy()
            copies[at] = self._copies(ended, size)
        return copies

    def free(self, at: int, *, beside_kept: bool = True) -> Free:
        """What one node has left."""
        if beside_kept and at in self._kept_for:
            here = np.array([at], dtype=np.int64)
            return self._free_of(self._beside_kept(here, self._free.of(here)), 0, at)
        return self._free_of(self._free, at, at)

    def free_when_ended(self, at: int) -> Free:
        """What one node will have left once all that ends by itself has ended."""
        here = np.array([at], dtype=np.int64)
        ended = self._beside_kept(here, self._free.of(here) + self._ending.of(here))
        return self._free_of(ended, 0, at)

    def kept_for(self, at: int) -> str | None:
        """The first overdue gang that room is kept for there."""
        return self._kept_for.get(at)

    def assign(self, at: int, worker: Worker, now_ms: int) -> Assignment:
        """The GPUs and ports for a worker that fits there."""
        gpus: tuple[int, ...] = ()
        if worker.needs.gpus:
            chosen = self.free(at, beside_kept=False).choose_gpus(worker.needs)
            assert chosen is not None, (self.views[at].id, worker)
            gpus = chosen
        if not worker.ports:
            return Assignment(worker.replica, self.views[at].id, gpus)
        taken = set(self._ports[at])
        ports = []
        for wish in worker.ports:
            if wish == ANY_PORT:
                port = self._changing_port(at, taken, worker.replica, now_ms)
            else:
                port = self._lowest_free_port(at, taken) if wish in taken else wish
            taken.add(port)
            ports.append(port)
        return Assignment(worker.replica, self.views[at].id, gpus, tuple(ports))

    def rendezvous_port(self, at: int, gang: str, now_ms: int) -> int:
        return self._changing_port(at, self._ports[at], gang, now_ms)

    # --- inside -----------------------------------------------------------------------------------

    def _columns(self, at: Ints, *, beside_kept: bool) -> Columns:
        amounts = self._free.of(at)
        return Columns(self, at, self._beside_kept(at, amounts) if beside_kept else amounts)

    def _beside_kept(self, at: Ints, amounts: _Amounts) -> _Amounts:
        """Less what is kept there; of the devices, those with the most left are closed."""
        gpu, closed = amounts.gpu, self._kept_gpus[at]
        if closed.any():
            by_left = np.argsort(-gpu, axis=1, kind="stable")
            is_closed = np.zeros(gpu.shape, dtype=np.bool_)
            first = np.arange(gpu.shape[1]) < closed[:, None]
            np.put_along_axis(is_closed, by_left, first, axis=1)
            gpu = np.where(is_closed, 0, gpu)
        return _Amounts(
            _beside(amounts.cpu, self._kept_cpu[at]),
            _beside(amounts.memory, self._kept_memory[at]),
            _beside(amounts.disk, self._kept_disk[at]),
            gpu,
        )

    def _copies(self, columns: Columns, size: WorkerSize) -> Ints:
        copies = _copies(columns, size.needs)
        ports = self.ports_left[columns.at]  # one stays for the rendezvous
        by_ports = np.maximum(0, ports - 1) // size.ports if size.ports else (ports > 0) * UNBOUNDED
        return np.where(self._usable[columns.at], np.minimum(copies, by_ports), 0)

    def _scored(self, columns: Columns, size: WorkerSize, copies: Ints) -> Floats:
        """Only where it fits: what does not is no place, and late in a day most nodes are full."""
        fits = np.flatnonzero(copies)
        if len(fits) == len(copies):
            return self._score(size.needs, columns)
        score = np.full(len(copies), np.inf)
        if len(fits):
            score[fits] = self._score(size.needs, columns.only(fits))
        return score

    def _free_of(self, amounts: _Amounts, row: int, at: int) -> Free:
        return Free(
            cpu_millis=int(amounts.cpu[row]),
            memory_bytes=int(amounts.memory[row]),
            disk_bytes=int(amounts.disk[row]),
            gpu_millis=tuple(amounts.gpu[row, : self.gpus_total[at]].tolist()),
            gpu_type=self.views[at].capacity.gpu_type,
        )

    def _changing_port(self, at: int, taken: Set[int], of: str, now_ms: int) -> int:
        """A free port that is another one at every try: the last may have been taken by a stranger,
        or by a process that lingers."""
        view = self.views[at]
        span = view.ports_to - view.ports_from
        port = view.ports_from + crc32(f"{of}@{now_ms}".encode()) % span
        while port in taken:
            port = port + 1 if port + 1 < view.ports_to else view.ports_from
        return port

    def _lowest_free_port(self, at: int, taken: Set[int]) -> int:
        port = self.views[at].ports_from
        while port in taken:
            port += 1
        return port

    def _take_port(self, at: int, port: int) -> None:
        if port not in self._ports[at]:
            self._ports[at].add(port)
            if self.views[at].ports_from <= port < self.views[at].ports_to:
                self.ports_left[at] -= 1

    def _give_port(self, at: int, port: int) -> None:
        if port in self._ports[at]:
            self._ports[at].discard(port)
            if self.views[at].ports_from <= port < self.views[at].ports_to:
                self.ports_left[at] += 1


def copies_on(free: Free, needs: Needs) -> int:
    """How many workers of one size fit together in what a node has left."""
    if min(free.cpu_millis, free.memory_bytes, free.disk_bytes) < 0:
        return 0  # the node shrank under its replicas
    many = UNBOUNDED
    if needs.cpu_millis:
        many = free.cpu_millis // needs.cpu_millis
    if needs.memory_bytes:
        many = min(many, free.memory_bytes // needs.memory_bytes)
    if needs.disk_bytes:
        many = min(many, free.disk_bytes // needs.disk_bytes)
    if needs.gpus and many:
        many = min(many, _copies_on_gpus(free, needs, many))
    return many


def _copies_on_gpus(free: Free, needs: Needs, limit: int) -> int:
    if not needs.takes_gpu(free.gpu_type):
        return 0
    if needs.gpus == 1 or 2 * needs.gpu_millis > MILLIS:  # at most one share of each a device
        return sum(left // needs.gpu_millis for left in free.gpu_millis if left > 0) // needs.gpus
    only_gpus = Needs(gpus=needs.gpus, gpu_millis=needs.gpu_millis)
    many = 0
    while many < limit and (gpus := free.choose_gpus(needs)) is not None:
        free = free.take(only_gpus, gpus)
        many += 1
    return many


def _copies(columns: Columns, needs: Needs) -> Ints:
    """The same for many nodes at once."""
    if needs.gpus > 1 and 2 * needs.gpu_millis <= MILLIS:
        return _copies_one_by_one(columns, needs)
    many = np.full(len(columns.at), UNBOUNDED, dtype=np.int64)
    if needs.cpu_millis:
        np.minimum(many, columns.cpu // needs.cpu_millis, out=many)
    if needs.memory_bytes:
        np.minimum(many, columns.memory // needs.memory_bytes, out=many)
    if needs.disk_bytes:
        np.minimum(many, columns.disk // needs.disk_bytes, out=many)
    if needs.gpus:
        shares = np.maximum(columns.gpu, 0) // needs.gpu_millis
        np.minimum(many, shares.sum(axis=1) // needs.gpus, out=many)
        if needs.gpu_type:
            fits = np.array([needs.takes_gpu(kind) for kind in columns.gpu_types], dtype=np.bool_)
            many[~fits[columns.gpu_type]] = 0
    many[(columns.cpu < 0) | (columns.memory < 0) | (columns.disk < 0)] = 0
    return many


def _copies_one_by_one(columns: Columns, needs: Needs) -> Ints:
    """Several small shares for each worker, each on another device: has no closed form."""
    return _column(
        copies_on(
            Free(
                cpu_millis=int(columns.cpu[row]),
                memory_bytes=int(columns.memory[row]),
                disk_bytes=int(columns.disk[row]),
                gpu_millis=tuple(columns.gpu[row].tolist()),
                gpu_type=columns.gpu_types[columns.gpu_type[row]],
            ),
            needs,
        )
        for row in range(len(columns.at))
    )


def _column(values: Iterable[int]) -> Ints:
    return np.fromiter(values, dtype=np.int64)


def _devices(gpus: Sequence[int]) -> Ints:
    """[nodes, devices]: all of each device that is there."""
    there = np.arange(max(gpus, default=0)) < np.array(gpus, dtype=np.int64)[:, None]
    return np.where(there, MILLIS, 0).astype(np.int64)


def _coded(names: Iterable[Name]) -> tuple[list[Name], Ints]:
    names = list(names)
    codes = {name: code for code, name in enumerate(sorted(set(names)))}
    return list(codes), _column(codes[name] for name in names)


def _beside(free: Ints, kept: Ints) -> Ints:
    beside: Ints = np.maximum(np.minimum(free, 0), free - kept)
    return beside
