"""What can be said of a gang that waits, or would: where and when, why not now, what instead."""

from dataclasses import dataclass

from leptonai.core.scheduler.alternatives import Alternative, alternatives
from leptonai.core.scheduler.forecast import History, Start, forecast
from leptonai.core.scheduler.index import Index
from leptonai.core.scheduler.placement import decide
from leptonai.core.scheduler.policy import DEFAULT, Policy
from leptonai.core.scheduler.values import Place, Preempt, Reason, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Either `place` says where it starts now, or the rest why it does not."""

    place: Place | None = None
    preempts: tuple[Preempt, ...] = ()  # what has to yield to it
    reason: Reason | None = None
    start: Start | None = None
    alternatives: tuple[Alternative, ...] = ()


def look_ahead(
    snapshot: Snapshot, gang: str, policy: Policy = DEFAULT, history: History | None = None
) -> Outlook:
    """
    Args:
        gang: of the snapshot's queue.
        history: how long things run.
    """
    index = Index.of(snapshot, policy)
    plan = decide(index, snapshot.now_ms, explain=True)
    for place in plan.places:
        if place.gang == gang:
            return Outlook(
                place=place, preempts=tuple(each for each in plan.preempts if each.by == gang)
            )
    waits = [wait.gang for wait in plan.waits]
    return Outlook(
        reason=next(wait.because for wait in plan.waits if wait.gang == gang),
        start=forecast(snapshot, gang, policy, history, waits=waits),
        alternatives=tuple(alternatives(index, index.waiting[gang], snapshot.now_ms)),
    )
