"""Objects: files under names of the user's choice, in a private and a public bucket."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

from msgspec.structs import replace

from leptonai.control.actions.committing import insisting, put, put_first
from leptonai.control.actions.finding import with_key
from leptonai.control.world import World
from leptonai.core.access import Action, Deny, Principal, Resource, decide
from leptonai.core.records import StoredObject
from leptonai.errors import InvalidRequest, NotFound
from leptonai.ports.store import Delete, Query
from leptonai.security.permissions import may_read, require
from leptonai.spec.metadata import Visibility
from leptonai.spec.values import MAX_OBJECT_KEY_CHARS

BUCKETS = ("private", "public")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object is. What is in the private bucket only its owner and admins see."""

    workspace: str
    bucket: str
    key: str

    @property
    def name(self) -> str:
        return f"{self.bucket}/{self.key}"


def place_of(workspace: str, bucket: str, key: str) -> Place:
    """
    Raises:
        NotFound: there is no such bucket.
        InvalidRequest: that cannot be a key.
    """
    if bucket not in BUCKETS:
        raise NotFound(f"there is no bucket {bucket[:60]!r}", hint="There are private and public.")
    if not 1 <= len(key) <= MAX_OBJECT_KEY_CHARS or not key.isprintable():
        raise InvalidRequest(
            "the key is empty, too long, or not printable",
            hint=f"A key has 1 to {MAX_OBJECT_KEY_CHARS} printable characters.",
        )
    return Place(workspace, bucket, key)


async def find_object(world: World, principal: Principal, place: Place) -> StoredObject:
    found = await _find(world, place)
    if found is None or not _may_know(principal, place, found):
        raise NotFound(
            f"there is no object {place.key[:100]!r} in the {place.bucket} bucket",
            hint="Nothing was put there, or it was deleted.",
        )
    return found


async def require_put(world: World, principal: Principal, place: Place) -> None:
    """
    Raises:
        Forbidden: this principal may put nothing there.
    """
    found = await _find(world, place)
    if found is None:
        require(principal, Action.CREATE, _resource(place))
    else:
        require(principal, Action.UPDATE, _resource(place, found))


async def put_object(
    world: World, principal: Principal, place: Place, content: AsyncIterator[bytes]
) -> StoredObject:
    """The content takes the place of what was there, when all of it has come."""
    await require_put(world, principal, place)
    digest = await world.blobs.put(content)
    size = await world.blobs.size(digest)

    async def change() -> StoredObject:
        now_ms = world.clock.now_ms()
        found = await _find(world, place)
        if found is not None:
            require(principal, Action.UPDATE, _resource(place, found))
            return await put(
                world, replace(found, digest=digest, size_bytes=size, modified_at_ms=now_ms)
            )
        fresh = StoredObject(
            workspace=place.workspace,
            id=secrets.token_hex(8),
            name=place.name,
            created_at_ms=now_ms,
            modified_at_ms=now_ms,
            owner=principal.name,
            visibility=Visibility(place.bucket),
            digest=digest,
            size_bytes=size,
        )
        return await put_first(world, fresh)

    return await insisting(change)


async def delete_object(world: World, principal: Principal, place: Place) -> None:
    """Also one that is not there."""

    async def change() -> None:
        found = await _find(world, place)
        if found is None or not _may_know(principal, place, found):
            return
        require(principal, Action.DELETE, found)
        await world.commit(Delete(found))

    await insisting(change)


async def list_objects(
    world: World, principal: Principal, workspace: str, bucket: str, prefix: str
) -> list[StoredObject]:
    """By their names."""
    place = place_of(workspace, bucket, "any")
    found = await world.store.find(StoredObject, Query(workspace=workspace))
    beginning = f"{place.bucket}/{prefix}"
    seen = (each for each in found if each.name.startswith(beginning) and may_read(principal, each))
    return sorted(seen, key=lambda each: each.name)


async def _find(world: World, place: Place) -> StoredObject | None:
    return await with_key(world, place.workspace, StoredObject, place.name)


def _may_know(principal: Principal, place: Place, found: StoredObject) -> bool:
    return not isinstance(decide(principal, Action.READ, _resource(place, found)), Deny)


def _resource(place: Place, found: StoredObject | None = None) -> Resource:
    """By its name: a link is made for one before it is there."""
    return Resource(
        kind="object",
        workspace=place.workspace,
        id=place.name,
        owner=found.owner if found else "",
        private=place.bucket == Visibility.PRIVATE,
    )
