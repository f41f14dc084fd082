"""How good a place a node is for a worker: one function for each choice; smaller is better."""

from collections.abc import Mapping

import numpy as np

from leptonai.core.resources import MILLIS, Needs
from leptonai.core.scheduler.nodes import Columns, Floats, Score
from leptonai.core.scheduler.policy import Choice

MAX_SHARE = 1 << 20


def score_of(choice: Choice, demand: Mapping[Needs, float], seed: int) -> Score:
    """
    Args:
        demand: workers asked for up to now, by size.
        seed: of Choice.RANDOM.
    """
    return best_fit


def best_fit(needs: Needs, columns: Columns) -> Floats:
    """The fewest free GPUs are left over, then the least CPU and memory: large holes stay large,
    and work without GPUs keeps away from them."""
    gpus = np.maximum(columns.gpu, 0).sum(axis=1) * (MAX_SHARE / MILLIS)
    cpu = (columns.cpu - needs.cpu_millis) / np.maximum(needs.cpu_millis, MILLIS)
    score: Floats = gpus + np.minimum(cpu, MAX_SHARE - 1)
    return score
