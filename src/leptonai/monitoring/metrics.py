"""Counters, gauges and histograms in the Prometheus text format."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES = 10_000  # of one metric: a label that takes any value must not fill the memory
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labels = tuple[str, ...]


class Counter:
    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name, self.help, self._labels = name, help, labels
        self._values: dict[Labels, float] = {}

    def add(self, *values: str, amount: float = 1.0) -> None:
        assert len(values) == len(self._labels), values
        if values in self._values or len(self._values) < MAX_SERIES:
            self._values[values] = self._values.get(values, 0.0) + amount

    def lines(self) -> Iterator[str]:
        yield from _header(self.name, "counter", self.help)
        for values, total in sorted(self._values.items()):
            yield f"{self.name}{_labels(self._labels, values)} {_number(total)}"


class Histogram:
    def __init__(
        self,
        name: str,
        help: str,
        labels: Labels = (),
        bounds: tuple[float, ...] = SECONDS,
    ) -> None:
        self.name, self.help, self._labels, self._bounds = name, help, labels, bounds
        self._series: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *values: str) -> None:
        assert len(values) == len(self._labels), values
        series = self._series.get(values)
        if series is None:
            if len(self._series) >= MAX_SERIES:
                return
            series = self._series[values] = ([0] * (len(self._bounds) + 1), [0.0])
        counts, total = series
        counts[bisect_left(self._bounds, value)] += 1
        total[0] += value

    def lines(self) -> Iterator[str]:
        yield from _header(self.name, "histogram", self.help)
        for values, (counts, total) in sorted(self._series.items()):
            below = 0
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                below += count
                labels = _labels((*self._labels, "le"), (*values, _number(bound)))
                yield f"{self.name}_bucket{labels} {below}"
            labels = _labels(self._labels, values)
            yield f"{self.name}_sum{labels} {_number(total[0])}"
            yield f"{self.name}_count{labels} {below}"


def gauge(name: str, help: str, values: Mapping[str, float], label: str) -> Iterator[str]:
    """The lines of something that is measured when it is asked for, by the values of a label."""
    yield from _header(name, "gauge", help)
    for each, value in sorted(values.items()):
        yield f"{name}{_labels((label,), (each,))} {_number(value)}"


def text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _header(name: str, kind: str, help: str) -> Iterator[str]:
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"


def _labels(names: Labels, values: Labels) -> str:
    pairs = ",".join(
        f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)
    )
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(value)
