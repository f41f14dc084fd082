"""Which task goes where for the most value or the least energy, and a proof of how good that is.

A library of its own: describe a `Model`, call `solve`. Where GPUs of several types are shared over
time, describe `Claim`s and call `fairest`, `most_progress` or `cheapest`. Needs numpy and scipy
when it solves, not when it is imported.
"""

from leptonai.core.scheduler.optimize.model import (
    Answer,
    Constraint,
    ConstraintKind,
    Finding,
    Goal,
    Infeasible,
    Model,
    Node,
    Objective,
    Option,
    Placement,
    Task,
    Undecided,
)
from leptonai.core.scheduler.optimize.shares import (
    Claim,
    Shares,
    cheapest,
    fair_share,
    fairest,
    most_progress,
    relative,
)
from leptonai.core.scheduler.optimize.solving import (
    EXACT_CHOICES,
    TIME_LIMIT_S,
    solve,
    solve_by_classes,
    solve_exactly,
)

__all__ = [
    "EXACT_CHOICES",
    "TIME_LIMIT_S",
    "Answer",
    "Claim",
    "Constraint",
    "ConstraintKind",
    "Finding",
    "Goal",
    "Infeasible",
    "Model",
    "Node",
    "Objective",
    "Option",
    "Placement",
    "Shares",
    "Task",
    "Undecided",
    "cheapest",
    "fair_share",
    "fairest",
    "most_progress",
    "relative",
    "solve",
    "solve_by_classes",
    "solve_exactly",
]
