"""What is asked of an optimisation, and what it may answer."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from leptonai.errors import InvalidRequest

TOLERANCE = 1e-9  # of the larger one: amounts and totals that differ by less are equal
PROOF = 1e-6  # of the larger one: a bound as near as this to a value is taken for it


class Objective(StrEnum):
    """What is made the most or the least of. Its name will do too, as it comes from people.

    >>> Objective("energy") is Objective.ENERGY
    True
    """

    THROUGHPUT = "throughput"  # the most value
    COST = "cost"  # the least
    ENERGY = "energy"  # the least
    DEADLINE = "deadline"  # the most tasks that end by their deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Placed once or not at all. Without `required`, leaving everything out costs nothing.

    >>> Task(id="train-7", kind="train", needs={"gpu": 2}, deadline_s=3600).needs["gpu"]
    2
    """

    id: str
    kind: str = ""  # what options call it; empty: its id
    needs: Mapping[str, float] = field(default_factory=dict)
    deadline_s: float | None = None
    hard: bool = True  # after the deadline it may not end at all; else it may, and is late
    required: bool = False  # an answer that leaves it out is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What it has of each resource: either a rate or an amount.

    A rate is there again when a task ends (GPUs, memory, work a second): it limits the tasks that
    run at one time. An amount is used up (credits, a budget of joules): it limits all together.

    >>> Node(id="n1", kind="a100", rates={"gpu": 8}, amounts={"credits": 500}).rates
    {'gpu': 8}
    """

    id: str
    kind: str = ""  # what options call it; empty: its id
    rates: Mapping[str, float] = field(default_factory=dict)
    amounts: Mapping[str, float] = field(default_factory=dict)
    opening_energy_j: float = 0.0  # once it has any task: idle power x the time it is on
    opening_cost: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What a task of one kind would be on a node of one kind. A task may have several on one node:
    other starts, other settings.

    >>> Option(task="train", node="a100", value=3, start_s=600, duration_s=1200).end_s
    1800
    """

    task: str
    node: str
    value: float = 0.0
    cost: float = 0.0
    energy_j: float = 0.0  # power x time
    start_s: float = 0.0
    duration_s: float = 0.0
    setting: str = ""

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Tasks, nodes, and what each would be on each. Raises InvalidRequest where it makes no sense.

    >>> try:
    ...     Model(
    ...         tasks=(Task(id="a", needs={"gpu": 1}),),
    ...         nodes=(Node(id="n", rates={"gpu": 8}),),
    ...         options=(Option(task="a", node="m", value=1),),
    ...     )
    ... except InvalidRequest as error:
    ...     print(error)
    the option of 'a' on 'm' is on no node
    """

    tasks: tuple[Task, ...]
    nodes: tuple[Node, ...]
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        _unique("task", (task.id for task in self.tasks))
        _unique("node", (node.id for node in self.nodes))
        for task in self.tasks:
            where = f"task {task.id!r}"
            for resource, amount in task.needs.items():
                _amount(f"{where} needs {resource}", amount)
            if task.deadline_s is not None:
                _amount(f"{where} has the deadline_s", task.deadline_s)
        for node in self.nodes:
            where = f"node {node.id!r}"
            for resource, amount in (*node.rates.items(), *node.amounts.items()):
                _amount(f"{where} has {resource}", amount)
            _amount(f"{where} has the opening_energy_j", node.opening_energy_j)
            _amount(f"{where} has the opening_cost", node.opening_cost)
            if both := sorted(node.rates.keys() & node.amounts.keys()):
                raise InvalidRequest(
                    f"{where} has {both[0]} both as a rate and as an amount",
                    hint="a rate is free again when a task ends, an amount is used up: choose one",
                )
        self._check_options()

    def _check_options(self) -> None:
        tasks = {task.kind or task.id for task in self.tasks}
        nodes = {node.kind or node.id for node in self.nodes}
        for option in self.options:
            where = f"the option of {option.task!r} on {option.node!r}"
            for name in ("value", "cost", "energy_j", "start_s", "duration_s"):
                _amount(f"{where} has the {name}", getattr(option, name))
            if option.task not in tasks:
                raise InvalidRequest(f"{where} is of no task", hint="name the kind of a task")
            if option.node not in nodes:
                raise InvalidRequest(f"{where} is on no node", hint="name the kind of a node")
        _unique(
            "option",
            (f"{o.task} on {o.node} at {o.start_s:g} s {o.setting}".strip() for o in self.options),
        )


class ConstraintKind(StrEnum):
    """
    >>> ", ".join(ConstraintKind)
    'required, deadline, capacity'
    """

    REQUIRED = "required"
    DEADLINE = "deadline"
    CAPACITY = "capacity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One demand of a model; with neither task nor node, all of its kind together.

    >>> print(Constraint(kind=ConstraintKind.DEADLINE, task="a", limit=60))
    deadline of a (60 s)
    >>> print(Constraint(kind=ConstraintKind.CAPACITY, node="n", resource="gpu", limit=8, others=3))
    capacity of n and of 3 like it (gpu: 8)
    """

    kind: ConstraintKind
    task: str = ""
    node: str = ""
    resource: str = ""
    limit: float = 0.0  # seconds of a deadline, amount of a capacity
    others: int = 0  # tasks or nodes alike of which it holds too

    def __str__(self) -> str:
        alike = f" and of {self.others} like it" if self.others else ""
        if self.kind is ConstraintKind.REQUIRED:
            return f"{self.task}{alike.replace(' of', '')} must be placed"
        if self.kind is ConstraintKind.DEADLINE:
            return (
                f"deadline of {self.task}{alike} ({self.limit:g} s)" if self.task else "deadlines"
            )
        if self.node:
            return f"capacity of {self.node}{alike} ({self.resource}: {self.limit:g})"
        return "capacities"

    @property
    def plural(self) -> bool:
        return not self.task and not self.node


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether a constraint keeps an answer from being better.

    >>> print(Finding(Constraint(kind=ConstraintKind.DEADLINE), binds=False))
    deadlines do not bind
    """

    constraint: Constraint
    binds: bool | None  # would the answer be better without it? None: not settled in the time

    def __str__(self) -> str:
        does, many = ("do not", "bind") if self.constraint.plural else ("does not", "binds")
        if self.binds is None:
            return f"whether {self.constraint} {many} was not settled in the time given"
        return f"{self.constraint} {many if self.binds else f'{does} bind'}"


@dataclass(frozen=True, slots=True)
class Goal:
    """How well one objective is met, and how well it could be.

    >>> goal = Goal(Objective.THROUGHPUT, value=98, bound=100)
    >>> print(goal, goal.optimal, f"{goal.gap:.0%}")
    throughput 98 (at most 100) False 2%
    """

    objective: Objective
    value: float
    bound: float  # nothing that keeps the values of the objectives before it is better than this

    @property
    def optimal(self) -> bool:
        return self.value == self.bound

    @property
    def gap(self) -> float:
        """Between value and bound, as a share of the larger one."""
        if self.optimal:
            return 0.0
        return abs(self.value - self.bound) / max(abs(self.value), abs(self.bound))

    def __str__(self) -> str:
        most = self.objective in (Objective.THROUGHPUT, Objective.DEADLINE)
        proof = (
            "proved best" if self.optimal else f"at {'most' if most else 'least'} {self.bound:g}"
        )
        return f"{self.objective} {self.value:g} ({proof})"


@dataclass(frozen=True, slots=True)
class Placement:
    """That a task takes an option on a node.

    >>> option = Option(task="train", node="a100", value=3)
    >>> Placement("train-7", "n1", option).option.value
    3
    """

    task: str
    node: str
    option: Option


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Who goes where, how good that is, and what keeps it from being better.

    >>> goal = Goal(Objective.COST, value=5, bound=5)
    >>> print(Answer(placements=(), unplaced=("a",), goals=(goal,)))
    cost 5 (proved best); no ties
    """

    placements: tuple[Placement, ...]  # by task
    unplaced: tuple[str, ...]
    goals: tuple[Goal, ...]  # in the order asked
    findings: tuple[Finding, ...] = ()
    ties: tuple[str, ...] | None = ()  # what had to decide between equals; None: was not looked at
    solver: str = "exact"

    @property
    def optimal(self) -> bool:
        return all(goal.optimal for goal in self.goals)

    def __str__(self) -> str:
        if self.ties is None:
            ties = "ties were not looked for"
        else:
            ties = f"ties were broken by {', then '.join(self.ties)}" if self.ties else "no ties"
        return "; ".join(map(str, (*self.goals, *self.findings, ties)))


