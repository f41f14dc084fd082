"""Tasks put on nodes one after the other: the greedy, and whole tasks from a relaxation."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leptonai.core.scheduler.optimize.model import TOLERANCE, Placement, same
from leptonai.core.scheduler.optimize.problem import Prices, Problem

if TYPE_CHECKING:
    from leptonai.core.scheduler.optimize.problem import Floats, Ints
    from leptonai.core.scheduler.optimize.program import Found


class Packing:
    """Who is where so far; every state of it keeps within what nodes have."""

    def __init__(self, problem: Problem) -> None:
        import numpy as np

        self.problem = problem
        self.left = np.array([len(group.ids) for group in problem.tasks], dtype=np.int64)
        shape = problem.shares.shape[1]
        self._free = [np.ones((len(group.ids), shape)) for group in problem.nodes]
        self._open = [np.zeros(len(group.ids), dtype=bool) for group in problem.nodes]
        self._put: list[tuple[int, Ints, Ints]] = []  # choice, nodes, how many on each

    @classmethod
    def of(cls, problem: Problem, counts: Floats) -> Packing | None:
        """What a program found for nodes one by one; None if it is not one after all: HiGHS takes
        for whole what is nearly so."""
        import numpy as np

        packing = cls(problem)
        chosen = [(at, int(counts[at])) for at in np.nonzero(counts)[0].tolist()]
        fits = all(packing.put(at, many) == many for at, many in chosen)
        return packing if fits and packing.complete else None

    @property
    def complete(self) -> bool:
        """Whether every task that must be placed is."""
        groups = zip(self.problem.tasks, self.left, strict=True)
        return not any(left for group, left in groups if group.like.required)

    def put(
        self, choice: int, most: int, *, first: int | None = None, only_open: bool = False
    ) -> int:
        """Up to so many of one choice, on the first nodes that have room; returns how many."""
        import numpy as np

        problem = self.problem
        group = problem.node_of[choice]
        most = min(most, int(self.left[problem.task_of[choice]]))
        if most <= 0:
            return 0
        free = self._free[group][:first]
        share = problem.shares[choice]
        takes = share > 0
        fits = np.full(len(free), most, dtype=np.int64)
        if takes.any():
            copies = np.floor((free[:, takes] + TOLERANCE) / share[takes]).min(axis=1)
            fits = np.clip(copies, 0, most).astype(np.int64)
        if only_open:
            fits[~self._open[group][:first]] = 0
        before = np.cumsum(fits) - fits
        fits = np.clip(most - before, 0, fits)
        return self._take(choice, np.nonzero(fits)[0], fits)

    def spread(self, choice: int, each: int, *, first: int) -> int:
        """So many of one choice on each of the first nodes, which must have the room."""
        import numpy as np

        return self._take(choice, np.arange(first), np.full(first, each)) if each else 0

    def _take(self, choice: int, nodes: Ints, fits: Ints) -> int:
        group = self.problem.node_of[choice]
        taken = fits[nodes]
        if not len(nodes):
            return 0
        self._free[group][nodes] -= taken[:, None] * self.problem.shares[choice]
        self._open[group][nodes] = True
        self._put.append((choice, nodes, taken))
        self.left[self.problem.task_of[choice]] -= taken.sum()
        return int(taken.sum())

    def value(self, prices: Prices) -> float:
        """What an objective comes to, to be minimised."""
        each = [float(prices.choices[at]) * int(many.sum()) for at, _, many in self._put]
        opened = [
            float(price) * int(opened.sum())
            for price, opened in zip(prices.opening, self._open, strict=True)
        ]
        return math.fsum(each + opened)

    def placements(self) -> tuple[Placement, ...]:
        """By task; of tasks alike the first by id get the nodes that are first by id."""
        problem = self.problem
        places: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for at, nodes, many in self._put:
            choice = problem.choices[at]
            ids = problem.nodes[choice.node].ids
            for node, times in zip(nodes.tolist(), many.tolist(), strict=True):
                places[choice.task] += [(ids[node], at)] * times
        return tuple(
            sorted(
                (
                    Placement(task, node, problem.choices[at].option)
                    for group, found in places.items()
                    for task, (node, at) in zip(
                        problem.tasks[group].ids, sorted(found), strict=False
                    )
                ),
                key=lambda placement: placement.task,
            )
        )


def fill(packing: Packing, objectives: Sequence[Prices]) -> None:
    """Put what is left wherever it helps: what must be placed first, the hardest of it before, then
    what does most for the first objective by the room it takes."""
    problem = packing.problem
    sizes = problem.shares.max(axis=1, initial=0.0) + TOLERANCE

    def urgency(at: int) -> tuple[float, ...]:
        each = [float(prices.choices[at]) for prices in objectives]
        opening = [float(prices.opening[problem.node_of[at]]) for prices in objectives]
        if problem.tasks[problem.task_of[at]].like.required:
            whole = [price + sizes[at] * open_ for price, open_ in zip(each, opening, strict=True)]
            return 0, -hardest[problem.task_of[at]], int(problem.task_of[at]), *whole, at
        return 1, *(price / sizes[at] for price in each), at

    hardest: dict[int, float] = defaultdict(lambda: math.inf)
    for at, group in enumerate(problem.task_of.tolist()):
        hardest[group] = min(hardest[group], float(sizes[at]))
    for at in sorted(range(len(problem.choices)), key=urgency):
        left = int(packing.left[problem.task_of[at]])
        if not left:
            continue
        each = [float(prices.choices[at]) for prices in objectives]
        opening = [float(prices.opening[problem.node_of[at]]) for prices in objectives]
        if problem.tasks[problem.task_of[at]].like.required or _helps(
            [price + open_ for price, open_ in zip(each, opening, strict=True)]
        ):
            packing.put(at, left)
        elif _helps(each):
            packing.put(at, left, only_open=True)


def whole(problem: Problem, relaxed: Found) -> Packing:
    """Whole tasks on nodes, as near as they come to what a relaxation decided: it says how many of
    what go to nodes alike, so each of these first gets its equal part, rounded down."""
    import numpy as np

    packing = Packing(problem)
    assert relaxed.counts is not None and relaxed.opened is not None
    many = np.floor(relaxed.counts + 1e-6).astype(np.int64)
    opened = np.ceil(relaxed.opened - 1e-6).astype(np.int64)
    rest = []
    for at in np.nonzero(many)[0].tolist():
        first = max(1, int(opened[problem.node_of[at]]))
        rest.append((at, int(many[at]) - packing.spread(at, int(many[at]) // first, first=first)))
    largest = problem.shares.max(axis=1, initial=0.0)
    for at, most in sorted(rest, key=lambda pair: (-largest[pair[0]], pair[0])):
        packing.put(at, most, first=max(1, int(opened[problem.node_of[at]])))
    return packing


def better(one: Packing, other: Packing | None, objectives: Sequence[Prices]) -> bool:
    """By the first objective that tells them apart."""
    if other is None:
        return True
    for prices in objectives:
        ours, theirs = one.value(prices), other.value(prices)
        if not same(ours, theirs):
            return ours < theirs
    return False


def _helps(change: Sequence[float]) -> bool:
    """Whether the first objective that it changes gets better."""
    return next((price < 0 for price in change if price), False)
