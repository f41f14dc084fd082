"""What every action does: it commits, and tries again where somebody else was faster."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from leptonai.control.owners import removal
from leptonai.control.requests import check_labels
from leptonai.control.world import World
from leptonai.core.lifecycle.step import Step, W
from leptonai.core.records import (
    Endpoint,
    Event,
    Ingress,
    RayCluster,
    Record,
    Workload,
    event_of,
)
from leptonai.errors import AlreadyExists, InvalidRequest, Unavailable, VersionConflict
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


async def put(world: World, record: R, *others: Change) -> R:
    """Commit it, and others together with it."""
    written, *_ = await world.commit(Put(record), *others)
    assert type(written) is type(record)
    return written


async def put_first(world: World, record: R) -> R:
    """As `put`, while insisting: where somebody else made it meanwhile, that is read instead."""
    try:
        return await put(world, record)
    except AlreadyExists as error:
        raise VersionConflict(error.message, hint=error.hint) from None


async def put_new(world: World, step: Step[W], *events: Event) -> W:
    """What has replicas, with the first of them."""
    now_ms = step.owner.created_at_ms
    replicas = (Put(replica) for replica in step.replicas)
    return await put(world, step.owner, *replicas, *told(now_ms, *events, *step.events))


@contextmanager
def name_taken(message: str, *, hint: str) -> Iterator[None]:
    """Say so in words that name what was asked for."""
    try:
        yield
    except AlreadyExists as error:
        raise AlreadyExists(message, hint=hint, existing_id=error.existing_id) from None


async def remove(world: World, owner: Workload, because: str, *, spare_files: bool = False) -> None:
    now_ms = world.clock.now_ms()
    await world.commit(
        *(await removal(world.store, owner, now_ms, spare_files=spare_files)),
        *told(now_ms, event_of(owner, "Deleted", because)),
    )


def told(now_ms: int, *events: Event) -> list[Change]:
    return [Emit(replace(event, at_ms=event.at_ms or now_ms)) for event in events]


def with_metadata(record: R, patch: Mapping[str, Any]) -> R:
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
    labels = metadata.labels or {}
    check_labels(labels)
    return replace(record, labels=labels, visibility=metadata.visibility or "")
