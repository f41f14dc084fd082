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
        self._tasks = [np.zeros(len(group.ids), dtype=np.int64) for group in problem.nodes]
        self._on: dict[int, Ints] = {}  # by choice: how many take it on each node of its group

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
            fits[self._tasks[group][:first] == 0] = 0
        return self._take(choice, _first(most, fits))

    def spread(self, choice: int, each: int, *, first: int) -> int:
        """So many of one choice on each of the first nodes, which must have the room."""
        import numpy as np

        return self._take(choice, np.full(first, each))

    def swap(self, gone: int, come: int) -> None:
        """One choice in the place of another, on each node where there is one and room for it."""
        problem = self.problem
        group, left = problem.node_of[come], int(self.left[problem.task_of[come]])
        assert group == problem.node_of[gone]
        change = problem.shares[come] - problem.shares[gone]
        fits = (self._free[group] + TOLERANCE >= change).all(axis=1) & (self._on[gone] > 0)
        ones = _first(left, fits.astype("int64"))
        self._take(gone, -ones)
        self._take(come, ones)

    def taken(self, group: int) -> list[int]:
        """The choices that somebody takes on nodes of a group."""
        of_group = (at for at in sorted(self._on) if self.problem.node_of[at] == group)
        return [at for at in of_group if self._on[at].any()]

    def _take(self, choice: int, many: Ints) -> int:
        import numpy as np

        total = int(many.sum())
        if not total:
            return 0
        group, first = self.problem.node_of[choice], len(many)
        self._free[group][:first] -= many[:, None] * self.problem.shares[choice]
        self._tasks[group][:first] += many
        on = self._on.setdefault(choice, np.zeros_like(self._tasks[group]))
        on[:first] += many
        self.left[self.problem.task_of[choice]] -= total
        return total

    def value(self, prices: Prices) -> float:
        """What an objective comes to, to be minimised."""
        each = [float(prices.choices[at]) * int(many.sum()) for at, many in self._on.items()]
        opened = [
            float(price) * int((tasks > 0).sum())
            for price, tasks in zip(prices.opening, self._tasks, strict=True)
        ]
        return math.fsum(each + opened)

    def placements(self) -> tuple[Placement, ...]:
        """By task; of tasks alike the first by id get the nodes that are first by id."""
        problem = self.problem
        places: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for at, many in self._on.items():
            choice = problem.choices[at]
            for node, times in zip(problem.nodes[choice.node].ids, many.tolist(), strict=True):
                places[choice.task] += [(node, at)] * times
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
    """Put what is left wherever there is room and it helps, the most urgent first."""
    problem = packing.problem
    for at in by_urgency(problem, objectives):
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


def by_urgency(problem: Problem, objectives: Sequence[Prices]) -> list[int]:
    """Choices: what must be placed first, the hardest of it before; then what does most for the
    first objective by the room it takes."""
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
    return sorted(range(len(problem.choices)), key=urgency)


def exchange(packing: Packing, objectives: Sequence[Prices]) -> None:
    """Put what is left in the place of what does less, where it fits there."""
    problem = packing.problem
    for at in by_urgency(problem, objectives):
        for gone in packing.taken(problem.node_of[at]):
            if not packing.left[problem.task_of[at]]:
                break
            change = [float(prices.choices[at] - prices.choices[gone]) for prices in objectives]
            if _helps(change) and not problem.tasks[problem.task_of[gone]].like.required:
                packing.swap(gone, at)


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


def _first(most: int, fits: Ints) -> Ints:
    """Of what fits on each node, so many in all, from the first ones."""
    import numpy as np

    taken: Ints = np.clip(most - (np.cumsum(fits) - fits), 0, fits)
    return taken


def _helps(change: Sequence[float]) -> bool:
    """Whether the first objective that it changes gets better."""
    return next((price < 0 for price in change if price), False)
