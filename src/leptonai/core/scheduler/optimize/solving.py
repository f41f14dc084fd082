"""One objective after the other, each keeping what those before it reached."""

import math
from collections.abc import Sequence

from leptonai.core.scheduler.optimize.explaining import conflict, findings
from leptonai.core.scheduler.optimize.model import (
    PROOF,
    Answer,
    Goal,
    Infeasible,
    Model,
    Objective,
    Undecided,
    same,
)
from leptonai.core.scheduler.optimize.packing import Packing, better, exchange, fill, whole
from leptonai.core.scheduler.optimize.problem import Prices, Problem, count_choices, formulate
from leptonai.core.scheduler.optimize.program import Level, Program
from leptonai.errors import InvalidRequest

EXACT_CHOICES = 5_000  # up to which `solve` tries to be exact
TIME_LIMIT_S = 10.0

Outcome = Answer | Infeasible | Undecided
DEFAULT_OBJECTIVES = (Objective.THROUGHPUT, Objective.ENERGY)
TIE_ENERGY, TIE_NODE = "energy", "node id"
MAXIMISED = (Objective.THROUGHPUT, Objective.DEADLINE)


def solve(
    model: Model,
    objectives: Sequence[Objective] = DEFAULT_OBJECTIVES,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    explain: bool = True,
) -> Outcome:
    """The best assignment by the first objective, among those the best by the second, and so on;
    equal ones are decided by energy, then by the ids of nodes.

    Exact for as many choices as that is likely to end for, else by what is alike. To explain what
    binds, or why there is no answer, may take the time limit once more.

    >>> from leptonai.core.scheduler.optimize import Model, Node, Option, Task
    >>> model = Model(
    ...     tasks=(Task(id="a", needs={"gpu": 2}), Task(id="b", needs={"gpu": 1})),
    ...     nodes=(Node(id="n", rates={"gpu": 2}),),
    ...     options=(Option(task="a", node="n", value=5), Option(task="b", node="n", value=3)),
    ... )
    >>> answer = solve(model, ["throughput"])
    >>> print(answer)
    throughput 5 (proved best); capacity of n (gpu: 2) binds; no ties
    >>> [(placed.task, placed.node) for placed in answer.placements], answer.unplaced
    ([('a', 'n')], ('b',))
    """
    by = solve_exactly if count_choices(model) <= EXACT_CHOICES else solve_by_classes
    return by(model, objectives, time_limit_s=time_limit_s, explain=explain)


def solve_exactly(
    model: Model,
    objectives: Sequence[Objective] = DEFAULT_OBJECTIVES,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    explain: bool = True,
) -> Outcome:
    """A mixed-integer program for each objective, each keeping what those before it reached; then
    for energy and for the ids of nodes, if they were not asked for.

    The greedy's answer is known before: when time runs out the best so far is returned, with the
    bound that was proved. NP-hard; some thousand choices take seconds.

    >>> from leptonai.core.scheduler.optimize import Model, Node, Option, Task
    >>> model = Model(
    ...     tasks=(Task(id="a", needs={"gpu": 1}),),
    ...     nodes=tuple(Node(id=name, rates={"gpu": 1}) for name in ("n", "m")),
    ...     options=(
    ...         Option(task="a", node="n", value=5, energy_j=70),
    ...         Option(task="a", node="m", value=5, energy_j=90),
    ...     ),
    ... )
    >>> answer = solve_exactly(model, ["throughput"], explain=False)
    >>> answer.placements[0].node, answer.ties
    ('n', ('energy',))
    """
    problem = formulate(model, grouped=False)
    program = Program(problem, whole=True)
    asked = _in_order(objectives)
    stages = [(str(objective), problem.prices(objective)) for objective in asked]
    if Objective.ENERGY not in asked:
        stages.append((TIE_ENERGY, problem.prices(Objective.ENERGY)))
    stages.append((TIE_NODE, _by_node_id(problem)))
    stage_s = time_limit_s / (2 * len(stages) - len(asked))

    greedy = Packing(problem)
    fill(greedy, [prices for _, prices in stages[: len(asked)]])
    best = greedy if greedy.complete else None
    levels: list[Level] = []
    bounds: list[float] = []
    ties: list[str] = []
    for number, (name, prices) in enumerate(stages):
        found = program.minimise(prices, keeping=levels, time_limit_s=stage_s)
        if found.infeasible and best is None:
            limit_s = time_limit_s if explain else 0.0
            return Infeasible(conflict(model, grouped=False, time_limit_s=limit_s))
        other = None if found.counts is None else Packing.of(problem, found.counts)
        if other and better(other, best, [prices for _, prices in stages[: number + 1]]):
            best = other
        if best is None:
            return Undecided(
                f"in {stage_s:g} s no way was found to place all that must be, nor a proof of none"
            )
        level = Level(prices, best.value(prices))
        if number < len(asked):
            bounds.append(found.bound)
        else:
            worst = program.minimise(_turned(prices), keeping=levels, time_limit_s=stage_s)
            if worst.counts is not None and not same(-worst.value, level.value):
                ties.append(name)
        levels.append(level)
    assert best is not None
    return _answer(
        model,
        best,
        asked,
        bounds,
        ties=tuple(ties),
        explain_s=time_limit_s if explain else None,
        grouped=False,
    )


