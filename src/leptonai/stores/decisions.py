"""What a commit does, decided from what is stored: the one place that knows the rules of writing.

Pure. Every store runs it, so that all of them refuse and accept the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from leptonai.core.records import Event, Record
from leptonai.errors import AlreadyExists, InvalidRequest, StaleEpoch, VersionConflict
from leptonai.ports.store import Change, Delete, Fence, Put

Key = tuple[str, str, str]  # kind, workspace, id
UniqueKey = tuple[str, str, str]  # kind, workspace, unique key


class Held(NamedTuple):
    """What is stored under a key. Deleted records are kept a while, for those who follow."""

    version: int
    deleted: bool
    unique_key: str | None


class Told(NamedTuple):
    """A record that was written, or deleted, and the seq at which followers learn of it."""

    seq: int
    key: Key
    record: Record
    deleted: bool


@dataclass(slots=True)
class Known:
    """What is stored of everything that some commits touch."""

    rows: dict[Key, Held] = field(default_factory=dict)
    holders: dict[UniqueKey, str] = field(default_factory=dict)  # the id that has the unique key
    epochs: dict[str, int] = field(default_factory=dict)  # by the name of the lease

    def take(self, decision: "Decision") -> None:
        """Know it as done."""
        self.rows.update(decision.rows)
        for unique_key, holder in decision.holders.items():
            if holder is None:
                self.holders.pop(unique_key, None)
            else:
                self.holders[unique_key] = holder


@dataclass(slots=True)
class Decision:
    """What to write for a commit, in this order."""

    told: list[Told] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    rows: dict[Key, Held] = field(default_factory=dict)
    holders: dict[UniqueKey, str | None] = field(default_factory=dict)  # None: free again

    @property
    def records(self) -> tuple[Record, ...]:
        """What `Store.commit` returns."""
        return tuple(told.record for told in self.told if not told.deleted)


def decide(changes: Sequence[Change], fence: Fence | None, known: Known, after: int) -> Decision:
    """Decide a commit whose changes get the seqs that follow `after`; `known` stays as it is.

    Raises:
        AlreadyExists, VersionConflict, StaleEpoch: as `Store.commit` promises.
    """
    if fence is not None and known.epochs.get(fence.name, 0) != fence.epoch:
        raise StaleEpoch(
            f"the lease {fence.name!r} of epoch {fence.epoch} has been taken over",
            hint="another control plane works here now; this one should stop",
        )
    decision = Decision()
    for seq, change in enumerate(changes, after + 1):
        if isinstance(change, Put):
            _put(change.record, seq, known, decision)
        elif isinstance(change, Delete):
            _delete(change.record, seq, known, decision)
        else:
            decision.events.append(replace(change.event, seq=seq))
    return decision


def key_of(record: Record) -> Key:
    return kind_of(type(record)), record.workspace, record.id


def kind_of(kind: type[Record]) -> str:
    return str(kind.__struct_config__.tag)


def unstorable(error: Exception) -> InvalidRequest:
    """What a value gets that no store can keep."""
    return InvalidRequest(
        f"a value cannot be stored: {str(error).partition(chr(10))[0]}",
        hint="text must be valid Unicode without NUL, and numbers must fit 64 bits",
    )


def _put(record: Record, seq: int, known: Known, decision: Decision) -> None:
    key = key_of(record)
    held = decision.rows.get(key) or known.rows.get(key)
    if record.version == 0:
        if held is not None:
            raise _taken(record, by=record.id)
    else:
        _check_version(record, held)
    unique_key = record.unique_key
    if unique_key is not None:
        holder = _holder((*key[:2], unique_key), known, decision)
        if holder is not None and holder != record.id:
            raise _taken(record, by=holder)
    _let_go(key, held, decision)
    if unique_key is not None:
        decision.holders[(*key[:2], unique_key)] = record.id
    version = record.version + 1
    decision.rows[key] = Held(version, False, unique_key)
    decision.told.append(Told(seq, key, replace(record, version=version, seq=seq), False))


def _delete(record: Record, seq: int, known: Known, decision: Decision) -> None:
    key = key_of(record)
    held = decision.rows.get(key) or known.rows.get(key)
    _check_version(record, held)
    _let_go(key, held, decision)
    decision.rows[key] = Held(record.version, True, None)
    decision.told.append(Told(seq, key, record, True))


def _holder(unique_key: UniqueKey, known: Known, decision: Decision) -> str | None:
    if unique_key in decision.holders:
        return decision.holders[unique_key]
    return known.holders.get(unique_key)


def _let_go(key: Key, held: Held | None, decision: Decision) -> None:
    if held is not None and held.unique_key is not None:
        decision.holders[(*key[:2], held.unique_key)] = None


def _check_version(record: Record, held: Held | None) -> None:
    if held is not None and not held.deleted and held.version == record.version:
        return
    happened = "changed" if held is not None and not held.deleted else "removed"
    raise VersionConflict(
        f"the {kind_of(type(record))} {record.name!r} was {happened} since it was read",
        hint="read it again and repeat the change",
    )


def _taken(record: Record, *, by: str) -> AlreadyExists:
    kind = kind_of(type(record))
    return AlreadyExists(
        f"the {kind} {record.name!r} already exists",
        hint=f"choose another name, or use the {kind} that has it: {by}",
        existing_id=by,
    )
