"""The gates there are, and the thresholds they have unless somebody says otherwise."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from leptonai.errors import InvalidRequest


class Gate(NamedTuple):
    """One number of a dataset that should not pass a threshold."""

    name: str
    measures: str
    threshold: float
    notable: float = 0.0  # what is not past this is not even worth a word
    at_least: bool = False  # the number should not fall below the threshold; else not rise above it

    def is_past(self, number: float, threshold: float) -> bool:
        return number < threshold if self.at_least else number > threshold

    def worse(self, number: float, threshold: float) -> float:
        """Orders numbers of different gates; past the threshold is above 1."""
        one, other = (threshold, number) if self.at_least else (number, threshold)
        return one / other if other > 0 else (math.inf if one > 0 else 0.0)


# Where each threshold comes from is told in docs/howto/check-data.md.
GATES: Mapping[str, Gate] = {
    gate.name: gate
    for gate in (
        Gate("schema", "columns that differ from the expected ones", 0),
        Gate("types", "share of a column's values that are not of its type", 0),
        Gate("missing", "share of a column's values that are missing", 0.05),
        Gate("infinite", "share of a column's values that are infinite", 0),
        Gate("encoding", "share of a column's texts with characters that were lost", 0),
        Gate("outliers", "share of a column's values that are far out", 0.01),
        Gate("duplicates", "share of the samples that are there already", 0.01),
        Gate("near-duplicates", "share of the samples that look like an earlier one", 0.05),
        Gate("label-conflicts", "share of the samples whose equals have another label", 0),
        Gate("leakage", "share of a split that is in an earlier split, too", 0),
        Gate("near-leakage", "share of a split that looks like something in an earlier one", 0.01),
        Gate("balance", "how often the largest class is as large as the smallest", 10, notable=3),
        Gate("few-samples", "samples of the smallest class", 10, notable=30, at_least=True),
        Gate("corrupt", "share of the images that cannot be decoded", 0),
        Gate("boxes", "share of the boxes that are empty or not in their image", 0),
        Gate(
            "timestamps", "share of the rows whose time is there twice, or earlier than before", 0
        ),
        Gate("gaps", "share of the steps in time that are longer than one", 0.01),
        Gate("drift", "population stability index against an earlier version", 0.25, notable=0.1),
    )
}


def thresholds(fail_on: Mapping[str, float] | Collection[str]) -> dict[str, float]:
    """Of `{"missing": 0.1}`, `["missing"]` and `["missing=0.1"]`. Raises as `parse_gates`."""
    if isinstance(fail_on, Mapping):
        return parse_gates(f"{name}={limit}" for name, limit in fail_on.items())
    return parse_gates([fail_on] if isinstance(fail_on, str) else fail_on)


def parse_gates(texts: Iterable[str]) -> dict[str, float]:
    """Thresholds by gate, of `missing` and `missing=0.1`.

    Raises:
        InvalidRequest: there is no such gate, or its threshold is no number of 0 or more.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.strip().partition("=")
        gate = GATES.get(name.strip().lower().replace("_", "-"))
        if gate is None:
            raise InvalidRequest(f"there is no gate {name!a}", hint=f"gates are {', '.join(GATES)}")
        try:
            threshold = float(value) if equals else gate.threshold
        except ValueError:
            threshold = math.nan
        if not (math.isfinite(threshold) and threshold >= 0):
            raise InvalidRequest(
                f"{text!a}: the threshold is no number of 0 or more",
                hint=f"{gate.name}={gate.threshold:g} is the default: {gate.measures}",
            )
        found[gate.name] = threshold
    return found
