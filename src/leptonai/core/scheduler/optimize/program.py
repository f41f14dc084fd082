"""A problem as a linear program with whole numbers, solved by HiGHS through scipy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leptonai.core.scheduler.optimize.model import TOLERANCE, Node
from leptonai.core.scheduler.optimize.problem import Prices, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leptonai.core.scheduler.optimize.problem import Floats

# HiGHS lets a row be off by 1e-6 and counts what is as near to a whole number as whole. Rows whose
# largest number is about this are then right to 1e-9 of it; a power of two changes no digit.
SCALE = 1024.0


@dataclass(frozen=True, slots=True)
class Found:
    counts: Floats | None  # by choice; None: nothing was found
    opened: Floats | None  # nodes by group; all of those that cost nothing to open
    value: float  # of what was found
    bound: float  # nothing is below
    infeasible: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """What an objective has reached, and must keep."""

    prices: Prices
    value: float


@dataclass(frozen=True, slots=True)
class Program:
    """The constraints of a problem. Variables: how many take each choice, then how many nodes of
    each group are open."""

    problem: Problem
    whole: bool  # with whole numbers; without, the relaxation, whose optimum is a bound
    _matrix: Any = field(init=False)
    _low: Any = field(init=False)
    _high: Any = field(init=False)

    def __post_init__(self) -> None:
        import numpy as np

        problem = self.problem
        rows = _Rows(len(problem.choices) + len(problem.nodes))
        at = np.arange(len(problem.choices))
        opened = len(problem.choices) + problem.node_of
        many = [len(group.ids) for group in problem.tasks]
        required = [group.like.required for group in problem.tasks]
        rows.add(
            [(problem.task_of, at, np.ones(len(at)))],
            low=np.where(required, many, 0),
            high=np.array(many),
        )
        # A node's tasks take no more than it has, and nothing unless it is open.
        choice, slot = np.nonzero(problem.shares)
        slots = problem.shares.shape[1]
        node, row = np.divmod(np.arange(len(problem.nodes) * slots), max(slots, 1))
        rows.add(
            [
                (problem.node_of[choice] * slots + slot, choice, problem.shares[choice, slot]),
                (node * slots + row, len(at) + node, -np.ones(len(node))),
            ],
            high=np.zeros(len(node)),
            scale=SCALE,
        )
        rows.add(
            [(at, at, np.ones(len(at))), (at, opened, -problem.copies.astype(float))],
            high=np.zeros(len(at)),
        )
        # No node is open for nothing, so that no objective is better for it.
        group = np.arange(len(problem.nodes))
        priced = [_has_price(group.like) for group in problem.nodes]
        rows.add(
            [
                (group, len(at) + group, np.ones(len(group))),
                (problem.node_of, at, -np.ones(len(at))),
            ],
            high=np.where(priced, 0.0, np.inf),
        )
        matrix, low, high = rows.stacked()
        object.__setattr__(self, "_matrix", matrix)
        object.__setattr__(self, "_low", low)
        object.__setattr__(self, "_high", high)

    def minimise(
        self, prices: Prices, *, keeping: Sequence[Level] = (), time_limit_s: float
    ) -> Found:
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp

        problem = self.problem
        if not problem.choices:
            infeasible = any(group.like.required for group in problem.tasks)
            empty = np.zeros(0)
            return Found(
                None if infeasible else empty, np.zeros(len(problem.nodes)), 0.0, 0.0, infeasible,
            )  # fmt: skip
        limits = [LinearConstraint(self._matrix, self._low, self._high)]
        for level in keeping:
            row = np.concatenate([level.prices.choices, level.prices.opening])
            scale = _scale(row)
            slack = TOLERANCE * max(1.0, abs(level.value))
            limits.append(LinearConstraint(row * scale, -np.inf, (level.value + slack) * scale))
        objective = np.concatenate([prices.choices, prices.opening])
        scale = _scale(objective)
        many = np.array([len(group.ids) for group in problem.tasks])
        nodes = np.array([len(group.ids) for group in problem.nodes])
        priced = [_has_price(group.like) for group in problem.nodes]
        most = np.minimum(many[problem.task_of], problem.copies * nodes[problem.node_of])
        done = milp(
            objective * scale,
            constraints=limits,
            bounds=Bounds(
                np.concatenate([np.zeros(len(most)), np.where(priced, 0, nodes)]),
                np.concatenate([most, nodes]),
            ),
            integrality=np.full(len(objective), int(self.whole)),
            options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
        )
        infeasible = done.status == 2
        relaxed = done.fun if done.status == 0 else None
        bound = done.mip_dual_bound if self.whole else relaxed
        # As if every task got what it wants most: of little use, but finite.
        wishes = np.zeros(len(many))
        np.minimum.at(wishes, problem.task_of, prices.choices)
        bound = max(-np.inf if bound is None else bound / scale, float(many @ wishes))
        if done.x is None:
            return Found(None, None, np.inf, bound, infeasible)
        x = np.round(done.x) if self.whole else done.x
        counts, opened = x[: len(problem.choices)], x[len(problem.choices) :]
        return Found(counts, opened, float(objective @ x), bound, infeasible)


class _Rows:
    """Collects blocks of rows into one sparse matrix."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._blocks: list[Any] = []
        self._low: list[Any] = []
        self._high: list[Any] = []

    def add(
        self, parts: list[tuple[Any, Any, Any]], *, high: Any, low: Any = None, scale: float = 1.0
    ) -> None:
        """Each part: row numbers within the block, columns, and the values there."""
        import numpy as np
        from scipy.sparse import coo_array

        row, column, value = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
        shape = (len(high), self._columns)
        self._blocks.append(coo_array((value * scale, (row, column)), shape=shape))
        self._low.append(np.full(len(high), -np.inf) if low is None else low * scale)
        self._high.append(high * scale)

    def stacked(self) -> tuple[Any, Any, Any]:
        import numpy as np
        from scipy.sparse import vstack

        return vstack(self._blocks).tocsr(), np.concatenate(self._low), np.concatenate(self._high)


def _has_price(node: Node) -> bool:
    return node.opening_energy_j > 0 or node.opening_cost > 0


def _scale(numbers: Floats) -> float:
    import numpy as np

    largest = float(np.abs(numbers).max(initial=0.0))
    return SCALE / float(2.0 ** np.ceil(np.log2(largest))) if largest else 1.0
