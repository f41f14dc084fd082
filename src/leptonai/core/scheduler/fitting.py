"""Which nodes a gang goes to: all its workers or none."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from leptonai.core.resources import Free, Needs
from leptonai.core.scheduler.columns import Bools, Ints
from leptonai.core.scheduler.copies import WorkerSize, copies_on
from leptonai.core.scheduler.nodes import Nodes
from leptonai.core.scheduler.segments import deal, segments_by_domain
from leptonai.core.scheduler.values import Gang, Worker

SEARCH_STEPS = 5_000  # for a gang of unequal workers, before it is said not to fit

# What placing a gang depends on: two gangs of one shape fit at the same places or both nowhere.
Shape = tuple[object, ...]


def shape_of(gang: Gang) -> Shape:
    where = (gang.allowed_nodes, gang.allowed_groups, gang.avoided_nodes, gang.apart, gang.segment)
    size = equal_size(gang)
    if size is not None:
        return (size, len(gang.workers), gang.min_workers, *where)
    sizes = tuple(WorkerSize.of(worker) for worker in gang.workers)
    return (sizes, gang.min_workers, *where)


def equal_size(gang: Gang) -> WorkerSize | None:
    """The size that all its workers have, if it is one."""
    first = gang.workers[0]
    for worker in gang.workers[1:]:
        if worker.needs is not first.needs and worker.needs != first.needs:
            return None
        if len(worker.ports) != len(first.ports):
            return None
    return WorkerSize.of(first)


def choose_nodes(
    gang: Gang, nodes: Nodes, admitted: Bools | None, *, beside_kept: bool = True
) -> list[int] | None:
    """A node for each worker, by its position, or None if the gang does not fit.

    An elastic gang is given nodes for as many of its first workers as fit, but not below its least;
    one of unequal workers for all of them or its least.
    None is certain for equal workers. For unequal ones it may also mean that none was found within
    SEARCH_STEPS.

    Args:
        admitted: the nodes that its affinity allows; None: all.
        beside_kept: whether what is kept for overdue gangs is closed to it.
    """
    size = equal_size(gang)
    if size is None:
        chosen = _choose_unequal(gang, nodes, admitted, beside_kept=beside_kept)
        if chosen is None and 0 < gang.min_workers < len(gang.workers):
            least = replace(gang, workers=gang.least)
            return choose_nodes(least, nodes, admitted, beside_kept=beside_kept)
        return chosen
    row = nodes.row(size, beside_kept=beside_kept)
    copies, score = row.copies, row.score
    if admitted is not None:
        copies, score = np.where(admitted, copies, 0), np.where(admitted, score, np.inf)
    workers = len(gang.workers)
    if workers == 1:
        best = int(score.argmin()) if len(score) else 0
        return [best] if len(score) and score[best] < np.inf else None
    if gang.apart:
        copies = np.minimum(copies, 1)
    if gang.min_workers:
        workers = max(min(workers, int(copies.sum())), gang.min_workers)
    one = copies >= workers
    if one.any():
        return [int(np.where(one, score, np.inf).argmin())] * workers
    if gang.segment:
        return _span_domains(copies, score, nodes, gang)
    if copies.sum() < workers:
        return None
    return _span(copies, score, nodes, workers)


def _span_domains(copies: Ints, score: np.ndarray, nodes: Nodes, gang: Gang) -> list[int] | None:
    """Whole segments, in as few domains as possible."""
    room = segments_by_domain(copies, nodes, gang.segment)
    wanted = len(gang.workers) // gang.segment
    if room.sum() < wanted:
        return None
    chosen: list[int] = []
    for domain, segments in deal(room, wanted):
        inside = np.where(nodes.machines.domain == domain, copies, 0)
        chosen += _span(inside, score, nodes, segments * gang.segment)
    return chosen


def _span(copies: Ints, score: np.ndarray, nodes: Nodes, workers: int) -> list[int]:
    """As few nodes as possible, behind one switch if one suffices: the roomiest first, and as the
    last the best of those that hold what is left."""
    if nodes.machines.switches > 1:
        behind = np.bincount(
            nodes.machines.switch, weights=copies, minlength=nodes.machines.switches
        )
        enough = np.flatnonzero(behind >= workers)
        if len(enough):
            tightest = enough[behind[enough].argmin()]
            copies = np.where(nodes.machines.switch == tightest, copies, 0)
    used = np.flatnonzero(copies)
    roomiest_first = used[np.lexsort((used, score[used], -copies[used]))]
    chosen: list[int] = []
    for place, at in enumerate(roomiest_first.tolist()):
        left = workers - len(chosen)
        if copies[at] >= left:
            last = roomiest_first[place:]
            last = last[copies[last] >= left]
            best = last[np.lexsort((last, score[last]))[0]]
            return chosen + [int(best)] * left
        chosen += [at] * int(copies[at])
    raise AssertionError("the total suffices")


def _choose_unequal(
    gang: Gang, nodes: Nodes, admitted: Bools | None, *, beside_kept: bool
) -> list[int] | None:
    """On one node if possible; else the largest worker first, on a node that the gang already uses,
    else on the roomiest one; with a bounded search through the other choices."""
    workers = gang.workers
    fits = np.zeros(len(nodes), dtype=np.bool_)
    for size in {WorkerSize.of(worker) for worker in workers}:
        fits |= nodes.row(size, beside_kept=beside_kept).copies > 0
    if admitted is not None:
        fits &= admitted
    usable = {
        at: (nodes.free(at, beside_kept=beside_kept), int(nodes.ports_left[at]) - 1)
        for at in np.flatnonzero(fits).tolist()
    }
    if not usable:
        return None
    order = sorted(range(len(workers)), key=lambda i: (_share(workers[i].needs, usable), i))
    order.reverse()
    largest_first = [workers[i] for i in order]
    if not gang.apart:
        for at in sorted(usable, key=lambda at: (_fullness(usable[at][0]), at)):
            if _search(largest_first, {at: usable[at]}, apart=False, steps=len(workers) + 1):
                return [at] * len(workers)
    if (found := _search(largest_first, usable, apart=gang.apart, steps=SEARCH_STEPS)) is None:
        return None
    by_worker = dict(zip(order, found, strict=True))
    return [by_worker[i] for i in range(len(workers))]


def _fullness(free: Free) -> tuple[int, int, int]:
    return sum(free.gpu_millis), free.cpu_millis, free.memory_bytes


def _share(needs: Needs, usable: dict[int, tuple[Free, int]]) -> float:
    """The largest share of what is free that it takes of any resource."""
    frees = [free for free, _ in usable.values()]

    def share(amount: int, free: int) -> float:
        return amount / free if amount and free else float(bool(amount))

    return max(
        share(needs.cpu_millis, sum(max(0, free.cpu_millis) for free in frees)),
        share(needs.memory_bytes, sum(max(0, free.memory_bytes) for free in frees)),
        share(needs.disk_bytes, sum(max(0, free.disk_bytes) for free in frees)),
        share(needs.gpus * needs.gpu_millis, sum(sum(free.gpu_millis) for free in frees)),
    )


def _nodes_for(
    worker: Worker, left: dict[int, tuple[Free, int]], used: set[int], *, apart: bool
) -> Iterator[int]:
    """Those where it fits; of nodes that are alike now, one is as good as the others."""
    alike: set[tuple[Free, int, bool]] = set()
    ranked: list[tuple[bool, int, int]] = []
    for at, (free, ports) in left.items():
        kind = (free, ports, at in used)
        if kind in alike or len(worker.ports) > ports or (apart and at in used):
            continue
        alike.add(kind)
        if many := copies_on(free, worker.needs):
            ranked.append((at not in used, -many, at))
    return iter([at for _, _, at in sorted(ranked)])


def _search(
    workers: Sequence[Worker], usable: dict[int, tuple[Free, int]], *, apart: bool, steps: int
) -> list[int] | None:
    """Depth first; its first descent is the greedy answer.

    Args:
        usable: what the nodes have left, and how many ports.
    """
    left = dict(usable)
    taken: list[tuple[int, tuple[Free, int]]] = []  # by worker: its node, and that node before
    # By worker: the nodes not yet tried.
    choices = [_nodes_for(workers[0], left, set(), apart=apart)]
    while choices:
        at = next(choices[-1], None)
        if at is None:
            choices.pop()
            if taken:
                at, before = taken.pop()
                left[at] = before
            continue
        if steps == 0:
            return None
        steps -= 1
        taken.append((at, left[at]))
        worker, (free, ports) = workers[len(taken) - 1], left[at]
        gpus = free.choose_gpus(worker.needs)
        assert gpus is not None
        left[at] = (free.take(worker.needs, gpus), ports - len(worker.ports))
        if len(taken) == len(workers):
            return [at for at, _ in taken]
        used = {at for at, _ in taken}
        choices.append(_nodes_for(workers[len(taken)], left, used, apart=apart))
    return None
