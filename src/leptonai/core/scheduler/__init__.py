"""Where waiting gangs go: a pure function from a snapshot to a plan."""

from leptonai.core.scheduler.placement import BACKFILL_WINDOW_MS, schedule
from leptonai.core.scheduler.reasons import feasible
from leptonai.core.scheduler.values import (
    ANY_PORT,
    Assignment,
    Gang,
    Holding,
    NodeView,
    Place,
    Plan,
    Reason,
    Snapshot,
    Unmet,
    Wait,
    WaitCode,
    Worker,
)

__all__ = [
    "ANY_PORT",
    "BACKFILL_WINDOW_MS",
    "Assignment",
    "Gang",
    "Holding",
    "NodeView",
    "Place",
    "Plan",
    "Reason",
    "Snapshot",
    "Unmet",
    "Wait",
    "WaitCode",
    "Worker",
    "feasible",
    "schedule",
]
