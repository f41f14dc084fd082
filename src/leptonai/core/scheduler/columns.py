"""Nodes as columns: what they are, and what some of them have left, as arrays over the nodes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from leptonai.core.resources import MILLIS, Needs
from leptonai.core.scheduler.values import NodeView, Power

Name = TypeVar("Name", str, tuple[str, str])

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NO_POWER = Power(cpu_idle=0.0, cpu_busy=0.0, cpu_millis_per_socket=1)


@dataclass(slots=True)
class Amounts:
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

    def of(self, at: Ints) -> "Amounts":
        return Amounts(self.cpu[at], self.memory[at], self.disk[at], self.gpu[at])

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.cpu + other.cpu,
            self.memory + other.memory,
            self.disk + other.disk,
            self.gpu + other.gpu,
        )


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
            column(power.cpu_millis_per_socket for power in powers),
        )

    def of(self, at: Ints) -> "Powers":
        return Powers(
            self.idle[at], self.by_socket[at], self.by_gpu[at], self.cpu_millis_per_socket[at]
        )


class Machines:
    """What the nodes are, whatever runs on them. Sorted by id."""

    def __init__(self, views: Iterable[NodeView]) -> None:
        self.views = tuple(sorted(views, key=lambda view: view.id))
        self.at = {view.id: at for at, view in enumerate(self.views)}
        self.all = np.arange(len(self.views), dtype=np.int64)
        capacities = [view.capacity for view in self.views]
        self.total = Amounts(
            column(capacity.cpu_millis for capacity in capacities),
            column(capacity.memory_bytes for capacity in capacities),
            column(capacity.disk_bytes for capacity in capacities),
            _devices([capacity.gpus for capacity in capacities]),
        )
        self.cpu_millis_total = int(self.total.cpu.sum())
        self.cpu_most = int(self.total.cpu.max(initial=0))  # of any one node, in millis
        self.gpu_millis_total = int(self.total.gpu.sum())
        self.gpus_total = column(capacity.gpus for capacity in capacities)
        self.gpus_most = int(self.total.gpu.shape[1])  # of any one node
        self.gpu_types, self.gpu_type = _coded(capacity.gpu_type for capacity in capacities)
        self.powers = Powers.of_views(self.views)
        self.usable = np.array([view.schedulable for view in self.views], dtype=np.bool_)
        switches, self.switch = _coded(view.switch for view in self.views)
        self.switches = len(switches)

    @cached_property
    def domain(self) -> Ints:
        """Of each node: a number for its domain."""
        return _coded(view.domain for view in self.views)[1]


class Columns:
    """Some nodes. Every array is over these nodes; `gpu` is [nodes, devices].

    `gpu` is what each device has left, in thousandths; a device that is not there has nothing left.
    """

    __slots__ = ("at", "cpu", "disk", "gpu", "machines", "memory")

    def __init__(self, machines: Machines, at: Ints, left: Amounts) -> None:
        self.machines = machines  # all of them
        self.at = at  # which of them these are
        self.cpu = left.cpu  # millis
        self.memory = left.memory  # bytes
        self.disk = left.disk  # bytes
        self.gpu = left.gpu

    def only(self, rows: Ints) -> "Columns":
        left = Amounts(self.cpu, self.memory, self.disk, self.gpu)
        return Columns(self.machines, self.at[rows], left.of(rows))

    @property
    def cpu_total(self) -> Ints:
        return self.machines.total.cpu[self.at]

    @property
    def gpus_total(self) -> Ints:
        return self.machines.gpus_total[self.at]

    @property
    def gpu_type(self) -> Ints:
        """An index into the machines' gpu_types."""
        return self.machines.gpu_type[self.at]

    @property
    def power(self) -> Powers:
        """Of these nodes; what is not known is nothing."""
        return self.machines.powers.of(self.at)


def column(values: Iterable[int]) -> Ints:
    return np.fromiter(values, dtype=np.int64)


def _devices(gpus: Sequence[int]) -> Ints:
    """[nodes, devices]: all of each device that is there."""
    there = np.arange(max(gpus, default=0)) < np.array(gpus, dtype=np.int64)[:, None]
    return np.where(there, MILLIS, 0).astype(np.int64)


def _coded(names: Iterable[Name]) -> tuple[list[Name], Ints]:
    names = list(names)
    codes = {name: code for code, name in enumerate(sorted(set(names)))}
    return list(codes), column(codes[name] for name in names)
