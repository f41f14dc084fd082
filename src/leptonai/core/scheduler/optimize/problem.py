"""A model as arrays: groups of what is alike, choices between them, and shares of nodes.

Every capacity is counted in shares of one node, so that 1 is all of it. A rate is a slot of its own
at every instant when some option starts: what fits at all starts fits at all times.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from leptonai.core.scheduler.optimize.model import (
    TOLERANCE,
    Constraint,
    ConstraintKind,
    Model,
    Node,
    Objective,
    Option,
    Task,
)
from leptonai.errors import TooLarge

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

T = TypeVar("T", Task, Node)

MAX_CHOICES = 200_000  # that a problem may have: minutes of a linear program


@dataclass(frozen=True, slots=True)
class Group(Generic[T]):
    """Those that differ by their ids only."""

    ids: tuple[str, ...]  # sorted
    like: T


@dataclass(frozen=True, slots=True)
class Choice:
    """That a task of one group takes an option on a node of another."""

    task: int
    node: int
    option: Option

    @property
    def order(self) -> tuple[int, int, float, str]:
        return self.task, self.node, self.option.start_s, self.option.setting


@dataclass(frozen=True, slots=True)
class Prices:
    """An objective as numbers to be minimised."""

    choices: Floats  # of one task that takes it
    opening: Floats  # of one node of the group that has any task


@dataclass(frozen=True, slots=True)
class Problem:
    tasks: tuple[Group[Task], ...]
    nodes: tuple[Group[Node], ...]
    choices: tuple[Choice, ...]
    task_of: Ints
    node_of: Ints
    shares: Floats  # of a node, by choice and slot
    copies: Ints  # of the choice that one empty node holds

    def prices(self, objective: Objective) -> Prices:
        import numpy as np

        if objective is Objective.ENERGY:
            each = [choice.option.energy_j for choice in self.choices]
            opening = [group.like.opening_energy_j for group in self.nodes]
        elif objective is Objective.COST:
            each = [choice.option.cost for choice in self.choices]
            opening = [group.like.opening_cost for group in self.nodes]
        else:
            opening = [0.0] * len(self.nodes)
            if objective is Objective.THROUGHPUT:
                each = [-choice.option.value for choice in self.choices]
            else:
                each = [-float(self._in_time(choice)) for choice in self.choices]
        return Prices(np.array(each, dtype=float), np.array(opening, dtype=float))

    def _in_time(self, choice: Choice) -> bool:
        task = self.tasks[choice.task].like
        return task.deadline_s is not None and not late(task, choice.option)


def late(task: Task, option: Option) -> bool:
    return task.deadline_s is not None and option.end_s > task.deadline_s * (1 + TOLERANCE)


def count_choices(model: Model) -> int:
    """If every task and node were a group of its own."""
    tasks = Counter(task.kind or task.id for task in model.tasks)
    nodes = Counter(node.kind or node.id for node in model.nodes)
    return sum(tasks[option.task] * nodes[option.node] for option in model.options)


def constraints(model: Model, *, grouped: bool) -> tuple[Constraint, ...]:
    found = []
    for tasks in group_tasks(model.tasks, grouped=grouped):
        task = tasks.like
        named = Constraint(
            kind=ConstraintKind.REQUIRED, task=tasks.ids[0], others=len(tasks.ids) - 1
        )
        if task.required:
            found.append(named)
        if task.deadline_s is not None and task.hard:
            found.append(replace(named, kind=ConstraintKind.DEADLINE, limit=task.deadline_s))
    needed = {resource for task in model.tasks for resource in task.needs}
    for nodes in group_nodes(model.nodes, grouped=grouped):
        found += [
            Constraint(
                kind=ConstraintKind.CAPACITY,
                node=nodes.ids[0],
                resource=resource,
                limit=_capacity(nodes.like, resource),
                others=len(nodes.ids) - 1,
            )
            for resource in sorted(needed)
        ]
    return tuple(found)


def formulate(model: Model, *, grouped: bool, without: Iterable[Constraint] = ()) -> Problem:
    """The same problem for the same model, whatever the order in which its parts are given."""
    import numpy as np

    dropped = {(c.kind, c.task, c.node, c.resource) for c in without}

    def holds(kind: ConstraintKind, *, task: str = "", node: str = "", resource: str = "") -> bool:
        return not {(kind, task, node, resource), (kind, "", "", "")} & dropped

    tasks = tuple(
        tasks
        if holds(ConstraintKind.REQUIRED, task=tasks.ids[0])
        else replace(tasks, like=replace(tasks.like, required=False))
        for tasks in group_tasks(model.tasks, grouped=grouped)
    )
    nodes = group_nodes(model.nodes, grouped=grouped)
    of_kind = defaultdict(list)
    for at, group in enumerate(nodes):
        of_kind[group.like.kind or group.like.id].append(at)
    options_of = defaultdict(list)
    for option in sorted(model.options, key=lambda o: (o.task, o.node, o.start_s, o.setting)):
        options_of[option.task].append(option)

    starts = sorted({option.start_s for option in model.options})
    slots: dict[tuple[str, int], int] = {}  # of a resource at the start with this number
    choices: list[Choice] = []
    shares: list[dict[int, float]] = []
    for task_at, group_ in enumerate(tasks):
        task = group_.like
        on_time = holds(ConstraintKind.DEADLINE, task=group_.ids[0]) and task.hard
        for option in options_of[task.kind or task.id]:
            if on_time and late(task, option):
                continue
            for node_at in of_kind[option.node]:
                share = {}
                for resource, need in sorted(task.needs.items()):
                    if not need or not holds(
                        ConstraintKind.CAPACITY, node=nodes[node_at].ids[0], resource=resource
                    ):
                        continue
                    node = nodes[node_at].like
                    has = _capacity(node, resource)
                    part = need / has if has else math.inf
                    for instant in _instants(option, starts) if resource in node.rates else [-1]:
                        share[slots.setdefault((resource, instant), len(slots))] = part
                if max(share.values(), default=0.0) <= 1 + TOLERANCE:
                    choices.append(Choice(task_at, node_at, option))
                    shares.append(share)
                    if len(choices) > MAX_CHOICES:
                        raise TooLarge(
                            f"there are more than {MAX_CHOICES} ways to place a task",
                            hint="give the same kind to tasks that are alike, and to such nodes",
                        )
    order = sorted(range(len(choices)), key=lambda at: choices[at].order)
    table = np.zeros((len(choices), len(slots)))
    for row, at in enumerate(order):
        for slot, part in shares[at].items():
            table[row, slot] = part
    ordered = tuple(choices[at] for at in order)
    task_of = np.array([choice.task for choice in ordered], dtype=np.int64)
    counts = np.array([len(group.ids) for group in tasks], dtype=np.int64)
    largest = table.max(axis=1, initial=0.0)
    copies = np.floor((1 + TOLERANCE) / np.maximum(largest, 1e-15)).astype(np.int64)
    return Problem(
        tasks=tasks,
        nodes=nodes,
        choices=ordered,
        task_of=task_of,
        node_of=np.array([choice.node for choice in ordered], dtype=np.int64),
        shares=table,
        copies=np.minimum(copies, counts[task_of]) if len(ordered) else copies,
    )


def group_tasks(tasks: Iterable[Task], *, grouped: bool) -> tuple[Group[Task], ...]:
    found = defaultdict(list)
    for task in sorted(tasks, key=lambda task: task.id):
        needs = tuple(sorted(task.needs.items()))
        alike = (task.kind or task.id, needs, task.deadline_s, task.hard, task.required)
        found[alike if grouped else task.id].append(task)
    return tuple(Group(tuple(task.id for task in same), same[0]) for same in found.values())


def group_nodes(nodes: Iterable[Node], *, grouped: bool) -> tuple[Group[Node], ...]:
    found = defaultdict(list)
    for node in sorted(nodes, key=lambda node: node.id):
        has = tuple(sorted(node.rates.items())), tuple(sorted(node.amounts.items()))
        alike = (node.kind or node.id, has, node.opening_energy_j, node.opening_cost)
        found[alike if grouped else node.id].append(node)
    return tuple(Group(tuple(node.id for node in same), same[0]) for same in found.values())


def _capacity(node: Node, resource: str) -> float:
    return node.rates.get(resource, node.amounts.get(resource, 0.0))


def _instants(option: Option, starts: list[float]) -> list[int]:
    """The starts, by number, at which it runs; at its own in any case."""
    return [
        number
        for number, start in enumerate(starts)
        if start == option.start_s or option.start_s < start < option.end_s * (1 - TOLERANCE)
    ]
