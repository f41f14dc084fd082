"""When a checkpoint is written and which are kept: decisions alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXPECTED_FAILURE_S = 24 * 3_600.0  # before anything is known: one failure a day
SHORTEST_S, LONGEST_S = 10.0, 3_600.0


@dataclass(frozen=True, slots=True)
class Keep:
    """Which checkpoints stay."""

    last: int = 2
    best: int = 1  # by the metric that is watched, where there is one
    every: int = 0  # of each so many steps one stays for ever; 0 for none


def interval_s(cost_s: float, *, failures: int, elapsed_s: float) -> float:
    """How long to go on between two checkpoints, so that writing them and repeating what was lost
    together take the least time.

    Args:
        cost_s: that training stands still for one.

    Source: Young 1974; Daly 2006, "A higher order estimate of the optimum checkpoint interval".
    """
    between_s = (EXPECTED_FAILURE_S + elapsed_s) / (1 + failures)
    if cost_s >= 2 * between_s:
        return between_s
    share = math.sqrt(cost_s / (2 * between_s))
    best = math.sqrt(2 * cost_s * between_s) * (1 + share / 3 + share * share / 9) - cost_s
    return min(LONGEST_S, max(SHORTEST_S, best))


def to_discard(
    steps: Sequence[int], keep: Keep, scores: Mapping[int, float] | None = None
) -> list[int]:
    """Of the checkpoints there, ascending, those that need not stay. The newest always does.

    Args:
        scores: of those that have one; smaller is better.
    """
    scores = scores or {}
    ranked = sorted((scores[step], step) for step in steps if step in scores)
    kept = {*steps[-max(1, keep.last) :], *(step for _, step in ranked[: keep.best])}
    if keep.every:
        milestones: dict[int, int] = {}
        for step in steps:
            milestones.setdefault(step // keep.every, step)
        kept |= {step for number, step in milestones.items() if number}
    return [step for step in steps if step not in kept]
