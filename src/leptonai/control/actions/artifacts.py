"""Datasets and models: registered, found and deleted by name and version."""

from typing import Any

import msgspec
from msgspec.structs import replace

from leptonai.control.actions.committing import insisting, put
from leptonai.control.api.context import World
from leptonai.control.requests import check_labels, check_tree
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import Dataset, Model
from leptonai.errors import AlreadyExists, InvalidRequest, NotFound, TooLarge, VersionConflict
from leptonai.ports.store import Put, Query
from leptonai.security.permissions import may_read, require, resource_of
from leptonai.spec.artifacts import Artifact
from leptonai.spec.names import check_name

MAX_ATTRIBUTES_BYTES = 256 << 10

ArtifactRecord = Dataset | Model
ArtifactKind = type[Dataset] | type[Model]


async def register_artifact(
    world: World, principal: Principal, workspace: str, kind: ArtifactKind, asked: Artifact
) -> ArtifactRecord:
    """The next version of a name; the newest one itself if it is the same to the last byte."""
    word = word_of(kind)
    require(principal, Action.CREATE, Resource(kind=word, workspace=workspace))
    name = asked.metadata.name or asked.metadata.id or ""
    check_name(name, word)
    labels = asked.metadata.labels or {}
    check_labels(labels)
    await check_tree(world, asked.spec.digest, "spec.digest")
    size = await world.blobs.size(asked.spec.digest)
    if asked.spec.size_bytes != size:
        raise InvalidRequest(
            f"spec.size_bytes: {asked.spec.size_bytes}, and the blob has {size}",
            hint="Give the size of the blob in bytes.",
        )
    if len(msgspec.json.encode(asked.spec)) > MAX_ATTRIBUTES_BYTES:
        raise TooLarge(
            "spec: is too large", hint="Keep large facts in a file of the artifact itself."
        )

    async def change() -> ArtifactRecord:
        versions = await _versions(world, workspace, kind, name)
        newest = versions[-1] if versions else None
        if newest is not None and not newest.deleted and newest.spec == asked.spec:
            return newest
        number = newest.number + 1 if newest is not None else 1
        now_ms = world.clock.now_ms()
        fresh = kind(
            workspace=workspace,
            id=f"{name}@{number}",
            name=name,
            created_at_ms=now_ms,
            modified_at_ms=now_ms,
            owner=principal.name,
            labels=labels,
            visibility=asked.metadata.visibility or "",
            spec=asked.spec,
            number=number,
        )
        try:
            return await put(world, fresh)
        except AlreadyExists as error:  # somebody else took the number meanwhile
            raise VersionConflict(error.message, hint=error.hint) from None

    return await insisting(change)


async def find_artifact(
    world: World, principal: Principal, workspace: str, kind: ArtifactKind, reference: str
) -> ArtifactRecord:
    """`NAME` is its newest version, `NAME@VERSION` that one."""
    return (await find_artifacts(world, principal, workspace, kind, reference))[-1]


async def find_artifacts(
    world: World, principal: Principal, workspace: str, kind: ArtifactKind, reference: str
) -> list[ArtifactRecord]:
    """All versions that the reference means, oldest first; at least one."""
    word = word_of(kind)
    name, _, version = reference.partition("@")
    found = [
        each
        for each in await _versions(world, workspace, kind, name)
        if not each.deleted
        and (not version or str(each.number) == version)
        and may_read(principal, word, each)
    ]
    if not found:
        raise NotFound(
            f"there is no {word} {reference[:100]!r}",
            hint=f"`leptonai {word} list` shows what there is.",
        )
    return found


async def delete_artifacts(
    world: World, principal: Principal, workspace: str, kind: ArtifactKind, reference: str
) -> None:
    """Forget one version, or all versions of a name. Their numbers are not given again."""

    async def change() -> None:
        found = await find_artifacts(world, principal, workspace, kind, reference)
        for each in found:
            require(principal, Action.DELETE, resource_of(word_of(kind), each))
        now_ms = world.clock.now_ms()
        await world.commit(
            *(Put(replace(each, deleted=True, modified_at_ms=now_ms)) for each in found)
        )

    await insisting(change)


def word_of(kind: ArtifactKind) -> Any:
    return "dataset" if kind is Dataset else "model"


async def _versions(
    world: World, workspace: str, kind: ArtifactKind, name: str
) -> list[ArtifactRecord]:
    found: list[ArtifactRecord] = list(
        await world.store.find(kind, Query(workspace=workspace, name=name))
    )
    return sorted(found, key=lambda each: each.number)
