"""How many workers of one size fit together in what nodes have left."""

from dataclasses import dataclass

import numpy as np

from leptonai.core.resources import MILLIS, Free, Needs
from leptonai.core.scheduler.columns import Columns, Ints, column
from leptonai.core.scheduler.values import Worker

UNBOUNDED = 1 << 30  # workers that need nothing fit without end


@dataclass(frozen=True, slots=True)
class WorkerSize:
    """What placing a worker depends on."""

    needs: Needs
    ports: int

    @classmethod
    def of(cls, worker: Worker) -> "WorkerSize":
        return cls(worker.needs, len(worker.ports))


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


def copies_by_node(columns: Columns, needs: Needs) -> Ints:
    """The same for many nodes at once, but for ports."""
    if needs.gpus > 1 and 2 * needs.gpu_millis <= MILLIS:
        return _one_by_one(columns, needs)
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
            fits = np.array(
                [needs.takes_gpu(kind) for kind in columns.machines.gpu_types], dtype=np.bool_
            )
            many[~fits[columns.gpu_type]] = 0
    many[(columns.cpu < 0) | (columns.memory < 0) | (columns.disk < 0)] = 0
    return many


def _one_by_one(columns: Columns, needs: Needs) -> Ints:
    """Several small shares for each worker, each on another device: has no closed form."""
    return column(
        copies_on(
            Free(
                cpu_millis=int(columns.cpu[row]),
                memory_bytes=int(columns.memory[row]),
                disk_bytes=int(columns.disk[row]),
                gpu_millis=tuple(columns.gpu[row].tolist()),
                gpu_type=columns.machines.gpu_types[columns.gpu_type[row]],
            ),
            needs,
        )
        for row in range(len(columns.at))
    )
