"""What gateways tell the control plane of the requests to endpoints.

A gateway counts in windows, one for each version of an endpoint, and sends the windows in which
something happened: at most one report a second, and none while nothing happens. While a request is
under way or held, each second is one in which something happens. Only the first request that is
held at an endpoint, and which replicas still have requests when they leave, are told at once.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import field

REPORT_MS = 1_000  # at most one report in so long
# Upper bounds of the buckets of service times; the last bucket has none.
SERVICE_BOUNDS_MS = (
    *(1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0),
    *(1_000.0, 2_500.0, 5_000.0, 10_000.0, 30_000.0, 60_000.0, 300_000.0),
)


class TrafficWindow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The requests to one version of one endpoint in [start_ms, end_ms), of the wall clock.

    A request arrives in exactly one window and ends in exactly one, so sums over versions are the
    endpoint's. Version "" has what no replica was chosen for: requests that arrived when there was
    none (held, or refused), and those that a gateway answered itself. One that was held arrives
    under "" and ends under the version that served it.
    """

    workspace: str
    endpoint: str  # its name
    version: str = ""
    shadow: bool = False  # copies: they are no part of the endpoint's traffic
    start_ms: int
    end_ms: int
    arrivals: int = 0
    matching: int = 0  # of all versions, those that the endpoint's target counts; only under ""
    ended: dict[int, int] = field(default_factory=dict)  # by the first digit of the status
    lost_attempts: int = 0  # that a replica refused or broke off, also where a retry answered
    # From dispatch to the last byte of the answer, of what a replica answered; one count for each
    # bound and one beyond. () is all zeros.
    service_ms: tuple[int, ...] = ()
    service_sum_ms: float = 0.0
    in_flight_ms: float = 0.0  # ∫ requests under way dt: over (end - start), the mean concurrency
    held: int = 0  # requests that wait for a replica at end_ms; only under ""
    oldest_held_ms: int = 0  # for how long the first of them has waited
    # Of shadows: answers that were compared with those that users got.
    compared: int = 0
    status_differs: int = 0
    body_differs: int = 0  # with the same status

    @property
    def served(self) -> int:
        """Requests that a replica answered."""
        return sum(self.service_ms)


class TrafficReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway says."""

    gateway: str  # which: another one after each start
    windows: tuple[TrafficWindow, ...]
    # Replicas that have left the table, and the requests that are still under way at each. Told at
    # once when one leaves with some or ends its last, and each second in between.
    leaving: dict[str, int] = {}
    # The seq of the route table that requests are given to replicas by, told at once; -1: none yet.
    table: int = -1


def merge(windows: Iterable[TrafficWindow]) -> TrafficWindow:
    """One window for several of one endpoint: of gateways, of stretches of time, or of versions.

    Counts add up, also `held`: of one gateway, give only one window with it. The version is kept
    where all have the same, and is "" otherwise.

    Raises:
        ValueError: there are none, or they are of different endpoints, or shadows and not.
    """
    parts = list(windows)
    if len({(part.workspace, part.endpoint, part.shadow) for part in parts}) != 1:
        raise ValueError("windows of one endpoint are merged, and at least one")
    first = parts[0]
    return TrafficWindow(
        workspace=first.workspace,
        endpoint=first.endpoint,
        version=first.version if all(part.version == first.version for part in parts) else "",
        shadow=first.shadow,
        start_ms=min(part.start_ms for part in parts),
        end_ms=max(part.end_ms for part in parts),
        arrivals=sum(part.arrivals for part in parts),
        matching=sum(part.matching for part in parts),
        ended=_sum_of_counts(part.ended for part in parts),
        lost_attempts=sum(part.lost_attempts for part in parts),
        service_ms=_sum_of_buckets(part.service_ms for part in parts),
        service_sum_ms=sum(part.service_sum_ms for part in parts),
        in_flight_ms=sum(part.in_flight_ms for part in parts),
        held=sum(part.held for part in parts),
        oldest_held_ms=max(part.oldest_held_ms for part in parts),
        compared=sum(part.compared for part in parts),
        status_differs=sum(part.status_differs for part in parts),
        body_differs=sum(part.body_differs for part in parts),
    )


def quantile_ms(service_ms: tuple[int, ...], share: float) -> float | None:
    """The service time that `share` of the requests did not exceed, straight within its bucket;
    None without requests, and the last bound where it lies beyond."""
    total = sum(service_ms)
    if total == 0:
        return None
    wanted = share * total
    below = 0
    low_ms = 0.0
    for count, high_ms in zip(service_ms, SERVICE_BOUNDS_MS, strict=False):
        if count and below + count >= wanted:
            return low_ms + (high_ms - low_ms) * max(0.0, wanted - below) / count
        below += count
        low_ms = high_ms
    return SERVICE_BOUNDS_MS[-1]


def _sum_of_counts(counts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for each in counts:
        for key, count in each.items():
            total[key] = total.get(key, 0) + count
    return total


def _sum_of_buckets(buckets: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    full = [each for each in buckets if each]
    return tuple(map(sum, zip(*full, strict=True))) if full else ()
