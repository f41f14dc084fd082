"""What comes of a look at something that has replicas."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from leptonai.core.records import Event, Replica, Workload

W = TypeVar("W", bound=Workload)


@dataclass(frozen=True, slots=True)
class Step(Generic[W]):
    """What an owner and its replicas should become, all at once or not at all."""

    owner: W
    replicas: tuple[Replica, ...] = ()  # new or changed
    events: tuple[Event, ...] = ()
    wake_at_ms: int | None = None  # look again then, if nothing changes before


def new_or_changed(before: Iterable[Replica], after: Iterable[Replica]) -> tuple[Replica, ...]:
    old = {r.id: r for r in before}
    return tuple(r for r in after if old.get(r.id) is not r)
