"""A test of two rates that may be looked at after every request, for as long as one likes.

Requests come in blocks, of which each has some of the stable and some of the new revision. Before a
block a bet is laid: on the rates (a, b) of the two, where by the hypothesis others would hold. The
bet multiplies its stake by

    Π p_a(y)/p_a°(y) over the stable requests  ×  Π p_b(y)/p_b°(y) over the new ones,

with (a°, b°) the rates of the hypothesis that are nearest to (a, b): in Kullback-Leibler
divergence, each request counted. While the hypothesis is true no bet grows in expectation,
whatever the true rates are and however they change from block to block, so whoever bets reaches 1/α
times the first stake with a probability of at most α, at any time (Ville's inequality). So trouble
that both revisions have at once, a database that is away, is evidence of nothing. Within a block,
requests to one revision are taken for independent.

Why the factor is at most 1 in expectation: it is a product over n requests, so at most (the
inequality of the means) the n-th power of their weighted mean, which at (a°, b°) is 1 and, that
being the nearest point of a convex hypothesis, nowhere in it more.

Several sizes of difference are bet on at once, beside what is not bet at all; after each block a
small share of all is dealt out anew (fixed share), so that also a revision that goes wrong late is
found out soon.

Sources: Turner, Ly, Grünwald 2024, "Generic E-variables for exact sequential k-sample tests that
allow for optional stopping", J. Stat. Plan. Inference 230 (arXiv:2106.02693); Turner, Grünwald
2023, "Exact anytime-valid confidence intervals for contingency tables and beyond"
(arXiv:2203.09785); Herbster, Warmuth 1998, "Tracking the best expert", for fixed share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, log1p

# Differences that are bet on: so great a part of the requests that would have gone well do not.
DIFFERENCES = (0.003, 0.01, 0.03, 0.1, 0.3, 0.9)
DEALT_ANEW = 0.002  # after each block, of all
# "Not worse" means: by less than so much, and so much of the stable revision's rate.
MARGIN = 0.01
MARGIN_OF_RATE = 0.5
LOWEST_RATE, HIGHEST_RATE = 1e-4, 0.9  # that are bet on: what was never seen may yet happen
HALVINGS = 40  # of the interval in which the nearest point lies

START_WORSE = (0.0,) * (1 + len(DIFFERENCES))
START_NO_WORSE = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Block:
    """Requests of both revisions, and how many of them show what is counted."""

    stable: int
    stable_shown: int
    new: int
    new_shown: int


def bet_on_worse(
    wealth: Sequence[float], block: Block, rate: float, *, by_margin: bool = False
) -> tuple[float, ...]:
    """The logarithms of wealth after a block, by the hypothesis that the new revision is not worse.

    Args:
        rate: of the stable revision, as far as earlier blocks tell; any will do, a good one wins.
        by_margin: worse by less than the margin is not worse.
    """
    if not (block.stable and block.new):
        return tuple(wealth or START_WORSE)  # nothing to compare with
    a = _within_bounds(rate)
    margin = margin_of(a) if by_margin else 0.0
    factors = [0.0]
    for difference in DIFFERENCES:
        b = a + margin + difference * (1 - a - margin)
        nearest = _nearest(block, a, b, margin)
        factors.append(_log_factor(block, a, b, nearest, nearest + margin))
    return _dealt_anew(wealth or START_WORSE, factors)


def bet_on_no_worse(wealth: Sequence[float], block: Block, rate: float) -> tuple[float, ...]:
    """The same by the hypothesis that the new revision is worse by the margin, or more.

    Args:
        rate: of both, as far as earlier blocks tell.
    """
    if not (block.stable and block.new):
        return tuple(wealth or START_NO_WORSE)
    a = _within_bounds(rate)
    margin = margin_of(a)
    nearest = _nearest(block, a, a, margin)
    factor = _log_factor(block, a, a, nearest, nearest + margin)
    return _dealt_anew(wealth or START_NO_WORSE, (0.0, factor))


def margin_of(rate: float) -> float:
    return min(MARGIN + MARGIN_OF_RATE * rate, (1 - rate) / 2)


def log_wealth(wealth: Sequence[float]) -> float:
    """Of all bets together, each with the same stake; 0 before the first."""
    if not wealth:
        return 0.0
    most = max(wealth)
    return most + log(sum(exp(each - most) for each in wealth) / len(wealth))


def _within_bounds(rate: float) -> float:
    return min(max(rate, LOWEST_RATE), HIGHEST_RATE)


def _log_factor(block: Block, a: float, b: float, null_a: float, null_b: float) -> float:
    return (
        block.stable_shown * log(a / null_a)
        + (block.stable - block.stable_shown) * (log1p(-a) - log1p(-null_a))
        + block.new_shown * log(b / null_b)
        + (block.new - block.new_shown) * (log1p(-b) - log1p(-null_b))
    )


def _nearest(block: Block, a: float, b: float, margin: float) -> float:
    """The x for which (x, x + margin) is nearest to (a, b): where the slope changes sign."""
    if margin == 0:
        return (block.stable * a + block.new * b) / (block.stable + block.new)

    def slope(x: float) -> float:
        y = x + margin
        return block.stable * (x - a) / (x * (1 - x)) + block.new * (y - b) / (y * (1 - y))

    low, high = max(min(a, b - margin), 0.0), max(a, b - margin)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return high


def _dealt_anew(wealth: Sequence[float], factors: Sequence[float]) -> tuple[float, ...]:
    after = [each + factor for each, factor in zip(wealth, factors, strict=True)]
    most = max(after)
    mean = sum(exp(each - most) for each in after) / len(after)
    return tuple(
        most + log((1 - DEALT_ANEW) * exp(each - most) + DEALT_ANEW * mean) for each in after
    )
