"""What the scheduler remembers between two decisions, so that one costs what changed.

An index is a value: `Index.of` makes it from a snapshot, `advance` gives the next one and uses the
old one up (its tables move over, nothing is copied), and a decision leaves it as it was.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from leptonai.core.resources import MILLIS, Needs
from leptonai.core.scheduler.columns import Bools
from leptonai.core.scheduler.fitting import Shape, shape_of
from leptonai.core.scheduler.nodes import Hold, Nodes
from leptonai.core.scheduler.ordering import rank, urgent_at_ms
from leptonai.core.scheduler.policy import DEFAULT, Order, Policy
from leptonai.core.scheduler.quotas import Usage
from leptonai.core.scheduler.scoring import score_of
from leptonai.core.scheduler.values import Gang, NodeView, Quota, Running, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is different since the last decision. A gang that is in none of these is as it was."""

    queued: tuple[Gang, ...] = ()  # now waiting, new or again
    running: tuple[Running, ...] = ()  # now running, or holding something else than before
    gone: tuple[str, ...] = ()  # gangs that neither wait nor run any more
    nodes: tuple[NodeView, ...] = ()  # new, or different
    removed_nodes: tuple[str, ...] = ()
    quotas: tuple[Quota, ...] | None = None  # all there are now; None: as before
    weights: Mapping[str, float] | None = None  # likewise
    # Workers asked for up to now, by size; None: as it was told before. Every node is scored anew
    # by it, so tell it when it is a different one, say twice as many, and not with each gang.
    demand: Mapping[Needs, float] | None = None


Kind = tuple[Shape, bool, bool]  # and whether it may preempt, and may be preempted
LaneKey = tuple[int, Kind, str, str]  # priority; user and project where there are quotas
Affinity = tuple[frozenset[str], frozenset[str], frozenset[str]]


def affinity_of(gang: Gang) -> Affinity:
    return (gang.allowed_nodes, gang.allowed_groups, gang.avoided_nodes)


@dataclass(slots=True)
class Lane:
    """Waiting gangs for which the same holds: where the first of them does not fit, none does."""

    key: LaneKey
    priority: int
    kind: Kind
    example: Gang
    # Each is sorted and ends in the gang's id.
    by_urgency: list[tuple[int, str]] = field(default_factory=list)
    by_rank: dict[str, list[tuple[float, int, str]]] = field(default_factory=dict)  # by user