@dataclass(frozen=True, slots=True)
class Infeasible:
    """No assignment meets these together; without any one of them, those that are left can be met
    (as far as the time limit let it be checked).

    >>> from leptonai.core.scheduler.optimize import solve
    >>> model = Model(
    ...     tasks=(Task(id="a", needs={"gpu": 9}, required=True),),
    ...     nodes=(Node(id="n", rates={"gpu": 8}),),
    ...     options=(Option(task="a", node="n", value=1),),
    ... )
    >>> print(solve(model))
    cannot all hold: a must be placed; capacity of n (gpu: 8)
    """

    because: tuple[Constraint, ...]

    def __str__(self) -> str:
        return "cannot all hold: " + "; ".join(map(str, self.because))


@dataclass(frozen=True, slots=True)
class Undecided:
    """No assignment was found in the time given, nor that there is none.

    >>> print(Undecided("in 1 s no way was found to place all that must be, nor a proof of none"))
    in 1 s no way was found to place all that must be, nor a proof of none
    """

    because: str

    def __str__(self) -> str:
        return self.because


def same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(f"{what} {name!r} is there twice", hint="each needs its own name")
        seen.add(name)


def _amount(where: str, amount: float) -> None:
    if not math.isfinite(amount) or amount < 0:
        raise InvalidRequest(f"{where} {amount}", hint="it must be a finite number, 0 or more")
