"""What is counted, and how Prometheus reads it."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from leptonai.core.traffic import SERVICE_BOUNDS_MS

LATENCY_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
SERVICE_BOUNDS_S = tuple(bound / 1000 for bound in SERVICE_BOUNDS_MS)


class Traffic:
    """The requests to one version of an endpoint since the gateway started."""

    __slots__ = (
        "_since",
        "arrivals",
        "body_differs",
        "busy_s",
        "by_code",
        "by_latency",
        "by_service",
        "compared",
        "in_flight",
        "lost_attempts",
        "matching",
        "seconds",
        "service_s",
        "status_differs",
    )

    def __init__(self) -> None:
        self.arrivals = 0
        self.matching = 0  # of the whole endpoint, under "": what its scaling target counts
        self.by_code: dict[int, int] = {}
        self.by_latency = [0] * (len(LATENCY_BUCKETS_S) + 1)  # from arrival to end
        self.seconds = 0.0
        self.by_service = [0] * (len(SERVICE_BOUNDS_S) + 1)  # from dispatch to end
        self.service_s = 0.0
        self.in_flight = 0  # that a replica has
        self.busy_s = 0.0  # ∫ in_flight dt, up to `_since`
        self._since = 0.0
        self.lost_attempts = 0
        self.compared = 0
        self.status_differs = 0
        self.body_differs = 0

    def dispatched(self, now: float) -> None:
        self.busy_s += self.in_flight * (now - self._since)
        self._since = now
        self.in_flight += 1

    def returned(self, now: float) -> None:
        self.busy_s += self.in_flight * (now - self._since)
        self._since = now
        self.in_flight -= 1

    def busy_until(self, now: float) -> float:
        return self.busy_s + self.in_flight * (now - self._since)

    def count(self, code: int, seconds: float) -> None:
        self.by_code[code] = self.by_code.get(code, 0) + 1
        self.by_latency[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        self.seconds += seconds

    def served(self, seconds: float) -> None:
        self.by_service[bisect_left(SERVICE_BOUNDS_S, seconds)] += 1
        self.service_s += seconds


class EndpointFigures:
    """One endpoint at one instant, for a scrape."""

    __slots__ = (
        "by_envoy",
        "hedges",
        "in_flight",
        "name",
        "refused",
        "shadows",
        "versions",
        "waiting",
        "workspace",
    )

    def __init__(
        self,
        workspace: str,
        name: str,
        versions: Mapping[str, Traffic],
        *,
        shadows: Mapping[str, Traffic],
        refused: Mapping[int, int],
        hedges: Mapping[str, int],
        in_flight: int,
        waiting: int,
        by_envoy: Traffic | None = None,
    ) -> None:
        self.workspace = workspace
        self.name = name
        self.versions = versions  # "" is what no replica had
        self.shadows = shadows
        self.refused = refused  # those that were not let in, by code
        self.hedges = hedges  # second tries, by what became of them
        self.in_flight = in_flight
        self.waiting = waiting
        self.by_envoy = by_envoy  # what Envoy gave to replicas itself

    @property
    def label(self) -> str:
        return f'workspace="{self.workspace}",endpoint="{self.name}"'


def exposition(
    endpoints: Iterable[EndpointFigures], *, refused: Mapping[int, int], clients: int, seq: int
) -> str:
    """The text format of Prometheus, 0.0.4. Names, workspaces and versions need no escaping:
    letters, digits and hyphens are all they may hold."""
    ordered = sorted(endpoints, key=lambda each: (each.workspace, each.name))
    versions = [
        (f'{each.label},version="{version}"', traffic)
        for each in ordered
        for version, traffic in sorted(each.versions.items())
        if traffic.by_code or traffic.arrivals
    ]
    counted = versions + [
        (f'{each.label},proxy="envoy"', each.by_envoy)
        for each in ordered
        if each.by_envoy is not None
    ]
    lines = ["# TYPE lepton_gateway_requests_total counter"]
    for label, traffic in counted:
        for code, count in sorted(traffic.by_code.items()):
            lines.append(f'lepton_gateway_requests_total{{{label},code="{code}"}} {count}')
    lines.append("# TYPE lepton_gateway_request_seconds histogram")
    for label, traffic in counted:
        total = 0
        for bound, count in zip((*LATENCY_BUCKETS_S, "+Inf"), traffic.by_latency, strict=True):
            total += count
            lines.append(f'lepton_gateway_request_seconds_bucket{{{label},le="{bound}"}} {total}')
        lines.append(f"lepton_gateway_request_seconds_sum{{{label}}} {traffic.seconds:.6f}")
        lines.append(f"lepton_gateway_request_seconds_count{{{label}}} {total}")
    lines.append("# HELP lepton_gateway_lost_attempts_total Requests that a replica did not end.")
    lines.append("# TYPE lepton_gateway_lost_attempts_total counter")
    lines += [
        f"lepton_gateway_lost_attempts_total{{{label}}} {traffic.lost_attempts}"
        for label, traffic in versions
    ]
    lines.append("# HELP lepton_gateway_shadows_total Copies of requests, by what was compared.")
    lines.append("# TYPE lepton_gateway_shadows_total counter")
    for each in ordered:
        for version, traffic in sorted(each.shadows.items()):
            label = f'{each.label},version="{version}"'
            same = traffic.compared - traffic.status_differs - traffic.body_differs
            for outcome, count in (
                ("same", same),
                ("status_differs", traffic.status_differs),
                ("body_differs", traffic.body_differs),
                ("not_compared", traffic.arrivals - traffic.compared),
            ):
                lines.append(f'lepton_gateway_shadows_total{{{label},outcome="{outcome}"}} {count}')
    lines.append("# HELP lepton_gateway_hedges_total Second tries: sent, won, or over the budget.")
    lines.append("# TYPE lepton_gateway_hedges_total counter")
    lines += [
        f'lepton_gateway_hedges_total{{{each.label},outcome="{outcome}"}} {count}'
        for each in ordered
        for outcome, count in each.hedges.items()
    ]
    lines.append("# TYPE lepton_gateway_in_flight gauge")
    lines += [f"lepton_gateway_in_flight{{{each.label}}} {each.in_flight}" for each in ordered]
    lines.append("# TYPE lepton_gateway_waiting gauge")
    lines += [f"lepton_gateway_waiting{{{each.label}}} {each.waiting}" for each in ordered]
    lines.append("# HELP lepton_gateway_denied_total Requests that an endpoint did not let in.")
    lines.append("# TYPE lepton_gateway_denied_total counter")
    lines += [
        f'lepton_gateway_denied_total{{{each.label},code="{code}"}} {count}'
        for each in ordered
        for code, count in sorted(each.refused.items())
    ]
    lines.append("# HELP lepton_gateway_refused_total Requests that reached no endpoint.")
    lines.append("# TYPE lepton_gateway_refused_total counter")
    lines += [
        f'lepton_gateway_refused_total{{code="{code}"}} {count}'
        for code, count in sorted(refused.items())
    ]
    lines.append("# TYPE lepton_gateway_connections gauge")
    lines.append(f"lepton_gateway_connections {clients}")
    lines.append("# TYPE lepton_gateway_route_table_seq gauge")
    lines.append(f"lepton_gateway_route_table_seq {seq}")
    return "\n".join(lines) + "\n"