class Index:
    def __init__(
        self,
        nodes: Iterable[NodeView],
        policy: Policy,
        quotas: tuple[Quota, ...] = (),
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.policy = policy
        self.quotas = quotas
        self._quotas_of = _by_whose(quotas)
        self.weights = dict(weights or {})
        self.nodes = Nodes(nodes, score_of(policy.choice, {}, policy.seed))
        self.demand: Mapping[Needs, float] = {}
        self.running: dict[str, Running] = {}
        self.waiting: dict[str, Gang] = {}
        self.lanes: dict[LaneKey, Lane] = {}
        self.preemptible: set[str] = set()  # of those running
        self.elastic: set[str] = set()  # of those running: could do with fewer workers
        self.growable: set[str] = set()  # of those running: could do with more workers
        self.dated: set[str] = set()  # all that have a deadline
        self.leaving: set[str] = set()  # of those running: some of their replicas are about to end
        self.used: dict[tuple[str, str], Usage] = {}  # by ("user" | "project", name)
        self._lane_of: dict[str, LaneKey] = {}
        self._admitted: dict[Affinity, Bools | None] = {}

    @classmethod
    def of(cls, snapshot: Snapshot, policy: Policy = DEFAULT) -> "Index":
        index = cls(snapshot.nodes, policy, snapshot.quotas, snapshot.weights)
        change = Change(
            queued=snapshot.queue, running=snapshot.running, demand=snapshot.demand or None
        )
        return advance(index, change)

    @property
    def gpus(self) -> float:
        """Of the whole cluster; where there are none, each node counts as one."""
        return self.nodes.machines.gpu_millis_total / MILLIS or float(len(self.nodes)) or 1.0

    def admitted(self, gang: Gang) -> Bools | None:
        """Which nodes its affinity allows; None: all."""
        affinity = affinity_of(gang)
        if affinity not in self._admitted:
            self._admitted[affinity] = (
                np.array([gang.admits(view) for view in self.nodes.machines.views], dtype=np.bool_)
                if any(affinity)
                else None
            )
        return self._admitted[affinity]

    def holds(self, running: Running) -> Iterator[tuple[int, Hold]]:
        """By node: what each of its workers holds there. Nodes that are not there are passed over.

        The first of them holds the rendezvous port, too.
        """
        started = None if running.lasting else running.started_at_ms or 0
        extra = (running.rendezvous_port,) if running.rendezvous_port else ()
        for worker, to in running.held:
            at = self.nodes.machines.at.get(to.node)
            if at is not None:
                yield at, Hold(worker.replica, worker.needs, to.gpus, to.ports + extra, started)
            extra = ()

    def usages(self, gang: Gang) -> list[Usage]:
        return [self.used.setdefault(name, Usage()) for name in _whose(gang) if name[1]]

    def quotas_of(self, gang: Gang) -> list[Quota]:
        """Those that apply to it."""
        return [quota for name in _whose(gang) for quota in self._quotas_of.get(name, ())]

    def used_of(self, quota: Quota) -> Usage:
        name = _whose_quota(quota)
        return self.used.setdefault(name, Usage())

    def share(self, user: str) -> float:
        """How much of the cluster a user holds, of the resource that is most, by weight."""
        used = self.used.get(("user", user))
        if used is None:
            return 0.0
        gpus, cpu = self.nodes.machines.gpu_millis_total, self.nodes.machines.cpu_millis_total
        share = max(used.gpu_millis / gpus if gpus else 0.0, used.cpu_millis / cpu if cpu else 0.0)
        return share / self.weights.get(user, 1.0)


def advance(index: Index, change: Change) -> Index:
    """The index after a change. The one that is passed in is used up."""
    if change.nodes or change.removed_nodes:
        index = _with_nodes(index, change)
    if change.demand is not None:
        index.demand = change.demand
        score = score_of(index.policy.choice, change.demand, index.policy.seed)
        index.nodes.score_by(score)
    if change.weights is not None:
        index.weights = dict(change.weights)
    if change.quotas is not None:
        _with_quotas(index, change.quotas)
    for gang_id in change.gone:
        _forget(index, gang_id)
    for gang in change.queued:
        _forget(index, gang.id)
    for running in change.running:  # whatever was given up may already be another's
        _forget(index, running.gang.id)
    for running in change.running:
        index.running[running.gang.id] = running
        if running.gang.deadline is not None:
            index.dated.add(running.gang.id)
        if running.leaving:
            index.leaving.add(running.gang.id)
        else:
            if running.gang.preemptible:
                index.preemptible.add(running.gang.id)
            if 0 < running.gang.min_workers < len(running.held):
                index.elastic.add(running.gang.id)
            if 0 < running.gang.min_workers <= len(running.held) < len(running.gang.workers):
                index.growable.add(running.gang.id)
        for at, hold in index.holds(running):
            index.nodes.take(at, hold)
        for used in index.usages(running.gang):
            used.add((worker for worker, _ in running.held), 1)
    for gang in change.queued:
        _enqueue(index, gang)
    return index


def _forget(index: Index, gang_id: str) -> None:
    index.dated.discard(gang_id)
    if (running := index.running.pop(gang_id, None)) is not None:
        index.preemptible.discard(gang_id)
        index.growable.discard(gang_id)
        index.elastic.discard(gang_id)
        index.leaving.discard(gang_id)
        for at, hold in index.holds(running):
            index.nodes.give(at, hold)
        for used in index.usages(running.gang):
            used.add((worker for worker, _ in running.held), -1)
    elif (gang := index.waiting.pop(gang_id, None)) is not None:
        lane = index.lanes[index._lane_of.pop(gang_id)]
        ranked = lane.by_rank[_turn_taker(index, gang)]
        del ranked[bisect_left(ranked, _by_rank(index, gang))]
        if not ranked:
            del lane.by_rank[_turn_taker(index, gang)]
        del lane.by_urgency[bisect_left(lane.by_urgency, _by_urgency(index, gang))]
        if not lane.by_urgency:
            del index.lanes[lane.key]


def _enqueue(index: Index, gang: Gang) -> None:
    index.waiting[gang.id] = gang
    if gang.deadline is not None:
        index.dated.add(gang.id)
    kind = kind_of(gang)
    whose = (gang.user, gang.project) if index.quotas else ("", "")
    key = (gang.priority, kind, *whose)
    lane = index.lanes.get(key)
    if lane is None:
        lane = index.lanes[key] = Lane(key, gang.priority, kind, gang)
    index._lane_of[gang.id] = key
    insort(lane.by_rank.setdefault(_turn_taker(index, gang), []), _by_rank(index, gang))
    insort(lane.by_urgency, _by_urgency(index, gang))


def kind_of(gang: Gang) -> Kind:
    return shape_of(gang), gang.may_preempt, gang.preemptible


def _turn_taker(index: Index, gang: Gang) -> str:
    return gang.user if index.policy.fair else ""


def _by_rank(index: Index, gang: Gang) -> tuple[float, int, str]:
    return rank(gang, 0, index.policy, index.gpus), gang.queued_at_ms, gang.id


def _by_urgency(index: Index, gang: Gang) -> tuple[int, str]:
    return urgent_at_ms(gang, 0, index.policy), gang.id


def _with_nodes(index: Index, change: Change) -> Index:
    views = {view.id: view for view in index.nodes.machines.views}
    for gone in change.removed_nodes:
        views.pop(gone, None)
    views |= {view.id: view for view in change.nodes}
    index.nodes = index.nodes.replaced(views.values())
    index._admitted = {}
    for running in index.running.values():
        for at, hold in index.holds(running):
            index.nodes.take(at, hold)
    if index.policy.order is Order.ADAPTIVE:  # ranks by the size of the cluster
        _enqueue_anew(index)
    return index


def _with_quotas(index: Index, quotas: tuple[Quota, ...]) -> None:
    index.quotas, index._quotas_of = quotas, _by_whose(quotas)
    _enqueue_anew(index)  # lanes are by user and project only where there are quotas


def _enqueue_anew(index: Index) -> None:
    index.lanes.clear()
    index._lane_of.clear()
    for gang in sorted(index.waiting.values(), key=lambda gang: _by_rank(index, gang)):
        _enqueue(index, gang)


def _by_whose(quotas: Iterable[Quota]) -> dict[tuple[str, str], list[Quota]]:
    by_whose: dict[tuple[str, str], list[Quota]] = {}
    for quota in quotas:
        by_whose.setdefault(_whose_quota(quota), []).append(quota)
    return by_whose


def _whose_quota(quota: Quota) -> tuple[str, str]:
    return ("user", quota.user) if quota.user else ("project", quota.project)


def _whose(gang: Gang) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("user", gang.user), ("project", gang.project)
