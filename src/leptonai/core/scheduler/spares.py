"""Which templates give way: nobody waits for memory that is held only to make others quicker."""

from collections.abc import Sequence

import numpy as np

from leptonai.core.resources import Needs
from leptonai.core.scheduler.copies import WorkerSize, copies_on
from leptonai.core.scheduler.index import Index
from leptonai.core.scheduler.values import Gang, Spare


def giving_way(index: Index, gang: Gang, spares: Sequence[Spare]) -> tuple[Spare, ...]:
    """Those that end so that this gang fits, on each node the longest unwanted ones first. None
    where it fits as it is, or would not even so.

    All its workers are taken to be of the size of the first.
    """
    worker = gang.least[0]
    copies = index.nodes.row(WorkerSize.of(worker)).copies
    admitted = index.admitted(gang)
    there = int(copies.sum() if admitted is None else copies[np.flatnonzero(admitted)].sum())
    missing = len(gang.least) - there
    given: list[Spare] = []
    for node in sorted({spare.node for spare in spares}):
        at = index.nodes.machines.at.get(node)
        if missing <= 0 or at is None:
            continue
        view = index.nodes.machines.views[at]
        if not view.schedulable or not gang.admits(view):
            continue
        free = index.nodes.free(at)
        fit = copies_on(free, worker.needs)
        ended: list[Spare] = []
        for spare in sorted(
            (one for one in spares if one.node == node), key=lambda one: (one.wanted_at_ms, one.key)
        ):
            ended.append(spare)
            free = free.give(Needs(memory_bytes=spare.memory_bytes), ())
            more = copies_on(free, worker.needs) - fit
            if more > 0:  # else it ends only if that of another does make room
                given += ended
                ended, fit, missing = [], fit + more, missing - more
            if missing <= 0:
                break
    return tuple(given) if missing <= 0 else ()
