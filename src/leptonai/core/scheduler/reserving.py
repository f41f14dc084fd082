"""Room that is kept: for a gang that is overdue, or for the first of a queue that may be passed."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from leptonai.core.resources import MILLIS, Free, Needs
from leptonai.core.scheduler.columns import Bools, Ints
from leptonai.core.scheduler.copies import WorkerSize, copies_on
from leptonai.core.scheduler.fitting import equal_size
from leptonai.core.scheduler.index import Index
from leptonai.core.scheduler.nodes import Nodes
from leptonai.core.scheduler.policy import Passing
from leptonai.core.scheduler.segments import deal, segments_by_domain
from leptonai.core.scheduler.values import Gang, Running

MAX_KEPT = 16  # overdue gangs for which room is kept at the same time


class Kept:
    """The room that one decision keeps, and for whom."""

    def __init__(self, index: Index, now_ms: int) -> None:
        self.gangs: list[Gang] = []
        self._index = index
        self._policy = index.policy
        self._now_ms = now_ms
        self._head_starts_ms: int | None = None  # where passing is RESERVED
        self._head_due_ms = 0

    @property
    def plans_ahead(self) -> bool:
        """Whether room is kept for who is due before that is late."""
        policy = self._policy
        return policy.passing is Passing.RESERVED and policy.overdue_after_ms is not None

    def is_head(self, gang: Gang) -> bool:
        """Whether room is kept for it ahead of its time."""
        return self.plans_ahead and self.gangs[:1] == [gang]

    def ends_before_the_head_starts(self, gang: Gang) -> bool:
        return (
            self._head_starts_ms is not None
            and gang.remaining_ms is not None
            and self._now_ms + gang.remaining_ms <= self._head_starts_ms
        )

    def for_overdue(self, gang: Gang) -> None:
        """If the policy does, and not for too many."""
        if (
            self._policy.passing in (Passing.WINDOW, Passing.RESERVED)
            and self._head_starts_ms is None
            and len(self.gangs) < MAX_KEPT
            and _keep_room(gang, self._index.nodes, self._index.admitted(gang))
        ):
            self.gangs.append(gang)

    def until(self, head: Gang, running: Iterable[Running], *, due_ms: int) -> None:
        """Keep room for the head of the queue, which starts when enough of what runs has ended."""
        self.gangs.append(head)
        self._head_due_ms = due_ms
        admitted = self._index.admitted(head)
        self._head_starts_ms = _keep_until(
            head, self._index.nodes, admitted, running, self._now_ms, due_ms=due_ms
        )

    def again(self, running: Iterable[Running]) -> None:
        """For the same head, now that more runs."""
        self._index.nodes.keep_nothing()
        self.until(self.gangs.pop(), running, due_ms=self._head_due_ms)

    def nothing(self) -> None:
        self._index.nodes.keep_nothing()
        self.gangs.clear()


def _keep_room(gang: Gang, nodes: Nodes, admitted: Bools | None) -> bool:
    """Close to all others, for an overdue gang, the nodes that went longest without a new start.

    Nothing new starts there from now on, so those nodes stay the ones that went longest without,
    and what runs on them started before the gang was overdue: when that has ended, the gang starts.

    Returns:
        False, and keeps nothing, where the gang would not fit even then.
    """
    size = equal_size(gang)
    wanted = len(gang.least)
    if size is None:
        return _keep_for_unequal(gang, nodes, admitted)
    copies = nodes.copies_when_ended(size)
    if admitted is not None:
        copies = np.where(admitted, copies, 0)
    if gang.apart:
        copies = np.minimum(copies, 1)
    order = _longest_without_a_start(nodes, copies)
    if gang.segment:
        return _keep_for_segments(gang, nodes, copies, order, size.needs)
    enough = int(np.searchsorted(np.cumsum(copies[order]), wanted))
    if enough == len(order):
        return False
    for at in order[: enough + 1].tolist():
        many = min(wanted, int(copies[at]))
        nodes.keep(at, gang.id, size.needs, many)
        wanted -= many
    return True


def _keep_for_segments(gang: Gang, nodes: Nodes, copies: Ints, order: Ints, needs: Needs) -> bool:
    """The segments whose nodes all went longest without a new start."""
    wanted = len(gang.workers) // gang.segment
    begun: defaultdict[int, list[int]] = defaultdict(list)  # by domain: the node of each worker
    keeping: list[int] = []
    for at in order.tolist():
        room = int(copies[at])
        segment = begun[int(nodes.machines.domain[at])]
        while room and len(keeping) < wanted * gang.segment:
            more = min(room, gang.segment - len(segment))
            segment += [at] * more
            room -= more
            if len(segment) == gang.segment:
                keeping += segment
                segment.clear()
    if len(keeping) < wanted * gang.segment:
        return False
    for at, many in Counter(keeping).items():
        nodes.keep(at, gang.id, needs, many)
    return True


def _longest_without_a_start(nodes: Nodes, copies: Ints) -> Ints:
    fitting = np.flatnonzero(copies)
    order = np.lexsort((fitting, nodes.last_start_ms[fitting]))
    return fitting[order]


def _keep_for_unequal(gang: Gang, nodes: Nodes, admitted: Bools | None) -> bool:
    sizes = [WorkerSize.of(worker) for worker in gang.workers]
    fits = sum(nodes.copies_when_ended(size) for size in set(sizes))
    assert isinstance(fits, np.ndarray)
    if admitted is not None:
        fits = np.where(admitted, fits, 0)
    left = sorted(
        sizes, key=lambda size: (size.needs.gpus, size.needs.cpu_millis, size.needs.memory_bytes)
    )
    keeping: list[tuple[int, WorkerSize]] = []
    for at in _longest_without_a_start(nodes, fits).tolist():
        free = nodes.free_when_ended(at)
        for size in reversed(left.copy()):  # the largest first
            if copies_on(free, size.needs):
                gpus = free.choose_gpus(size.needs)
                assert gpus is not None
                free = free.take(size.needs, gpus)
                left.remove(size)
                keeping.append((at, size))
                if gang.apart:
                    break
        if not left:
            break
    if left:
        return False
    for at, size in keeping:
        nodes.keep(at, gang.id, size.needs, 1)
    return True


def _keep_until(
    gang: Gang,
    nodes: Nodes,
    admitted: Bools | None,
    running: Iterable[Running],
    now_ms: int,
    *,
    due_ms: int = 0,
) -> int | None:
    """Close what a gang needs of the room that is free now, given that it waits for what ends by
    then: so what ends earlier may still use it (EASY backfill; Lifka 1995).

    Args:
        due_ms: it need not start before. With a time ahead, most of the room that it needs is
            still to become free, and little is closed: the cluster drains for it in time, and
            not only once it is late (slack as in Talby & Feitelson 1999).

    Returns:
        When the gang can start by the estimates of what runs, or None where that is not known.
    """
    size = equal_size(gang)
    if size is None:
        return None
    free_now = nodes.row(size).copies
    if admitted is not None:
        free_now = np.where(admitted, free_now, 0)
    after = free_now.copy()
    wanted, total, at_ms = len(gang.workers), _room(gang, nodes, free_now), now_ms
    rest: dict[int, Free] = {}
    for ending in sorted(
        (r for r in running if r.gang.remaining_ms is not None and r.started_at_ms is not None),
        key=lambda r: (ends_at_ms(r, now_ms), r.gang.id),
    ):
        ends_ms = ends_at_ms(ending, now_ms)
        if total >= wanted and ends_ms > due_ms:
            break
        if total < wanted:
            at_ms = ends_ms
        for worker, to in ending.held:
            at = nodes.machines.at.get(to.node)
            if at is None or (admitted is not None and not admitted[at]):
                continue
            free = rest.get(at) or nodes.free(at)
            rest[at] = free.give(worker.needs, to.gpus)
            many = copies_on(rest[at], size.needs)
            total += many - int(after[at])
            after[at] = many
        if gang.segment:
            total = _room(gang, nodes, after)
    if total < wanted:
        return None
    # As much as possible of what is not free yet, so that little is closed now.
    becoming = after - free_now
    copies: Counter[int] = Counter()
    for within, wanted in _shares(gang, nodes, after):
        for room in (becoming, free_now):
            room = np.where(within, room, 0)
            for at in np.lexsort((np.arange(len(room)), -room)).tolist():
                many = min(wanted, int(room[at]))
                if many <= 0:
                    break
                copies[at] += many
                wanted -= many
    for at, many in copies.items():
        now = nodes.free(at)
        short = _still_short(size.needs, many, now, rest.get(at, now))
        if short != Needs():
            nodes.keep(at, gang.id, short, 1)
    return max(at_ms, due_ms)


def _room(gang: Gang, nodes: Nodes, copies: Ints) -> int:
    """For how many of its workers: in whole segments."""
    if not gang.segment:
        return int(copies.sum())
    return int(segments_by_domain(copies, nodes, gang.segment).sum()) * gang.segment


def _shares(gang: Gang, nodes: Nodes, copies: Ints) -> Iterator[tuple[Bools, int]]:
    """Which nodes are to have how many of its workers."""
    workers = len(gang.workers)
    if not gang.segment:
        yield np.ones(len(nodes), dtype=np.bool_), workers
        return
    room = segments_by_domain(copies, nodes, gang.segment)
    for domain, segments in deal(room, workers // gang.segment):
        yield nodes.machines.domain == domain, segments * gang.segment


def _still_short(needs: Needs, many: int, now: Free, then: Free) -> Needs:
    """What so many workers need of what a node has free now, beside what becomes free there."""
    whole = sum(left >= MILLIS for left in then.gpu_millis)
    whole -= sum(left >= MILLIS for left in now.gpu_millis)
    return Needs(
        cpu_millis=max(0, many * needs.cpu_millis - (then.cpu_millis - now.cpu_millis)),
        memory_bytes=max(0, many * needs.memory_bytes - (then.memory_bytes - now.memory_bytes)),
        disk_bytes=max(0, many * needs.disk_bytes - (then.disk_bytes - now.disk_bytes)),
        gpus=max(0, many * needs.gpus - whole),
    )


def ends_at_ms(running: Running, now_ms: int) -> int:
    """By its estimate; one that has run for longer is about to end."""
    assert running.started_at_ms is not None and running.gang.remaining_ms is not None
    return max(now_ms, running.started_at_ms + running.gang.remaining_ms)
