"""What may be chosen about the scheduler: who goes first, who may pass, who yields, where to."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

HOUR_MS = 3_600_000
OVERDUE_MS = 10 * 60 * 1000


class Order(StrEnum):
    """Who goes first among gangs of one priority; ties go to the longer queued, then the id."""

    ARRIVAL = "arrival"
    SHORTEST = "shortest"  # remaining time
    LEAST_WORK = "least_work"  # remaining time × GPUs
    LEAST_ATTAINED = "least_attained"  # two levels of attained GPU time, by arrival inside
    FEEDBACK = "feedback"  # many such levels
    DEADLINE = "deadline"  # the earliest
    ADAPTIVE = "adaptive"  # ours: takes estimates where there are any, else attained service


class Passing(StrEnum):
    """May a gang pass one before it for which there is no room?"""

    NEVER = "never"
    ALWAYS = "always"
    WINDOW = "window"  # until that one is overdue: then room is kept for it
    RESERVED = "reserved"  # only where it does not delay the first that waits (EASY)


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
    overdue_after_ms: int = OVERDUE_MS  # who has waited for longer goes before its equals
    min_run_ms: int = 0  # a gang that has just started does not yield
    fair: bool = False  # users take turns by weighted use before the order counts
    seed: int = 0  # of Choice.RANDOM


DEFAULT = Policy(fair=True, min_run_ms=60_000)

QUEUE_POLICIES: Mapping[str, Policy] = {
    "fifo": Policy(order=Order.ARRIVAL, passing=Passing.NEVER, yielding=Yielding.NEVER),
    "easy": Policy(order=Order.ARRIVAL, passing=Passing.RESERVED, yielding=Yielding.NEVER),
    "sjf": Policy(order=Order.SHORTEST, passing=Passing.ALWAYS, yielding=Yielding.NEVER),
    "srtf": Policy(order=Order.SHORTEST, passing=Passing.ALWAYS, yielding=Yielding.ORDER),
    "srsf": Policy(order=Order.LEAST_WORK, passing=Passing.ALWAYS, yielding=Yielding.ORDER),
    "las": Policy(order=Order.LEAST_ATTAINED, passing=Passing.ALWAYS, yielding=Yielding.ORDER),
    "mlfq": Policy(order=Order.FEEDBACK, passing=Passing.ALWAYS, yielding=Yielding.ORDER),
    "edf": Policy(order=Order.DEADLINE, passing=Passing.ALWAYS, yielding=Yielding.ORDER),
}
