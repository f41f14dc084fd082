"""Datasets and models: registered, found and deleted by name and version."""

import asyncio
from typing import Any

import msgspec
from msgspec.structs import replace

from leptonai.blobs.manifest import objects_of
from leptonai.control.actions.committing import insisting, put_first
from leptonai.control.requests import check_tree, name_and_labels
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import Dataset, Model
from leptonai.errors import InvalidRequest, NotFound, TooLarge
from leptonai.ports.store import Put, Query
from leptonai.security.permissions import may_read, require
from leptonai.spec.artifacts import LATEST, Artifact, ArtifactSpec
from leptonai.spec.names import check_name

MAX_ATTRIBUTES_BYTES = 256 << 10
MAX_ALIASES = 32  # of one version
ASKED_AT_ONCE = 64  # objects, of the blob store

ArtifactRecord = Dataset | Model
ArtifactKind = type[Dataset] | type[Model]


async def register_artifact(
    world: World, principal: Principal, workspace: str, kind: ArtifactKind, asked: Artifact
) -> ArtifactRecord:
    """The next version of a name; the newest one itself if it is the same to the last byte."""
    word = word_of(kind)
    require(principal, Action.CREATE, Resource(kind=word, workspace=workspace))
    name, labels = name_and_labels(asked.metadata, word)
    if asked.aliases:
        raise InvalidRequest("aliases: cannot be given here", hint="Set them on the version.")
    await check_tree(world, asked.spec.digest, "spec.digest")
    if asked.spec.layout == "manifest":
        await _check_objects(world, asked.spec.digest)
    else:
        await _check_size(world, asked.spec)
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
        return await put_first(world, fresh)

    return await insisting(change)


async def find_artifact(
    world: World, principal: Principal, workspace: str, kind: ArtifactKind, reference: str
) -> ArtifactRecord:
    """`NAME` and `NAME@latest` are its newest version, `NAME@3` the third, `NAME@best` the one that
    has this alias."""
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
        and (version in ("", LATEST, str(each.number)) or version in each.aliases)
        and may_read(principal, each)
    ]
    if version == LATEST:
        found = found[-1:]
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
            require(principal, Action.DELETE, each)
        now_ms = world.clock.now_ms()
        await world.commit(
            *(Put(replace(each, deleted=True, modified_at_ms=now_ms)) for each in found)
        )

    await insisting(change)


async def set_alias(
    world: World,
    principal: Principal,
    workspace: str,
    kind: ArtifactKind,
    reference: str,
    alias: str,
) -> ArtifactRecord:
    """From now on NAME@ALIAS is this version, and no other."""
    check_name(alias, "alias")
    if alias == LATEST:
        raise InvalidRequest(
            f"{LATEST!r} always is the newest version", hint="Choose another alias."
        )

    async def change() -> ArtifactRecord:
        meant = await find_artifact(world, principal, workspace, kind, reference)
        require(principal, Action.UPDATE, meant)
        others = await _versions(world, workspace, kind, meant.name)
        now_ms = world.clock.now_ms()
        changes = [
            replace(each, aliases=_with(each, alias, each.id == meant.id), modified_at_ms=now_ms)
            for each in others
            if (alias in each.aliases) != (each.id == meant.id)
        ]
        for each in changes:
            if len(each.aliases) > MAX_ALIASES:
                raise InvalidRequest(
                    f"{each.id} has {MAX_ALIASES} aliases already", hint="Remove one first."
                )
        await world.commit(*(Put(each) for each in changes))
        return await find_artifact(world, principal, workspace, kind, meant.id)

    return await insisting(change)


async def drop_alias(
    world: World,
    principal: Principal,
    workspace: str,
    kind: ArtifactKind,
    reference: str,
    alias: str,
) -> None:
    """The version stays; only this name of it goes."""

    async def change() -> None:
        meant = await find_artifact(world, principal, workspace, kind, reference)
        require(principal, Action.UPDATE, meant)
        if alias not in meant.aliases:
            raise NotFound(
                f"{meant.id} has no alias {alias[:100]!r}",
                hint=f"It has {', '.join(meant.aliases) or 'none'}.",
            )
        now_ms = world.clock.now_ms()
        await world.commit(
            Put(replace(meant, aliases=_with(meant, alias, False), modified_at_ms=now_ms))
        )

    await insisting(change)


def word_of(kind: ArtifactKind) -> Any:
    return "dataset" if kind is Dataset else "model"


def _with(record: ArtifactRecord, alias: str, has: bool) -> tuple[str, ...]:
    return tuple(sorted({*record.aliases, alias} if has else {*record.aliases} - {alias}))


async def _check_size(world: World, spec: ArtifactSpec) -> None:
    size = await world.blobs.size(spec.digest)
    if spec.size_bytes != size:
        raise InvalidRequest(
            f"spec.size_bytes: {spec.size_bytes}, and the blob has {size}",
            hint="Give the size of the blob in bytes.",
        )


async def _check_objects(world: World, manifest: str) -> None:
    """A version is there when all of it is. To be asked for also keeps an object from being
    collected until the record that refers to it is written."""
    objects = await objects_of(world.blobs, manifest)
    for at in range(0, len(objects), ASKED_AT_ONCE):
        some = objects[at : at + ASKED_AT_ONCE]
        there = await asyncio.gather(*(world.blobs.exists(digest) for digest in some))
        for digest, found in zip(some, there, strict=True):
            if not found:
                raise InvalidRequest(
                    f"spec.digest: the object {digest} of the manifest is not here",
                    hint="Upload the objects, then the manifest, then register the version.",
                )


async def _versions(
    world: World, workspace: str, kind: ArtifactKind, name: str
) -> list[ArtifactRecord]:
    found: list[ArtifactRecord] = list(
        await world.store.find(kind, Query(workspace=workspace, name=name))
    )
    return sorted(found, key=lambda each: each.number)