def solve_by_classes(
    model: Model,
    objectives: Sequence[Objective] = DEFAULT_OBJECTIVES,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    explain: bool = True,
) -> Outcome:
    """Tasks alike and nodes alike are counted, not told apart: a linear program decides how many of
    what go where, and bounds what is possible; whole tasks are then put on nodes as near to that as
    they fit, what is left wherever it helps, and then in the place of what does less. With k
    choices between kinds, s slots and n nodes that is one program of about k variables and rows for
    each objective and each bound, O(k n s) to place, and at most O(k k n s) to exchange.

    >>> from leptonai.core.scheduler.optimize import Model, Node, Option, Task
    >>> model = Model(
    ...     tasks=tuple(Task(id=f"t{n}", kind="train", needs={"gpu": 2}) for n in range(1000)),
    ...     nodes=tuple(Node(id=f"n{n}", kind="a100", rates={"gpu": 8}) for n in range(100)),
    ...     options=(Option(task="train", node="a100", value=1),),
    ... )
    >>> answer = solve_by_classes(model, ["throughput"])
    >>> print(answer.goals[0], len(answer.placements))
    throughput 400 (proved best) 400
    """
    problem = formulate(model, grouped=True)
    program = Program(problem, whole=False)
    asked = _in_order(objectives)
    prices = [problem.prices(objective) for objective in asked]
    stages = prices if Objective.ENERGY in asked else [*prices, problem.prices(Objective.ENERGY)]
    stage_s = time_limit_s / (len(stages) + len(asked))

    packings = [Packing(problem)]
    bounds = []
    levels: list[Level] = []
    for stage in stages:
        found = program.minimise(stage, keeping=levels, time_limit_s=stage_s)
        if found.infeasible and not levels:
            limit_s = time_limit_s if explain else 0.0
            return Infeasible(conflict(model, grouped=True, time_limit_s=limit_s))
        bounds.append(found.bound)
        if found.counts is None:
            break
        packings.append(whole(problem, found))
        levels.append(Level(stage, found.value))
    best = None
    for packing in packings:
        fill(packing, prices)
        exchange(packing, prices)
        fill(packing, prices)
        if packing.complete and better(packing, best, stages):
            best = packing
    if best is None:
        return Undecided(
            "no way was found to place all that must be; by the sums alone there may be one"
        )
    # The first bound holds as it is; one after it is for those that keep what was really reached.
    reached = [Level(price, best.value(price)) for price in prices]
    for number in range(1, len(asked)):
        found = program.minimise(prices[number], keeping=reached[:number], time_limit_s=stage_s)
        bounds[number:] = [found.bound]
    return _answer(
        model,
        best,
        asked,
        bounds[: len(asked)],
        ties=None,
        explain_s=None,
        grouped=True,
    )


def _answer(
    model: Model,
    best: Packing,
    asked: Sequence[Objective],
    bounds: Sequence[float],
    *,
    ties: tuple[str, ...] | None,
    explain_s: float | None,
    grouped: bool,
) -> Answer:
    reached = [(objective, best.value(best.problem.prices(objective))) for objective in asked]
    placements = best.placements()
    placed = {placement.task for placement in placements}
    return Answer(
        placements=placements,
        unplaced=tuple(sorted(task.id for task in model.tasks if task.id not in placed)),
        goals=tuple(
            _goal(objective, value, bound)
            for (objective, value), bound in zip(reached, bounds, strict=True)
        ),
        findings=()
        if explain_s is None
        else findings(model, reached, grouped=grouped, time_limit_s=explain_s),
        ties=ties,
        solver="by classes" if grouped else "exact",
    )


def _goal(objective: Objective, value: float, bound: float) -> Goal:
    """Of what was minimised; value and bound of what was asked."""
    sign = -1 if objective in MAXIMISED else 1
    proved = bound >= value or math.isclose(bound, value, rel_tol=PROOF, abs_tol=PROOF)
    return Goal(objective, sign * value + 0.0, sign * (value if proved else bound) + 0.0)


def _in_order(objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """Objectives by their names too, as they come from people."""
    try:
        asked = tuple(dict.fromkeys(Objective(objective) for objective in objectives))
    except ValueError as wrong:
        raise InvalidRequest(str(wrong), hint=f"use {', '.join(Objective)}") from wrong
    if not asked:
        raise InvalidRequest("there is no objective", hint=f"name one of {', '.join(Objective)}")
    return asked


def _by_node_id(problem: Problem) -> Prices:
    """The first nodes by id for the tasks, the first tasks by id before the others: the sum, over
    tasks, of the place of the chosen option among its own, counted the more the earlier the task.
    Not to be placed comes last."""
    import numpy as np

    number = len(problem.tasks)
    many = np.bincount(problem.task_of, minlength=number)
    first = np.cumsum(many) - many
    place = np.arange(len(problem.choices)) - first[problem.task_of]
    weight = number - problem.task_of
    return Prices(
        (weight * (place - many[problem.task_of])).astype(float), np.zeros(len(problem.nodes))
    )


def _turned(prices: Prices) -> Prices:
    return Prices(-prices.choices, -prices.opening)
