"""Why a model has no answer, and what keeps an answer from being better: found by leaving
constraints out and asking again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leptonai.core.scheduler.optimize.model import (
    Constraint,
    ConstraintKind,
    Finding,
    Model,
    Objective,
    same,
)
from leptonai.core.scheduler.optimize.packing import Packing
from leptonai.core.scheduler.optimize.problem import constraints, formulate
from leptonai.core.scheduler.optimize.program import Level, Program

MAX_PROBED = 24  # constraints of one kind that are looked at one by one
QUESTIONS_A_CONFLICT = 50  # that the time for explaining is divided by


def conflict(model: Model, *, grouped: bool, time_limit_s: float) -> tuple[Constraint, ...]:
    """A few constraints that no assignment meets together, though it does without any one of them.

    A question that is not answered in its share of the time counts as "can be met": so what is
    returned is impossible in any case, and only perhaps not the least that is.
    """
    every = constraints(model, grouped=grouped)

    def impossible(kept: Sequence[Constraint]) -> bool:
        without = set(every) - set(kept)
        program = Program(formulate(model, grouped=grouped, without=without), whole=not grouped)
        nothing = program.problem.prices(Objective.COST)
        nothing.choices[:] = nothing.opening[:] = 0.0
        return program.minimise(
            nothing, time_limit_s=time_limit_s / QUESTIONS_A_CONFLICT
        ).infeasible

    return tuple(c for c in every if c in set(_smallest(impossible, (), every, False)))


def _smallest(
    impossible: Callable[[Sequence[Constraint]], bool],
    given: tuple[Constraint, ...],
    among: tuple[Constraint, ...],
    given_grew: bool,
) -> tuple[Constraint, ...]:
    """The part of `among` that is needed beside `given`, halved again and again: QuickXplain
    (Junker, 2004), which asks about k log(n / k) times for k of n."""
    if given_grew and impossible(given):
        return ()
    if len(among) <= 1:
        return among
    first, second = among[: len(among) // 2], among[len(among) // 2 :]
    from_second = _smallest(impossible, (*given, *first), second, bool(first))
    from_first = _smallest(impossible, (*given, *from_second), first, bool(from_second))
    return (*from_first, *from_second)


def findings(
    model: Model,
    reached: Sequence[tuple[Objective, float]],  # as prices: less is better
    *,
    grouped: bool,
    time_limit_s: float,
) -> tuple[Finding, ...]:
    """What binds: without which constraint the values reached could be better."""
    every = constraints(model, grouped=grouped)
    choices = len(formulate(model, grouped=grouped).choices)
    questions = 2 * (1 + MAX_PROBED)

    def probe(constraint: Constraint) -> Finding:
        program = Program(
            formulate(model, grouped=grouped, without=(constraint,)), whole=not grouped
        )
        each_s = time_limit_s / questions / len(reached)
        return Finding(constraint, _improves(program, reached, time_limit_s=each_s))

    found = []
    for kind in (ConstraintKind.DEADLINE, ConstraintKind.CAPACITY):
        singles = [constraint for constraint in every if constraint.kind is kind]
        if not singles:
            continue
        together = Constraint(kind=kind)
        if kind is ConstraintKind.DEADLINE and choices == len(
            formulate(model, grouped=grouped, without=(together,)).choices
        ):  # nothing was ever late
            found.append(Finding(together, False))
            continue
        together_binds = probe(together)
        if together_binds.binds is False or len(singles) > MAX_PROBED:
            found.append(together_binds)
            continue
        binding = [finding for finding in map(probe, singles) if finding.binds is not False]
        found += binding or [together_binds]
    return tuple(found)


def _improves(
    program: Program, reached: Sequence[tuple[Objective, float]], *, time_limit_s: float
) -> bool | None:
    levels: list[Level] = []
    for objective, value in reached:
        prices = program.problem.prices(objective)
        found = program.minimise(prices, keeping=levels, time_limit_s=time_limit_s)
        if found.counts is not None and found.value < value and not same(found.value, value):
            whole = not program.whole or Packing.of(program.problem, found.counts) is not None
            return True if whole else None
        if found.bound < value and not same(found.bound, value):
            return None
        levels.append(Level(prices, value))
    return False
