"""Where waiting gangs go: a pure function from a snapshot to a plan."""

from leptonai.core.scheduler.placement import schedule
from leptonai.core.scheduler.values import (
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
    "schedule",
]
