"""What may be chosen about the scheduler: who goes first, who may pass, who yields, where to."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
OVERDUE_MS = 10 * 60 * 1000


class Order(StrEnum):
    """Who goes first among gangs of one priority; ties go to the longer queued, then the id."""

    ARRIVAL = "arrival"
    SHORTEST = "shortest"  # remaining time
    LEAST_WORK = "least_work"  # remaining time × GPUs
    LEAST_ATTAINED = "least_attained"  # two levels of attained GPU time, by arrival inside
    FEEDBACK = "feedback"  # many such levels, each four times as long as the one before
    DEADLINE = "deadline"  # the earliest
    ADAPTIVE = "adaptive"  # ours: small work first, but only for so long; see Policy.patience_ms


class Passing(StrEnum):
    """May a gang pass one before it for which there is no room?"""

    NEVER = "never"
    ALWAYS = "always"
    WINDOW = "window"  # until that one is overdue: then room is kept for it
    # Only where it does not delay, by the estimates, the first that waits (EASY); or, where gangs
    # become overdue, the one that is overdue first: it starts by then, or as soon as it can.
    RESERVED = "reserved"


class Yielding(StrEnum):
    """Which preemptible gangs yield to one that goes before them?"""

    NEVER = "never"
    PRIORITY = "priority"  # those of lower priority
    ORDER = "order"  # all that go after it: time-sharing


class Choice(StrEnum):
    """Which of the nodes with room is taken."""

    OURS = "ours"
    BEST_FIT = "best_fit"
    FGD = "fgd"
    PACKING = "packing"
    CLUSTERING = "clustering"
    DOT_PRODUCT = "dotprod"
    RANDOM = "random"
    ENERGY = "energy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    order: Order = Order.ADAPTIVE
    passing: Passing = Passing.WINDOW
    yielding: Yielding = Yielding.PRIORITY
    choice: Choice = Choice.OURS
    # Who has waited for longer goes before its equals; None: nobody, as in most of the literature.
    overdue_after_ms: int | None = OVERDUE_MS
    # Of Order.ADAPTIVE: no gang goes before one that came so much earlier, however small it is.
    patience_ms: int = 25 * DAY_MS
    # Who has used less GPU time goes first, if no durations are known.
    first_level_gpu_ms: int = HOUR_MS // 2
    correct_estimates: bool = False  # by what ended jobs teach: see Experience
    min_run_ms: int = 0  # a gang that has just started does not yield
    fair: bool = False  # users take turns by weighted use before the order counts
    restart_ms: int = 0  # what a stop and a new start cost a gang: it grows where that pays
    promising: bool = False  # room is set aside for deadlines (see `deadlines`)
    seed: int = 0  # of Choice.RANDOM


DEFAULT = Policy(fair=True, min_run_ms=60_000, restart_ms=60_000)


def _published(
    order: Order, passing: Passing, yielding: Yielding, first_level_gpu_ms: int = HOUR_MS // 2
) -> Policy:
    return Policy(
        order=order,
        passing=passing,
        yielding=yielding,
        overdue_after_ms=None,
        first_level_gpu_ms=first_level_gpu_ms,
    )


# Time is shared: who has less work goes first, and what has to yield for it goes on later.
OURS = Policy(
    order=Order.ADAPTIVE,
    passing=Passing.ALWAYS,
    yielding=Yielding.ORDER,
    overdue_after_ms=None,
    correct_estimates=True,
    min_run_ms=60_000,
)

# Nothing ever yields: the shortest first, and room is kept ahead for who will be overdue first.
OURS_UNINTERRUPTED = Policy(
    order=Order.SHORTEST,
    passing=Passing.RESERVED,
    yielding=Yielding.NEVER,
    overdue_after_ms=18 * DAY_MS,
    correct_estimates=True,
)

QUEUE_POLICIES: Mapping[str, Policy] = {
    "ours": OURS,
    "ours_uninterrupted": OURS_UNINTERRUPTED,
    "fifo": _published(Order.ARRIVAL, Passing.NEVER, Yielding.NEVER),
    "easy": _published(Order.ARRIVAL, Passing.RESERVED, Yielding.NEVER),
    "sjf": _published(Order.SHORTEST, Passing.ALWAYS, Yielding.NEVER),
    "srtf": _published(Order.SHORTEST, Passing.ALWAYS, Yielding.ORDER),
    "srsf": _published(Order.LEAST_WORK, Passing.ALWAYS, Yielding.ORDER),
    "las": _published(Order.LEAST_ATTAINED, Passing.ALWAYS, Yielding.ORDER, 8 * HOUR_MS),
    "mlfq": _published(Order.FEEDBACK, Passing.ALWAYS, Yielding.ORDER),
    "edf": _published(Order.DEADLINE, Passing.ALWAYS, Yielding.ORDER),
    "promise": Policy(
        order=Order.LEAST_WORK,
        passing=Passing.ALWAYS,
        yielding=Yielding.ORDER,
        overdue_after_ms=None,
        promising=True,
    ),
}
