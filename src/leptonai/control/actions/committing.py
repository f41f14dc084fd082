"""What every action does: it commits, and tries again where somebody else was faster."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from leptonai.control.owners import removal
from leptonai.control.requests import check_labels
from leptonai.control.world import World
from leptonai.core.records import (
    Endpoint,
    Event,
    Ingress,
    OwnerKind,
    RayCluster,
    Record,
    Severity,
    Workload,
)
from leptonai.errors import InvalidRequest, Unavailable, VersionConflict
from leptonai.ports.store import Change, Emit, Put
from leptonai.spec import codec
from leptonai.spec.metadata import Metadata, Visibility

MAX_TRIES = 16  # of a change that others keep overtaking

T = TypeVar("T")
R = TypeVar("R", bound=Record)


async def insisting(change: Callable[[], Awaitable[T]]) -> T:
    """Read, decide and commit again while others change the same record in between."""
    for _ in range(MAX_TRIES):
        try:
            return await change()
        except VersionConflict:
            continue
    raise Unavailable(
        f"others kept changing this at the same time, {MAX_TRIES} times over",
        hint="Send the request again.",
    )


async def remove(
    world: World,
    owner: Workload,
    kind: OwnerKind,
    because: str,
    *,
    spare_files: bool = False,
) -> None:
    now_ms = world.clock.now_ms()
    await world.commit(
        *(await removal(world.store, owner, now_ms, spare_files=spare_files)),
        *told((event_of(owner, kind, "Deleted", because),), now_ms),
    )


async def put(world: World, record: R) -> R:
    (written,) = await world.commit(Put(record))
    assert type(written) is type(record)
    return written


def patched_metadata(record: Record, patch: dict[str, Any]) -> Metadata:
    """Labels and visibility merge; what else the metadata says must not differ from what it is."""
    visibility = Visibility(record.visibility) if record.visibility else None
    before = msgspec.to_builtins(Metadata(labels=record.labels, visibility=visibility))
    asked = dict(patch.get("metadata") or {})
    for field, value in asked.items():
        by_name = isinstance(record, Endpoint | RayCluster | Ingress)
        address = record.name if by_name else record.id
        fixed = {"id": address, "name": record.name, "owner": record.owner}
        if field in fixed and value != fixed[field]:
            raise InvalidRequest(
                f"metadata.{field}: cannot be changed", hint="Create a new one instead."
            )
    metadata = codec.convert(Metadata, codec.merge_patch(before, asked))
    check_labels(metadata.labels or {})
    return metadata


def event_of(record: Record, kind: OwnerKind, reason: str, message: str) -> Event:
    return Event(
        workspace=record.workspace,
        kind=kind,
        id=record.id,
        name=record.name,
        reason=reason,
        message=message,
        severity=Severity.NORMAL,
    )


def told(events: Sequence[Event], now_ms: int) -> list[Change]:
    return [Emit(replace(event, at_ms=event.at_ms or now_ms)) for event in events]
