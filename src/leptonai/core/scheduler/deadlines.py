"""Deadlines: what can be promised, and who must run now so that every promise is kept.

A promise is room in a calendar, GPUs over time, that suffices for what a gang has left. `admit`
finds such room as late as possible before the deadline, or says by when there is some; `renew`
follows what has happened since; `due` says who must run now. Until a gang is due it runs only
where it comes by its rank, so short work flows past it; from then on it goes first. So a promise
holds as long as durations are no longer than told, machines do not fail and nothing of higher
priority comes, and what runs early only gives room back.

A large gang's promise could cost many small gangs theirs. So room is left for the smaller ones that
are still to come: as much as they took of late (see `Arrivals`).

An elastic gang is promised the fewest workers that suffice, as in Gu et al., "ElasticFlow: An
Elastic Serverless Training Platform for Distributed Deep Learning", ASPLOS 2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from leptonai.core.scheduler.calendar import Calendar
from leptonai.core.scheduler.elastic import Curve
from leptonai.core.scheduler.index import Change, Index
from leptonai.core.scheduler.promises import FOREVER_MS, Promises, Slot, Work
from leptonai.core.scheduler.values import Gang, Reason, Running, Snapshot, WaitCode

MAX_NAMED = 10  # gangs that an answer names


# --- what is answered ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admitted:
    """The deadline can be met, and room for that is set aside."""

    promises: Promises


@dataclass(frozen=True, slots=True)
class Refused:
    """The deadline is not promised; the gang may still meet it, behind those to whom it is."""

    earliest_ms: int | None  # a deadline that could be promised now; None: no one
    because: Reason
    promises: Promises  # remembers that it was asked


# --- what is decided -----------------------------------------------------------------------------


def admit(
    snapshot: Snapshot, gang: Gang, promises: Promises, *, restart_ms: int = 0
) -> Admitted | Refused:
    """Whether the deadline of a gang that has just been submitted can be promised.

    Args:
        promises: renewed for this snapshot.
        restart_ms: what a gang loses each time it stops and starts again.
    """
    assert gang.deadline is not None, gang.id
    if gang.remaining_ms is None:
        text = "its deadline cannot be promised without an estimate of how long it runs"
        return Refused(None, Reason(WaitCode.DEADLINE, text), promises)
    calendar = Calendar(snapshot, promises, restart_ms)
    work = Work.of(gang)
    promises = replace(promises, arrivals=promises.arrivals.and_one(work, snapshot.now_ms))
    calendar.arrivals = promises.arrivals
    if calendar.promise(work) or calendar.promise_all_anew(work):
        return Admitted(replace(promises, slots=calendar.slots))
    earliest_ms = calendar.earliest_ms(work)
    return Refused(earliest_ms, _too_late(work, earliest_ms, snapshot.now_ms, calendar), promises)


def renew(snapshot: Snapshot, promises: Promises, *, restart_ms: int = 0) -> Promises:
    """The promises as they stand now: those kept are dropped, work that is done gives its room
    back, and the others get new room where machines have gone, or work takes longer than told.

    Room that is left goes to gangs that were refused, or whose deadline is soft, smallest first.
    Where promises are missing (a first call), all hard deadlines are promised as far as possible.
    """
    calendar = Calendar(snapshot, promises, restart_ms)
    calendar.mend()
    calendar.offer()
    return replace(promises, slots=calendar.slots)


def due(promises: Promises, by_ms: int) -> dict[str, Slot]:
    """The gangs that must run by then, and the slot each must have, in the order they need it.

    Those whose slots have begun fit together, always. A gang that is due soon and runs had better
    go on: it would only come back.
    """
    firsts = ((id, slots[0]) for id, slots in promises.slots.items() if slots)
    soon = [(id, slot) for id, slot in firsts if slot.from_ms <= by_ms]
    return dict(sorted(soon, key=lambda item: (item[1].from_ms, item[0])))


def next_due_ms(promises: Promises, now_ms: int, has: Mapping[str, int]) -> int | None:
    """When the next gang becomes due that does not run by then, or with too few workers.

    Args:
        has: the workers of each gang that runs.
    """
    return min(
        (
            slot.from_ms
            for id, slots in promises.slots.items()
            for slot in slots
            if slot.from_ms > now_ms and slot.workers > has.get(id, 0)
        ),
        default=None,
    )


def due_from_ms(promises: Promises, gang_id: str) -> int | None:
    """From when on a gang goes before all others of its priority; None: nothing is promised."""
    slots = promises.slots.get(gang_id)
    return slots[0].from_ms if slots else None


def keep(
    index: Index, promises: Promises, now_ms: int, *, restart_ms: int = 0
) -> tuple[Promises, Change]:
    """The promises renewed, and what the index has to be told before the next decision: who is due
    from when on, and who cannot meet its deadline any more."""
    promises = renew(snapshot_of(index, now_ms), promises, restart_ms=restart_ms)
    queued, running = [], []
    for id in sorted(index.dated):
        runs = index.running.get(id)
        gang = runs.gang if runs is not None else index.waiting[id]
        assert gang.deadline is not None
        ran_ms = now_ms - (runs.started_at_ms or now_ms) if runs is not None else 0
        deadline = replace(
            gang.deadline,
            due_from_ms=due_from_ms(promises, id),
            lost=not can_be_met(gang, now_ms, ran_ms),
        )
        if deadline != gang.deadline:
            gang = replace(gang, deadline=deadline)
            if runs is not None:
                running.append(replace(runs, gang=gang))
            else:
                queued.append(gang)
    return promises, Change(queued=tuple(queued), running=tuple(running))


def snapshot_of(index: Index, now_ms: int) -> Snapshot:
    """As much of an index as deadlines are decided by."""
    dated = [index.running.get(id) or index.waiting[id] for id in sorted(index.dated)]
    staying = [r for id, r in index.running.items() if id not in index.dated]
    return Snapshot(
        now_ms=now_ms,
        nodes=index.nodes.machines.views,
        running=(*staying, *(one for one in dated if isinstance(one, Running))),
        queue=tuple(one for one in dated if isinstance(one, Gang)),
    )


def leaves_promises(
    snapshot: Snapshot, gang: Gang, promises: Promises, *, restart_ms: int = 0
) -> bool:
    """Whether a gang that will not yield may start now: promised room stays free, all the while it
    runs; for ever, if nobody knows how long that is."""
    calendar = Calendar(snapshot, promises, restart_ms)
    work = Work.of(gang)
    now_ms = snapshot.now_ms
    least = work.curve.workers[0]
    ends_ms = FOREVER_MS
    if gang.remaining_ms is not None:
        ends_ms = now_ms + ceil(work.left_ms / work.curve.speeds[0])
    return calendar.room(work).least(now_ms, ends_ms) >= least * work.width


def can_be_met(gang: Gang, now_ms: int, ran_ms: int = 0) -> bool:
    """Whether a gang could meet its deadline if it ran from now on with its best number of workers.

    Where deadlines matter, those that can go before those that cannot any more. A gang without a
    deadline, or without an estimate, can.
    """
    if gang.deadline is None or gang.remaining_ms is None:
        return True
    left_ms = max(0, gang.remaining_ms - ran_ms) / Curve.of(gang).speeds[-1]
    return now_ms + left_ms <= gang.deadline.at_ms


def _too_late(work: Work, earliest_ms: int | None, now_ms: int, calendar: Calendar) -> Reason:
    shortest_ms = ceil(work.fastest_ms)
    data: dict[str, float | int | str | list[str]] = {
        "deadline_ms": work.until_ms,
        "takes_ms": shortest_ms,
    }
    if now_ms + shortest_ms > work.until_ms:
        text = "it takes longer than until its deadline, even if it starts at once"
    else:
        others = sorted(calendar.slots, key=lambda other: calendar.slots[other][0].from_ms)
        data["promised_to"] = others[:MAX_NAMED]
        text = (
            f"until its deadline the room is promised to {len(others)} others, or is left for"
            " smaller ones that are to come"
        )
    if earliest_ms is not None:
        data["earliest_ms"] = earliest_ms
    return Reason(WaitCode.DEADLINE, text, data)
