"""What Envoy counted of the requests that it gave to replicas itself. Pure."""

from __future__ import annotations

import re

from ..metrics import Traffic

# Of each cluster: answers by code, and a histogram of milliseconds.
PATH = "/stats/prometheus?filter=%5C.upstream_rq_(time%7C%5Cd%5Cd%5Cd)$"
_LINE = re.compile(
    r"^envoy_cluster_upstream_rq(_time_bucket|_time_sum|)\{([^}]*)\} (\S+)$", re.MULTILINE
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def read_figures(text: str) -> dict[tuple[str, str], Traffic]:
    """By workspace and endpoint, since Envoy started."""
    found: dict[tuple[str, str], Traffic] = {}
    below: dict[tuple[str, str], list[int]] = {}  # requests up to each bound, as Prometheus has it
    for what, line_labels, value in _LINE.findall(text):
        labels = dict(_LABEL.findall(line_labels))
        workspace, slash, name = labels["envoy_cluster_name"].partition("/")
        if not slash:  # our gateway, which counts for itself
            continue
        traffic = found.setdefault((workspace, name), Traffic())
        if what == "_time_sum":
            traffic.seconds = float(value) / 1000
        elif what == "_time_bucket":
            below.setdefault((workspace, name), []).append(int(value))
        else:
            traffic.by_code[int(labels["envoy_response_code"])] = int(value)
    for endpoint, counts in below.items():
        by_latency = [count - before for before, count in zip([0, *counts], counts, strict=False)]
        if len(by_latency) == len(found[endpoint].by_latency):  # else it was started by an old one
            found[endpoint].by_latency = by_latency
    return found
