"""Servers on their way out: they get no new requests, and end those they have before they end."""

from collections.abc import Callable
from dataclasses import dataclass

from leptonai.control.mirror import Mirror
from leptonai.control.traffic import TrafficLog
from leptonai.core.records import Goal, Replica
from leptonai.core.routing import drain_bound_ms

LET_GO_MS = 5_000  # a gateway that has not let go of one by then is gone
UNHEARD_MS = 500  # for letting go where no gateway has told yet by which table it serves
LOOK_AGAIN_MS = 1_000  # at a busy one; gateways tell when it is not


@dataclass(slots=True)
class _Leaver:
    """What this control plane knows of a serving attempt that is to stop."""

    # When it saw that first. Its routes changed then, not when the stop was asked: in between it
    # may have been down, or its news late.
    since_ms: int
    table: int | None = None  # the first route table that it is not in


class Draining:
    def __init__(
        self, mirror: Mirror, traffic: TrafficLog, without: Callable[[str], int | None]
    ) -> None:
        """
        Args:
            without: the seq of the route table, once a replica is not in it.
        """
        self._mirror = mirror
        self._traffic = traffic
        self._without = without
        self._leavers: dict[str, _Leaver] = {}

    def again_ms(self, replica: Replica, now_ms: int) -> int | None:
        """When to look again at one that is not to be stopped yet; None: nothing keeps it."""
        if replica.goal is not Goal.STOP or not replica.ready:
            self._leavers.pop(replica.attempt_id, None)
            return None
        leaver = self._leavers.setdefault(replica.attempt_id, _Leaver(now_ms))
        let_go_ms = self._let_go_ms(replica, leaver, now_ms)
        if let_go_ms is not None:
            return let_go_ms
        endpoint = self._mirror.endpoints.get((replica.workspace, replica.owner_id))
        bound_ms = leaver.since_ms + drain_bound_ms(endpoint, replica)
        if now_ms < bound_ms and self._traffic.busy(replica.id):
            return min(now_ms + LOOK_AGAIN_MS, bound_ms)
        return None

    def _let_go_ms(self, replica: Replica, leaver: _Leaver, now_ms: int) -> int | None:
        """Until when gateways may still give it new requests; None: none does."""
        if leaver.table is None:
            leaver.table = self._without(replica.id)
        if not self._traffic.knows_gateways:
            due_ms = leaver.since_ms + UNHEARD_MS
            return due_ms if now_ms < due_ms else None
        behind = self._traffic.behind(leaver.table)
        due_ms = leaver.since_ms + LET_GO_MS
        if behind and now_ms < due_ms:
            return due_ms
        if leaver.table is not None:
            self._traffic.forget(behind)
        return None
