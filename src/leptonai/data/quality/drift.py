"""How far the values of now are from those of before. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leptonai.data.quality.report import Found, Histogram, Skipped, shortened

BINS = 10  # deciles of before
MAX_CATEGORIES = 50  # compared one by one; rarer ones are one
MAX_HISTOGRAMS = 12
CHANCE_Z = 3.09  # one in a thousand
OTHERS, MISSING = "(others)", "(missing)"


@dataclass
class Profile:
    """The values of one dataset: by name, those of a sample of its rows."""

    numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # finite ones
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # of categories
    missing: dict[str, float] = field(default_factory=dict)  # share
    rows: int = 0


def drift(before: Profile, now: Profile) -> tuple[list[Found | Skipped], list[Histogram]]:
    """One number for each name that both have: its population stability index."""
    found: list[Found | Skipped] = []
    drawn: list[Histogram] = []
    for name in before.numbers.keys() & now.numbers.keys():
        one, other = before.numbers[name], now.numbers[name]
        if not len(one) and not len(other):
            continue
        edges, was, come = binned(one, other)
        was, come = _with_missing(was, before, name), _with_missing(come, now, name)
        labels = [f"{low:.4g} – {high:.4g}" for low, high in pairwise(edges)]
        apart = f"KS {ks(one, other):.3f}, median {_median(one)}, now {_median(other)}"
        _add(found, drawn, name, [*labels, MISSING], was, come, apart)
    for name in before.counts.keys() & now.counts.keys():
        names, was, come = _common(before.counts[name], now.counts[name])
        if not names:
            continue
        new = sorted(now.counts[name].keys() - before.counts[name].keys())
        gone = sorted(before.counts[name].keys() - now.counts[name].keys())
        apart = f"Jensen-Shannon distance {js_distance(was, come):.3f}"
        apart += "".join(
            f", {word}: {', '.join(map(shortened, some[:3]))}{', …' if len(some) > 3 else ''}"
            for word, some in (("new", new), ("gone", gone))
            if some
        )
        _add(found, drawn, name, names, was, come, apart)
    drawn.sort(key=lambda each: (-each.psi, each.name))
    if not found:
        found.append(Skipped("drift", "the two have no column in common"))
    return found, drawn[:MAX_HISTOGRAMS]


def psi(before: Sequence[float] | NDArray[Any], now: Sequence[float] | NDArray[Any]) -> float:
    """Population stability index of two sets of counts. Half a count is added to each, so that
    what is empty in one of them is not infinitely far.

    Source: Siddiqi 2006, "Credit Risk Scorecards": below 0.1 none, above 0.25 a shift.
    """
    one, other = _shares(before), _shares(now)
    return float(((other - one) * np.log(other / one)).sum())


def psi_by_chance(bins: int, before: float, now: float) -> float:
    """What PSI exceeds in one of a thousand cases if both are drawn from one distribution.

    Source: Yurdakul 2018, "Statistical Properties of Population Stability Index": it is chi-square
        of bins - 1 degrees, times 1/before + 1/now; the quantile after Wilson and Hilferty 1931.
    """
    if bins < 2 or not before or not now:
        return 0.0
    degrees = bins - 1
    part = 2 / (9 * degrees)
    return (1 / before + 1 / now) * degrees * (1 - part + CHANCE_Z * math.sqrt(part)) ** 3


def ks(before: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    """The Kolmogorov-Smirnov statistic: the greatest distance of the two distributions, 0 to 1."""
    if not len(before) or not len(now):
        return float(len(before) != len(now))
    one, other = np.sort(before), np.sort(now)
    every = np.concatenate([one, other])
    share_before = np.searchsorted(one, every, side="right") / len(one)
    share_now = np.searchsorted(other, every, side="right") / len(other)
    return float(np.abs(share_before - share_now).max())


def js_distance(
    before: Sequence[float] | NDArray[Any], now: Sequence[float] | NDArray[Any]
) -> float:
    """0 of equal distributions, 1 of those that have nothing in common.

    Source: Endres, Schindelin 2003, "A new metric for probability distributions", to base 2.
    """
    one = np.asarray(before, float) / max(1e-300, float(np.sum(before)))
    other = np.asarray(now, float) / max(1e-300, float(np.sum(now)))
    middle = (one + other) / 2

    def divergence(part: NDArray[Any]) -> float:
        some = part > 0
        return float((part[some] * np.log2(part[some] / middle[some])).sum())

    return math.sqrt(min(1.0, max(0.0, (divergence(one) + divergence(other)) / 2)))


def binned(
    before: NDArray[np.float64], now: NDArray[np.float64]
) -> tuple[list[float], NDArray[np.float64], NDArray[np.float64]]:
    """Edges at the deciles of before (of now, if there was nothing), and how many are up to each.
    A value that is several deciles has a bin of its own."""
    of = before if len(before) else now
    deciles = np.quantile(of, np.arange(1, BINS) / BINS, method="inverted_cdf")
    often = deciles[1:][np.diff(deciles) == 0]
    inner = np.unique(np.concatenate([deciles, np.nextafter(often, -np.inf)]))
    low = min(float(each.min()) for each in (before, now) if len(each))
    high = max(float(each.max()) for each in (before, now) if len(each))
    counts = [
        np.bincount(np.searchsorted(inner, each, side="left"), minlength=len(inner) + 1)
        for each in (before, now)
    ]
    edges = [min(low, float(inner[0])), *inner.tolist(), max(high, float(inner[-1]))]
    return edges, counts[0].astype(float), counts[1].astype(float)


def _add(
    found: list[Found | Skipped],
    drawn: list[Histogram],
    name: str,
    bins: Sequence[str],
    was: NDArray[np.float64],
    come: NDArray[np.float64],
    apart: str,
) -> None:
    filled = (was > 0) | (come > 0)
    was, come = was[filled], come[filled]
    number = psi(was, come)
    found.append(
        Found(
            "drift",
            number,
            f"{name} is distributed otherwise: PSI {number:.3f}; {apart}",
            where=name,
            hint="see whether the source changed; train again, or refuse the version",
            chance=psi_by_chance(len(was), float(was.sum()), float(come.sum())),
        )
    )
    drawn.append(
        Histogram(
            name=name,
            psi=number,
            bins=tuple(each for each, some in zip(bins, filled, strict=True) if some),
            before=tuple((was / max(1.0, was.sum())).tolist()),
            now=tuple((come / max(1.0, come.sum())).tolist()),
        )
    )


def _with_missing(counts: NDArray[np.float64], profile: Profile, name: str) -> NDArray[np.float64]:
    """A bin more: as many as are missing for those that are there."""
    share = profile.missing.get(name, 0.0)
    there = float(counts.sum())
    gone = there * share / (1 - share) if share < 1 else float(profile.rows)
    return np.append(counts, gone)


def _common(
    before: Mapping[str, int], now: Mapping[str, int]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    every = sorted(
        before.keys() | now.keys(),
        key=lambda name: (-(before.get(name, 0) + now.get(name, 0)), name),
    )
    names, rest = every[:MAX_CATEGORIES], every[MAX_CATEGORIES:]
    was = [float(before.get(name, 0)) for name in names]
    come = [float(now.get(name, 0)) for name in names]
    if rest:
        names = [*names, OTHERS]
        was.append(float(sum(before.get(name, 0) for name in rest)))
        come.append(float(sum(now.get(name, 0) for name in rest)))
    return names, np.array(was), np.array(come)


def _shares(counts: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
    more = np.asarray(counts, np.float64) + 0.5
    shares: NDArray[np.float64] = more / more.sum()
    return shares


def _median(values: NDArray[np.float64]) -> str:
    return f"{float(np.median(values)):.4g}" if len(values) else "none"
