"""Traffic windows: the difference of what was counted at two instants. Pure."""

from __future__ import annotations

from leptonai.core.traffic import TrafficWindow

from .metrics import Traffic


class Totals:
    """What one version's traffic has come to at an instant."""

    __slots__ = (
        "arrivals",
        "body_differs",
        "busy_s",
        "by_code",
        "by_service",
        "compared",
        "lost_attempts",
        "matching",
        "service_s",
        "status_differs",
    )

    def __init__(self, traffic: Traffic, now: float) -> None:
        self.arrivals = traffic.arrivals
        self.matching = traffic.matching
        self.by_code = dict(traffic.by_code)
        self.by_service = tuple(traffic.by_service)
        self.service_s = traffic.service_s
        self.busy_s = traffic.busy_until(now)
        self.lost_attempts = traffic.lost_attempts
        self.compared = traffic.compared
        self.status_differs = traffic.status_differs
        self.body_differs = traffic.body_differs

    def since(
        self,
        before: Totals,
        *,
        workspace: str,
        endpoint: str,
        version: str,
        shadow: bool,
        start_ms: int,
        end_ms: int,
        held: int = 0,
        oldest_held_ms: int = 0,
    ) -> TrafficWindow | None:
        """What was counted since `before`; None if that is nothing, and nothing is held."""
        ended: dict[int, int] = {}
        for code, count in self.by_code.items():
            more = count - before.by_code.get(code, 0)
            if more:
                ended[code // 100] = ended.get(code // 100, 0) + more
        busy_s = self.busy_s - before.busy_s
        arrivals = self.arrivals - before.arrivals
        lost = self.lost_attempts - before.lost_attempts
        matching = self.matching - before.matching
        if not (arrivals or matching or ended or lost or held or busy_s > 0):
            return None
        service = tuple(b - a for a, b in zip(before.by_service, self.by_service, strict=True))
        return TrafficWindow(
            workspace=workspace,
            endpoint=endpoint,
            version=version,
            shadow=shadow,
            start_ms=start_ms,
            end_ms=end_ms,
            arrivals=arrivals,
            matching=matching,
            ended=ended,
            lost_attempts=lost,
            service_ms=service if any(service) else (),
            service_sum_ms=round(1000 * (self.service_s - before.service_s), 3),
            in_flight_ms=max(0.0, round(1000 * busy_s, 3)),
            held=held,
            oldest_held_ms=oldest_held_ms,
            compared=self.compared - before.compared,
            status_differs=self.status_differs - before.status_differs,
            body_differs=self.body_differs - before.body_differs,
        )
