"""What is counted, and how Prometheus reads it."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping

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


class Traffic:
    """The requests of one endpoint since the gateway started."""

    __slots__ = ("by_code", "by_latency", "seconds")

    def __init__(self) -> None:
        self.by_code: dict[int, int] = {}
        self.by_latency = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.seconds = 0.0

    def count(self, code: int, seconds: float) -> None:
        self.by_code[code] = self.by_code.get(code, 0) + 1
        self.by_latency[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        self.seconds += seconds


class EndpointFigures:
    """One endpoint at one instant, for a scrape."""

    __slots__ = ("in_flight", "name", "traffic", "waiting", "workspace")

    def __init__(
        self, workspace: str, name: str, traffic: Traffic, in_flight: int, waiting: int
    ) -> None:
        self.workspace = workspace
        self.name = name
        self.traffic = traffic
        self.in_flight = in_flight
        self.waiting = waiting


def exposition(
    endpoints: Iterable[EndpointFigures], *, refused: Mapping[int, int], clients: int, seq: int
) -> str:
    """The text format of Prometheus, 0.0.4. Names and workspaces need no escaping: letters, digits
    and hyphens are all they may hold."""
    labelled = [
        (f'workspace="{each.workspace}",endpoint="{each.name}"', each)
        for each in sorted(endpoints, key=lambda each: (each.workspace, each.name))
    ]
    lines = ["# TYPE lepton_gateway_requests_total counter"]
    for label, each in labelled:
        for code, count in sorted(each.traffic.by_code.items()):
            lines.append(f'lepton_gateway_requests_total{{{label},code="{code}"}} {count}')
    lines.append("# TYPE lepton_gateway_request_seconds histogram")
    for label, each in labelled:
        total = 0
        for bound, count in zip((*LATENCY_BUCKETS_S, "+Inf"), each.traffic.by_latency, strict=True):
            total += count
            lines.append(f'lepton_gateway_request_seconds_bucket{{{label},le="{bound}"}} {total}')
        lines.append(f"lepton_gateway_request_seconds_sum{{{label}}} {each.traffic.seconds:.6f}")
        lines.append(f"lepton_gateway_request_seconds_count{{{label}}} {total}")
    lines.append("# TYPE lepton_gateway_in_flight gauge")
    lines += [f"lepton_gateway_in_flight{{{label}}} {each.in_flight}" for label, each in labelled]
    lines.append("# TYPE lepton_gateway_waiting gauge")
    lines += [f"lepton_gateway_waiting{{{label}}} {each.waiting}" for label, each in labelled]
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
