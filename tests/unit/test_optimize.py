"""The optimisation models against enumeration, which knows nothing of how they are solved."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.core.scheduler.optimize import (
    Answer,
    Constraint,
    ConstraintKind,
    Infeasible,
    Model,
    Node,
    Objective,
    Option,
    Task,
    Undecided,
    solve,
    solve_by_classes,
    solve_exactly,
)
from leptonai.core.scheduler.optimize.packing import Packing, fill
from leptonai.core.scheduler.optimize.problem import constraints, formulate
from leptonai.errors import InvalidRequest, TooLarge

# --- the toy of the handbook ---------------------------------------------------------------------

RATES = {"n1": 100, "n2": 200, "n3": 150}  # units of work a second
POWER_W = {"n1": 150, "n2": 320, "n3": 270}
TASKS = {"a": (70, 10), "b": (150, 20), "c": (80, 30)}  # units of work a second, deadline


def toy(rates=RATES, deadlines=None, required=False, **of_nodes):
    return Model(
        tasks=tuple(
            Task(
                id=id,
                needs={"work": work},
                deadline_s=(deadlines or {}).get(id, deadline_s),
                required=required,
            )
            for id, (work, deadline_s) in TASKS.items()
        ),
        nodes=tuple(Node(id=id, rates={"work": rate}, **of_nodes) for id, rate in rates.items()),
        options=tuple(
            Option(
                task=task, node=node, value=work, duration_s=1, energy_j=POWER_W[node] * work / rate
            )
            for task, (work, _) in TASKS.items()
            for node, rate in RATES.items()
        ),
    )


def places(answer):
    return {placement.task: placement.node for placement in answer.placements}


def test_the_three_tasks_of_the_toy_fit_the_deadlines_do_not_bind_and_energy_breaks_ties():
    answer = solve(toy(), [Objective.THROUGHPUT])
    assert str(answer) == (
        "throughput 300 (proved best); deadlines do not bind; capacities do not bind;"
        " ties were broken by energy"
    )
    assert (places(answer), answer.unplaced) == ({"a": "n3", "b": "n2", "c": "n1"}, ())


def test_as_a_second_objective_energy_is_proved_least_and_says_which_nodes_it_wants_more_of():
    answer = solve(toy(), ["throughput", "energy"])
    assert [(goal.objective, goal.value, goal.bound) for goal in answer.goals] == [
        ("throughput", 300, 300),
        ("energy", 486, 486),
    ]
    assert [str(finding) for finding in answer.findings] == [
        "deadlines do not bind",
        "capacity of n1 (work: 100) binds",
        "capacity of n2 (work: 200) binds",
    ]


def test_a_deadline_that_excludes_a_task_binds():
    answer = solve(toy(deadlines={"b": 0.5}), ["throughput"])
    assert answer.goals[0].value == 150
    assert answer.unplaced == ("b",)
    assert "deadline of b (0.5 s) binds" in map(str, answer.findings)


def test_what_must_be_placed_and_cannot_is_answered_with_what_forbids_it():
    late = solve(toy(deadlines={"b": 0.5}, required=True))
    assert str(late) == "cannot all hold: b must be placed; deadline of b (0.5 s)"
    large = solve(toy(rates={"n1": 100, "n2": 100, "n3": 150}, required=True))
    assert isinstance(large, Answer)
    larger = solve(toy(rates={"n1": 75, "n2": 75, "n3": 150}, required=True))
    assert str(larger) == (
        "cannot all hold: b must be placed; c must be placed; capacity of n1 (work: 75);"
        " capacity of n2 (work: 75); capacity of n3 (work: 150)"
    )


def test_idle_nodes_are_left_closed_where_opening_them_takes_energy():
    answer = solve(toy(rates={"n1": 300, "n2": 300, "n3": 300}, opening_energy_j=10_000))
    assert len(set(places(answer).values())) == 1
    assert answer.goals[1].value > 10_000


def test_a_rate_is_free_again_when_a_task_ends_and_an_amount_is_not():
    def both(**has):
        return Model(
            tasks=(Task(id="a", needs={"gpu": 1}), Task(id="b", needs={"gpu": 1})),
            nodes=(Node(id="n", **has),),
            options=tuple(
                Option(task=task, node="n", value=1, start_s=start_s, duration_s=5)
                for task in ("a", "b")
                for start_s in (0, 3, 5)
            ),
        )

    after_one_another = solve(both(rates={"gpu": 1}))
    assert [p.option.start_s for p in after_one_another.placements] == [0, 5]
    used_up = solve(both(amounts={"gpu": 1}))
    assert (places(used_up), used_up.unplaced) == ({"a": "n"}, ("b",))


def test_equals_are_decided_by_the_ids_of_nodes():
    twins = Model(
        tasks=(Task(id="b", needs={"gpu": 1}), Task(id="a", needs={"gpu": 1})),
        nodes=tuple(Node(id=id, rates={"gpu": 1}) for id in ("y", "z", "x")),
        options=tuple(Option(task=t, node=n, value=1) for t in "ab" for n in "xyz"),
    )
    answer = solve(twins)
    assert (places(answer), answer.ties) == ({"a": "x", "b": "y"}, ("node id",))
    assert places(solve_by_classes(twins)) == {"a": "x", "b": "y"}


def test_soft_deadlines_may_be_missed_and_the_objective_counts_those_that_are_met():
    model = Model(
        tasks=tuple(Task(id=id, needs={"gpu": 1}, deadline_s=5, hard=False) for id in "ab"),
        nodes=(Node(id="n", rates={"gpu": 1}),),
        options=tuple(
            Option(task=task, node="n", value=1, cost=9 - start_s, start_s=start_s, duration_s=5)
            for task in "ab"
            for start_s in (0, 5, 9)
        ),
    )
    answer = solve(model, ["throughput", "deadline", "cost"])
    assert [goal.value for goal in answer.goals] == [2, 1, 9]
    assert [goal.value for goal in solve(model, ["throughput", "cost"]).goals] == [2, 9]


def test_a_model_with_nothing_in_it_has_an_empty_answer():
    answer = solve(Model(tasks=(), nodes=(), options=()))
    assert (answer.placements, answer.optimal) == ((), True)


def test_amounts_that_differ_in_the_last_byte_are_told_apart():
    gib = 1 << 30
    model = Model(
        tasks=tuple(Task(id=f"t{n}", needs={"bytes": 32 * gib + 100 * n}) for n in range(2)),
        nodes=(Node(id="n", rates={"bytes": 64 * gib}),),
        options=tuple(Option(task=f"t{n}", node="n", value=1 + n) for n in range(2)),
    )
    exactly = replace(model, nodes=(Node(id="n", rates={"bytes": 64 * gib + 100}),))
    assert [len(solve(which).placements) for which in (model, exactly)] == [1, 2]


# --- against enumeration -------------------------------------------------------------------------

few = st.integers(0, 4)
needs = st.fixed_dictionaries({"gpu": st.integers(0, 3)}, optional={"disk": st.integers(0, 3)})


never = st.just(False)


@st.composite
def models(draw, required=never):
    kinds = ("k", "l")
    tasks = tuple(
        Task(
            id=f"t{number}",
            kind=draw(st.sampled_from(kinds)),
            needs=draw(needs),
            deadline_s=draw(st.none() | st.integers(1, 5)),
            hard=draw(st.booleans()),
            required=draw(required),
        )
        for number in range(draw(st.integers(1, 3)))
    )
    nodes = tuple(
        Node(
            id=f"n{number}",
            kind=draw(st.sampled_from(kinds)),
            rates={"gpu": draw(few)},
            amounts={"disk": draw(few)},
            opening_energy_j=draw(st.sampled_from([0, 0, 3])),
            opening_cost=draw(st.sampled_from([0, 0, 2])),
        )
        for number in range(draw(st.integers(1, 2)))
    )
    options = draw(
        st.lists(
            st.builds(
                Option,
                task=st.sampled_from(sorted({task.kind for task in tasks})),
                node=st.sampled_from(sorted({node.kind for node in nodes})),
                value=few,
                cost=few,
                energy_j=few,
                start_s=st.integers(0, 2),
                duration_s=st.integers(0, 3),
            ),
            max_size=5,
            unique_by=lambda option: (option.task, option.node, option.start_s),
        )
    )
    return Model(tasks=tasks, nodes=nodes, options=tuple(options))


orders = st.lists(st.sampled_from(Objective), min_size=1, max_size=4, unique=True)


def assignments(model, without=()):
    """Every one that meets the constraints, as pairs of node and option by task."""

    def holds(kind, **of):
        return not any(
            c.kind is kind and (c == Constraint(kind=kind) or vars_of(c).items() >= of.items())
            for c in without
        )

    def vars_of(constraint):
        return {name: getattr(constraint, name) for name in ("task", "node", "resource")}

    def choices(task):
        if not task.required or not holds(ConstraintKind.REQUIRED, task=task.id):
            yield None
        for option in model.options:
            in_time = task.deadline_s is None or option.end_s <= task.deadline_s
            may = in_time or not task.hard or not holds(ConstraintKind.DEADLINE, task=task.id)
            if option.task == task.kind and may:
                yield from ((node, option) for node in model.nodes if node.kind == option.node)

    def within(node, taken):
        here = [(task.needs, option) for task, (at, option) in taken if at is node]
        used = sum(needs.get("disk", 0) for needs, _ in here)
        limited = holds(ConstraintKind.CAPACITY, node=node.id, resource="disk")
        if limited and used > node.amounts["disk"]:
            return False
        if holds(ConstraintKind.CAPACITY, node=node.id, resource="gpu"):
            for tick in range(6):  # whole seconds: everything starts and ends at some
                running = [
                    needs["gpu"]
                    for needs, o in here
                    if o.start_s <= tick < o.end_s or o.start_s == tick
                ]
                if sum(running) > node.rates["gpu"]:
                    return False
        return True

    for chosen in product(*map(choices, model.tasks)):
        taken = [(t, c) for t, c in zip(model.tasks, chosen, strict=True) if c is not None]
        if all(within(node, taken) for node in model.nodes):
            yield taken


def worth(taken, objective):
    """To be minimised."""
    opened = {node.id: node for _, (node, _) in taken}.values()
    options = [option for _, (_, option) in taken]
    if objective is Objective.THROUGHPUT:
        return -sum(option.value for option in options)
    if objective is Objective.COST:
        return sum(o.cost for o in options) + sum(node.opening_cost for node in opened)
    if objective is Objective.ENERGY:
        return sum(o.energy_j for o in options) + sum(node.opening_energy_j for node in opened)
    return -sum(
        task.deadline_s is not None and option.end_s <= task.deadline_s
        for task, (_, option) in taken
    )


def best(model, order, without=()):
    found = [[worth(a, objective) for objective in order] for a in assignments(model, without)]
    return min(found, default=None)


def values(answer):
    return [sign(goal) * goal.value for goal in answer.goals]


def sign(goal):
    return -1 if goal.objective in (Objective.THROUGHPUT, Objective.DEADLINE) else 1


@settings(max_examples=50, deadline=None)
@given(models(required=st.booleans()), orders)
def test_the_exact_answer_is_the_enumerated_one_for_every_order_of_objectives(model, order):
    answer = solve_exactly(model, order, explain=False)
    expected = best(model, order)
    if expected is None:
        assert isinstance(answer, Infeasible)
        return
    assert values(answer) == expected
    assert answer.optimal
    nodes = {node.id: node for node in model.nodes}
    tasks = {task.id: task for task in model.tasks}
    taken = [(tasks[p.task], (nodes[p.node], p.option)) for p in answer.placements]
    assert taken in list(assignments(model))
    assert [worth(taken, objective) for objective in order] == expected
    with_ties = best(model, [*order, Objective.ENERGY])
    assert worth(taken, Objective.ENERGY) == with_ties[-1]


@settings(max_examples=15, deadline=None)
@given(models(required=st.booleans()), orders, st.randoms(use_true_random=False))
def test_the_order_in_which_a_model_is_told_changes_nothing(model, order, chance):
    def shuffled(parts):
        return tuple(chance.sample(parts, len(parts)))

    again = Model(
        tasks=shuffled(model.tasks), nodes=shuffled(model.nodes), options=shuffled(model.options)
    )
    assert solve_exactly(again, order) == solve_exactly(model, order)
    assert solve_by_classes(again, order) == solve_by_classes(model, order)


@settings(max_examples=40, deadline=None)
@given(models(), orders)
def test_the_greedy_is_no_better_than_the_exact_and_that_within_every_bound(model, order):
    exact = solve_exactly(model, order, explain=False)
    problem = formulate(model, grouped=False)
    greedy = Packing(problem)
    fill(greedy, [problem.prices(objective) for objective in order])
    assert [greedy.value(problem.prices(objective)) for objective in order] >= values(exact)
    counted = solve_by_classes(model, order)
    assert values(counted) >= values(exact)
    for answer in (exact, counted):
        first = answer.goals[0]
        assert sign(first) * first.bound <= values(exact)[0]
        assert all(sign(goal) * goal.bound <= sign(goal) * goal.value for goal in answer.goals)


@settings(max_examples=40, deadline=None)
@given(models(required=st.just(True)))
def test_why_there_is_no_answer_is_true_and_the_least_that_is(model):
    for answer, grouped in (
        (solve_exactly(model, explain=True), False),
        (solve_by_classes(model, explain=True), True),
    ):
        if not isinstance(answer, Infeasible):
            assert grouped or best(model, [Objective.COST]) is not None
            continue
        assert best(model, [Objective.COST]) is None
        if grouped:
            continue  # a name stands for all that are alike
        others = set(constraints(model, grouped=False)) - set(answer.because)
        assert best(model, [Objective.COST], without=others) is None
        for one in answer.because:
            assert best(model, [Objective.COST], without={*others, one}) is not None


@settings(max_examples=25, deadline=None)
@given(models(), orders)
def test_a_constraint_is_said_to_bind_where_enumeration_is_better_without_it(model, order):
    answer = solve_exactly(model, order)
    now = best(model, order)
    for finding in answer.findings:
        without = best(model, order, without={finding.constraint})
        assert finding.binds == (without < now), finding
    kinds = {finding.constraint.kind for finding in answer.findings}
    assert kinds == {constraint.kind for constraint in constraints(model, grouped=False)}


# --- what is alike -------------------------------------------------------------------------------


def a_fleet(nodes, tasks, gpus=8):
    return Model(
        tasks=tuple(
            Task(id=f"{kind}-{number:04}", kind=kind, needs={"gpu": 3 if kind == "big" else 1})
            for kind in ("big", "small")
            for number in range(tasks)
        ),
        nodes=tuple(
            Node(id=f"n{number:03}", kind="n", rates={"gpu": gpus}, opening_energy_j=100)
            for number in range(nodes)
        ),
        options=(
            Option(task="big", node="n", value=4, energy_j=30),
            Option(task="small", node="n", value=1, energy_j=10),
        ),
    )


def test_a_fleet_is_solved_by_what_is_alike_and_the_bound_says_how_near_it_came():
    model = a_fleet(nodes=300, tasks=2_000)
    answer = solve(model)
    assert answer.solver == "by classes"
    load = {}
    for placement in answer.placements:
        size = 3 if placement.task.startswith("big") else 1
        load[placement.node] = load.get(placement.node, 0) + size
    assert set(load.values()) == {8}
    # On 8 GPUs fit 2 big and 2 small ones, worth 10; that energy is 80, and 100 for the idle node.
    assert [(goal.value, goal.optimal) for goal in answer.goals] == [(3_000, True), (54_000, True)]


def test_a_fleet_opens_no_more_nodes_than_it_needs():
    answer = solve_by_classes(a_fleet(nodes=300, tasks=100))
    assert len({placement.node for placement in answer.placements}) == 50
    assert answer.optimal


def test_a_fleet_that_must_place_too_much_is_told_by_kind():
    model = a_fleet(nodes=2, tasks=5)
    model = replace(model, tasks=tuple(replace(task, required=True) for task in model.tasks))
    assert str(solve_by_classes(model)) == (
        "cannot all hold: big-0000 and 4 like it must be placed;"
        " capacity of n000 and of 1 like it (gpu: 8)"
    )


def test_sums_that_fit_prove_nothing():
    """4 + 4 + 2 GPUs on two nodes of 5: all 10 of 10, yet one GPU is left on each."""
    wants = {"t0": 4, "t1": 4, "t2": 2}
    model = Model(
        tasks=tuple(
            Task(id=id, kind=f"of-{gpus}", needs={"gpu": gpus}, required=True)
            for id, gpus in wants.items()
        ),
        nodes=tuple(Node(id=f"n{n}", kind="n", rates={"gpu": 5}) for n in range(2)),
        options=tuple(Option(task=f"of-{gpus}", node="n", value=1) for gpus in (4, 2)),
    )
    assert isinstance(solve_exactly(model), Infeasible)
    assert isinstance(solve_by_classes(model), Undecided)


def test_without_time_the_greedy_answers_and_says_that_nothing_is_proved():
    model = a_fleet(nodes=20, tasks=100)
    answer = solve_exactly(model, time_limit_s=0.0, explain=False)
    assert len(answer.placements) > 40
    assert not answer.optimal


# --- models that make no sense -------------------------------------------------------------------

TASK, NODE = Task(id="t", needs={"gpu": 1}), Node(id="n", rates={"gpu": 1})
OPTION = Option(task="t", node="n", value=1)


@pytest.mark.parametrize(
    ("tasks", "nodes", "options", "message"),
    [
        ([TASK, TASK], [NODE], [], "task 't' is there twice"),
        ([TASK], [NODE, NODE], [], "node 'n' is there twice"),
        ([TASK], [NODE], [OPTION, OPTION], "option 't on n at 0 s' is there twice"),
        ([TASK], [NODE], [replace(OPTION, task="x")], "the option of 'x' on 'n' is of no task"),
        ([TASK], [NODE], [replace(OPTION, node="x")], "the option of 't' on 'x' is on no node"),
        (
            [TASK], [NODE], [replace(OPTION, energy_j=float("nan"))],
            "the option of 't' on 'n' has the energy_j nan",
        ),
        ([replace(TASK, needs={"gpu": -1})], [NODE], [], "task 't' needs gpu -1"),
        ([TASK], [replace(NODE, rates={"gpu": float("inf")})], [], "node 'n' has gpu inf"),
        (
            [TASK], [replace(NODE, amounts={"gpu": 1})], [],
            "node 'n' has gpu both as a rate and as an amount",
        ),
    ],
)  # fmt: skip
def test_a_model_that_makes_no_sense_says_where(tasks, nodes, options, message):
    with pytest.raises(InvalidRequest) as refused:
        Model(tasks=tuple(tasks), nodes=tuple(nodes), options=tuple(options))
    assert refused.value.message == message
    assert refused.value.hint


def test_objectives_are_known_ones_and_at_least_one():
    with pytest.raises(InvalidRequest, match="'speed' is not a valid Objective"):
        solve(toy(), ["speed"])
    with pytest.raises(InvalidRequest, match="there is no objective"):
        solve(toy(), [])


def test_more_choices_than_a_program_can_have_are_refused(monkeypatch):
    monkeypatch.setattr("leptonai.core.scheduler.optimize.problem.MAX_CHOICES", 3)
    with pytest.raises(TooLarge, match="more than 3 ways"):
        solve(toy())


# --- the handbook ------------------------------------------------------------------------------


PAGE = Path(__file__).parents[2] / "docs" / "howto" / "optimisation.md"
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```", PAGE.read_text(), re.M | re.S
)


@pytest.mark.parametrize(("program", "printed"), EXAMPLES, ids=["tasks", "shares"])
def test_the_examples_of_the_handbook_print_what_they_say(capsys, program, printed):
    exec(program, {})
    assert capsys.readouterr().out == printed
