"""The nodes as the scheduler keeps them: what each has left, and for every size of worker how many
more fit where.

Amounts are columns (`columns.py`). For each worker size that was asked about there is a row: how
many copies fit on each node, and how good a place that is. A row is brought up to date when it is
read, for the nodes that changed since: so a decision costs what changed, not the size of the
cluster.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from leptonai.core.resources import Free, Needs
from leptonai.core.scheduler.columns import Amounts, Columns, Floats, Ints, Machines, column
from leptonai.core.scheduler.copies import UNBOUNDED, WorkerSize, copies_by_node
from leptonai.core.scheduler.ports import Ports
from leptonai.core.scheduler.values import Assignment, NodeView, Worker

MAX_LOG = 100_000  # changes of nodes that rows may lag behind before they are computed anew

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


class Nodes:
    def __init__(self, views: Iterable[NodeView], score: Score) -> None:
        self.machines = Machines(views)
        total = self.machines.total
        self._free = total.of(self.machines.all)  # a copy
        self._ending = total.of(self.machines.all)  # held by what ends by itself
        self._ending.clear()
        spare = column(view.spare_bytes for view in self.machines.views)
        self._free.memory -= spare
        self._ending.memory += spare
        self._ports = Ports(self.machines.views)
        self.last_start_ms = np.zeros(len(self), dtype=np.int64)  # of what ends by itself
        self._starts: list[dict[str, int]] = [{} for _ in self.machines.views]
        # What is closed to all but overdue gangs.
        self._kept_cpu, self._kept_memory, self._kept_disk, self._kept_gpus = np.zeros(
            (4, len(self)), dtype=np.int64
        )
        self._kept_for: dict[int, str] = {}  # the first of those gangs, by node
        self._score = score
        self._rows: dict[tuple[WorkerSize, bool], Row] = {}
        self._when_ended: dict[WorkerSize, Ints] = {}  # copies, with nothing kept
        self._log: list[int] = []  # each time a node changed
        self._log_from = 0  # how much was cut off its front

    def __len__(self) -> int:
        return len(self.machines.views)

    @property
    def ports_left(self) -> Ints:
        return self._ports.left

    def replaced(self, views: Iterable[NodeView]) -> "Nodes":
        """Other nodes, of which nothing is taken, that are scored the same way."""
        return Nodes(views, self._score)

    # --- what changes -----------------------------------------------------------------------------

    def take(self, at: int, hold: Hold) -> None:
        self._free.add(at, hold.needs, hold.gpus, -1)
        for port in hold.ports:
            self._ports.take(at, port)
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
            self._ports.give(at, port)
        if hold.started_at_ms is None:
            self._when_ended.clear()
        else:
            self._ending.add(at, hold.needs, hold.gpus, -1)
            del self._starts[at][hold.replica]
            self.last_start_ms[at] = max(self._starts[at].values(), default=0)
        self._log.append(at)

    def take_port(self, at: int, port: int) -> None:
        self._ports.take(at, port)
        self._log.append(at)

    def give_port(self, at: int, port: int) -> None:
        self._ports.give(at, port)
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
            bool(self.machines.usable[at])
            and hold.needs.cpu_millis <= free.cpu[at]
            and hold.needs.memory_bytes <= free.memory[at]
            and hold.needs.disk_bytes <= free.disk[at]
            and all(
                device < self.machines.gpus_total[at]
                and free.gpu[at, device] >= hold.needs.gpu_millis
                for device in hold.gpus
            )
            and self._ports.are_free(at, hold.ports)
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
            row = Row(self.machines.all, np.zeros(0), -1)
            self._rows[size, beside_kept] = row
        if row.seen < self._log_from:
            columns = self._columns(self.machines.all, beside_kept=beside_kept)
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
        return self._columns(self.machines.all, beside_kept=False)

    def copies_when_ended(self, size: WorkerSize) -> Ints:
        """How many fit, by node, once all that ends by itself has ended: beside what is kept."""
        if size not in self._when_ended:
            ended = Columns(self.machines, self.machines.all, self._free + self._ending)
            self._when_ended[size] = self._copies(ended, size)
        copies = self._when_ended[size]
        if self._kept_for:
            at = np.array(sorted(self._kept_for), dtype=np.int64)
            left = self._beside_kept(at, self._free.of(at) + self._ending.of(at))
            ended = Columns(self.machines, at, left)
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
        node = self.machines.views[at].id
        gpus: tuple[int, ...] = ()
        if worker.needs.gpus:
            chosen = self.free(at, beside_kept=False).choose_gpus(worker.needs)
            assert chosen is not None, (node, worker)
            gpus = chosen
        ports = self._ports.choose(at, worker.ports, worker.replica, now_ms)
        return Assignment(worker.replica, node, gpus, ports)

    def rendezvous_port(self, at: int, gang: str, now_ms: int) -> int:
        return self._ports.choose_any(at, gang, now_ms)

    # --- inside -----------------------------------------------------------------------------------

    def _columns(self, at: Ints, *, beside_kept: bool) -> Columns:
        amounts = self._free.of(at)
        return Columns(
            self.machines, at, self._beside_kept(at, amounts) if beside_kept else amounts
        )

    def _beside_kept(self, at: Ints, amounts: Amounts) -> Amounts:
        """Less what is kept there; of the devices, those with the most left are closed."""
        gpu, closed = amounts.gpu, self._kept_gpus[at]
        if closed.any():
            by_left = np.argsort(-gpu, axis=1, kind="stable")
            is_closed = np.zeros(gpu.shape, dtype=np.bool_)
            first = np.arange(gpu.shape[1]) < closed[:, None]
            np.put_along_axis(is_closed, by_left, first, axis=1)
            gpu = np.where(is_closed, 0, gpu)
        return Amounts(
            _beside(amounts.cpu, self._kept_cpu[at]),
            _beside(amounts.memory, self._kept_memory[at]),
            _beside(amounts.disk, self._kept_disk[at]),
            gpu,
        )

    def _copies(self, columns: Columns, size: WorkerSize) -> Ints:
        copies = copies_by_node(columns, size.needs)
        ports = self._ports.left[columns.at]  # one stays for the rendezvous
        by_ports = np.maximum(0, ports - 1) // size.ports if size.ports else (ports > 0) * UNBOUNDED
        return np.where(self.machines.usable[columns.at], np.minimum(copies, by_ports), 0)

    def _scored(self, columns: Columns, size: WorkerSize, copies: Ints) -> Floats:
        """Only where it fits: what does not is no place, and late in a day most nodes are full."""
        fits = np.flatnonzero(copies)
        if len(fits) == len(copies):
            return self._score(size.needs, columns)
        score = np.full(len(copies), np.inf)
        if len(fits):
            score[fits] = self._score(size.needs, columns.only(fits))
        return score

    def _free_of(self, amounts: Amounts, row: int, at: int) -> Free:
        return Free(
            cpu_millis=int(amounts.cpu[row]),
            memory_bytes=int(amounts.memory[row]),
            disk_bytes=int(amounts.disk[row]),
            gpu_millis=tuple(amounts.gpu[row, : self.machines.gpus_total[at]].tolist()),
            gpu_type=self.machines.views[at].capacity.gpu_type,
        )


def _beside(free: Ints, kept: Ints) -> Ints:
    beside: Ints = np.maximum(np.minimum(free, 0), free - kept)
    return beside
