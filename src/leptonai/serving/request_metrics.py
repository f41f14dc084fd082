"""Counts and times of requests, in Prometheus's text format."""

from bisect import bisect_left
from collections.abc import Iterator

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip


class RequestMetrics:
    """Bounded: its labels are the handlers, their methods, and the statuses they answered."""

    def __init__(self) -> None:
        self._latencies: dict[tuple[str, str], _Histogram] = {}

    def observe(self, handler: str, method: str, status: int, seconds: float) -> None:
        histogram = self._latencies.get((handler, method))
        if histogram is None:
            histogram = self._latencies[handler, method] = _Histogram()
        histogram.statuses[status] = histogram.statuses.get(status, 0) + 1
        histogram.counts[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        histogram.seconds += seconds

    def text(self, queue_length: int) -> str:
        return "\n".join(self._lines(queue_length)) + "\n"

    def _lines(self, queue_length: int) -> Iterator[str]:
        yield "# HELP http_requests_total Requests answered."
        yield "# TYPE http_requests_total counter"
        for (handler, method), histogram in sorted(self._latencies.items()):
            for status, count in sorted(histogram.statuses.items()):
                labels = f'handler="{handler}",method="{method}",status="{status}"'
                yield f"http_requests_total{{{labels}}} {count}"
        yield "# HELP http_request_duration_seconds From a request's head to its answer."
        yield "# TYPE http_request_duration_seconds histogram"
        for (handler, method), histogram in sorted(self._latencies.items()):
            yield from histogram.lines(f'handler="{handler}",method="{method}"')
        yield "# HELP http_requests_in_flight Calls that wait or run."
        yield "# TYPE http_requests_in_flight gauge"
        yield f"http_requests_in_flight {queue_length}"


class _Histogram:
    __slots__ = ("counts", "seconds", "statuses")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_S) + 1)  # the last: longer than every bucket
        self.seconds = 0.0
        self.statuses: dict[int, int] = {}

    def lines(self, labels: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*LATENCY_BUCKETS_S, "+Inf"), self.counts, strict=True):
            total += count
            yield f'http_request_duration_seconds_bucket{{{labels},le="{bound}"}} {total}'
        yield f"http_request_duration_seconds_sum{{{labels}}} {self.seconds:.6f}"
        yield f"http_request_duration_seconds_count{{{labels}}} {total}"
