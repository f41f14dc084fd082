"""Servers on their way out: they get no new requests, and end those they have before they end."""

from leptonai.control.mirror import Mirror
from leptonai.control.traffic import TrafficLog
from leptonai.core.lifecycle.replica import DRAIN_MS
from leptonai.core.records import Goal, Replica
from leptonai.core.routing import drain_bound_ms

LOOK_AGAIN_MS = 1_000  # at a busy one; gateways tell when it is not


class Draining:
    def __init__(self, mirror: Mirror, traffic: TrafficLog) -> None:
        self._mirror = mirror
        self._traffic = traffic
        # When this control plane first saw that a serving attempt is to stop. Its routes changed
        # then, not when the stop was asked: in between it may have been down, or its news late.
        self._since_ms: dict[str, int] = {}

    def again_ms(self, replica: Replica, now_ms: int) -> int | None:
        """When to look again at one that is not to be stopped yet; None: nothing keeps it."""
        if replica.goal is not Goal.STOP or not replica.ready:
            self._since_ms.pop(replica.attempt_id, None)
            return None
        since_ms = self._since_ms.setdefault(replica.attempt_id, now_ms)
        if now_ms < since_ms + DRAIN_MS:
            return since_ms + DRAIN_MS
        endpoint = self._mirror.endpoints.get((replica.workspace, replica.owner_id))
        bound_ms = since_ms + drain_bound_ms(endpoint, replica)
        if now_ms < bound_ms and self._traffic.busy(replica.id):
            return min(now_ms + LOOK_AGAIN_MS, bound_ms)
        return None
