"""How a gang stands to the quotas of its user and its project."""

from collections.abc import Callable, Iterable
from enum import IntEnum

from leptonai.core.resources import MILLIS
from leptonai.core.scheduler.values import Gang, Quota, Worker


class Usage:
    """What a user or a project holds of the cluster."""

    __slots__ = ("cpu_millis", "gpu_millis")

    def __init__(self) -> None:
        self.gpu_millis = 0
        self.cpu_millis = 0

    def add(self, workers: Iterable[Worker], sign: int = 1) -> None:
        for worker in workers:
            self.gpu_millis += sign * worker.needs.gpus * worker.needs.gpu_millis
            self.cpu_millis += sign * worker.needs.cpu_millis


class Standing(IntEnum):
    """Where more is asked than is guaranteed, smaller goes first."""

    WITHIN = 0  # of every quota that applies
    BORROWING = 1  # more than is guaranteed: gives it back when it is reclaimed
    OVER = 2  # may not be placed now


def standing(
    gang: Gang, quotas: Iterable[Quota], used: Callable[[Quota], Usage]
) -> tuple[Standing, Quota | None]:
    """How a gang that waits would stand if it were placed now, and by which of its quotas.

    Only what is preemptible may borrow: what is lent can be reclaimed at any time.
    """
    worst: tuple[Standing, Quota | None] = (Standing.WITHIN, None)
    for quota in quotas:
        asked = Usage()
        asked.add(gang.least)
        if not exceeded(quota, used(quota), asked):
            continue
        if not (quota.borrow and gang.preemptible):
            return Standing.OVER, quota
        worst = (Standing.BORROWING, quota)
    return worst


def exceeded(quota: Quota, used: Usage, asked: Usage | None = None) -> bool:
    """Whether more is used, with what is asked, than is guaranteed."""
    gpu_millis = used.gpu_millis + (asked.gpu_millis if asked else 0)
    cpu_millis = used.cpu_millis + (asked.cpu_millis if asked else 0)
    # What a gang does not ask for cannot keep it out.
    by_gpus = quota.gpus is not None and gpu_millis > round(quota.gpus * MILLIS)
    by_cpu = quota.cpu_millis is not None and cpu_millis > quota.cpu_millis
    if asked is not None:
        by_gpus, by_cpu = by_gpus and asked.gpu_millis > 0, by_cpu and asked.cpu_millis > 0
    return by_gpus or by_cpu
