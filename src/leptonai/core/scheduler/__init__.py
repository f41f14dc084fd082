"""Where waiting gangs go: a pure function from a snapshot to a plan.

What decides is imported when it is first asked for: it brings numpy, and a platform that starts
should answer before that is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leptonai.core.scheduler.policy import (
    DEFAULT,
    OVERDUE_MS,
    QUEUE_POLICIES,
    Choice,
    Order,
    Passing,
    Policy,
    Yielding,
)
from leptonai.core.scheduler.values import (
    ANY_PORT,
    Assignment,
    Deadline,
    Gang,
    Holder,
    NodeView,
    Place,
    Plan,
    Power,
    Preempt,
    Quota,
    Reason,
    Resize,
    Running,
    Snapshot,
    Spare,
    Unmet,
    Wait,
    WaitCode,
    Worker,
)

if TYPE_CHECKING:
    from leptonai.core.scheduler.experience import Experience
    from leptonai.core.scheduler.index import Change, Index, advance
    from leptonai.core.scheduler.placement import decide, schedule
    from leptonai.core.scheduler.reasons import clearing, feasible
    from leptonai.core.scheduler.spares import giving_way

__all__ = [
    "ANY_PORT",
    "DEFAULT",
    "OVERDUE_MS",
    "QUEUE_POLICIES",
    "Assignment",
    "Change",
    "Choice",
    "Deadline",
    "Experience",
    "Gang",
    "Holder",
    "Index",
    "NodeView",
    "Order",
    "Passing",
    "Place",
    "Plan",
    "Policy",
    "Power",
    "Preempt",
    "Quota",
    "Reason",
    "Resize",
    "Running",
    "Snapshot",
    "Spare",
    "Unmet",
    "Wait",
    "WaitCode",
    "Worker",
    "Yielding",
    "advance",
    "clearing",
    "decide",
    "feasible",
    "giving_way",
    "schedule",
]

_HOME_OF = {
    "Change": "leptonai.core.scheduler.index",
    "Experience": "leptonai.core.scheduler.experience",
    "Index": "leptonai.core.scheduler.index",
    "advance": "leptonai.core.scheduler.index",
    "clearing": "leptonai.core.scheduler.reasons",
    "decide": "leptonai.core.scheduler.placement",
    "feasible": "leptonai.core.scheduler.reasons",
    "giving_way": "leptonai.core.scheduler.spares",
    "schedule": "leptonai.core.scheduler.placement",
}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
