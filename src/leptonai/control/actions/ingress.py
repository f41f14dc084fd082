"""Ingresses: a domain, and the endpoints that share its requests."""

import re
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from leptonai.control.actions.committing import (
    insisting,
    name_taken,
    put,
    with_metadata,
)
from leptonai.control.actions.finding import known_to, with_key
from leptonai.control.domains import check_domain
from leptonai.control.requests import name_and_labels
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import Endpoint, Ingress
from leptonai.errors import InvalidRequest, NotFound
from leptonai.ports.store import Delete, Query
from leptonai.security.permissions import may_read, require
from leptonai.spec import codec
from leptonai.spec.ingress import IngressEndpoint, IngressSpec, LeptonIngress
from leptonai.spec.names import MAX_NAME_CHARS

SUFFIX_CHARS = 4


async def create_ingress(
    world: World, principal: Principal, workspace: str, asked: LeptonIngress
) -> Ingress:
    """Under the name that was asked for, or one that is made from the domain."""
    require(principal, Action.CREATE, Resource(kind="ingress", workspace=workspace))
    made = _name_from(asked.spec.domain_name)
    name, labels = name_and_labels(asked.metadata, "ingress", made)
    await _check(world, principal, workspace, name, asked.spec)
    now_ms = world.clock.now_ms()
    with name_taken(
        f"there is an ingress {name!r} already", hint="Change that one, or remove it first."
    ):
        return await put(
            world,
            Ingress(
                workspace=workspace,
                id=secrets.token_hex(8),
                name=name,
                created_at_ms=now_ms,
                modified_at_ms=now_ms,
                owner=principal.name,
                labels=labels,
                visibility=asked.metadata.visibility or "",
                spec=asked.spec,
            ),
        )


async def patch_ingress(
    world: World, principal: Principal, workspace: str, name: str, patch: dict[str, Any]
) -> Ingress:
    def merged(before: Ingress) -> Ingress:
        spec = codec.merge_patch(msgspec.to_builtins(before.spec), patch.get("spec") or {})
        return replace(with_metadata(before, patch), spec=codec.convert(IngressSpec, spec))

    return await _change(world, principal, workspace, name, merged)


async def share_with(
    world: World, principal: Principal, workspace: str, name: str, share: IngressEndpoint
) -> Ingress:
    """Give an endpoint a share, in place of the one it had."""

    def shared(before: Ingress) -> Ingress:
        others = [
            each for each in before.spec.endpoints or () if each.deployment != share.deployment
        ]
        return replace(before, spec=replace(before.spec, endpoints=[*others, share]))

    return await _change(world, principal, workspace, name, shared)


async def stop_sharing_with(
    world: World, principal: Principal, workspace: str, name: str, endpoint: str
) -> Ingress:
    def unshared(before: Ingress) -> Ingress:
        kept = [each for each in before.spec.endpoints or () if each.deployment != endpoint]
        if len(kept) == len(before.spec.endpoints or ()):
            raise NotFound(
                f"ingress {name} does not lead to an endpoint {endpoint[:100]!r}",
                hint=f"`leptonai ingress get {name}` shows its endpoints.",
            )
        return replace(before, spec=replace(before.spec, endpoints=kept))

    return await _change(world, principal, workspace, name, unshared)


async def delete_ingress(world: World, principal: Principal, workspace: str, name: str) -> Ingress:
    async def change() -> Ingress:
        ingress = await find_ingress(world, principal, workspace, name)
        require(principal, Action.DELETE, ingress)
        await world.commit(Delete(ingress))
        return ingress

    return await insisting(change)


async def find_ingress(world: World, principal: Principal, workspace: str, name: str) -> Ingress:
    return known_to(
        principal,
        await with_key(world, workspace, Ingress, name),
        f"there is no ingress {name[:100]!r}",
        hint="`leptonai ingress list` shows them.",
    )


async def _change(
    world: World,
    principal: Principal,
    workspace: str,
    name: str,
    decide: Callable[[Ingress], Ingress],
) -> Ingress:
    async def change() -> Ingress:
        before = await find_ingress(world, principal, workspace, name)
        require(principal, Action.UPDATE, before)
        after = decide(before)
        if after == before:
            return before
        await _check(world, principal, workspace, name, after.spec)
        return await put(world, replace(after, modified_at_ms=world.clock.now_ms()))

    return await insisting(change)


async def _check(
    world: World, principal: Principal, workspace: str, name: str, spec: IngressSpec
) -> None:
    await check_domain(world, "spec.domain_name", spec.domain_name, (workspace, "ingress", name))
    if spec.auth_config is not None:
        raise InvalidRequest(
            "spec.auth_config: who is let in is each endpoint's own matter",
            hint="Set auth_config of the endpoints.",
        )
    if spec.traffic_shadowing_config is not None:
        raise InvalidRequest(
            "spec.traffic_shadowing_config: an ingress copies no requests",
            hint="A shadow roll-out of an endpoint does: `leptonai endpoint update --strategy`.",
        )
    named = [share.deployment or "" for share in spec.endpoints or ()]
    twice = sorted({each for each in named if named.count(each) > 1})
    if twice:
        raise InvalidRequest(
            f"spec.endpoints: {twice[0][:60]!r} is named twice", hint="Give it one weight."
        )
    found = await world.store.find(Endpoint, Query(workspace=workspace)) if named else []
    known = {each.name for each in found if not each.is_pod and may_read(principal, each)}
    before = await with_key(world, workspace, Ingress, name)
    kept = {share.deployment for share in before.spec.endpoints or ()} if before else set()
    for each in named:
        if each not in known and each not in kept:  # one that has gone since stays named
            raise InvalidRequest(
                f"spec.endpoints: there is no endpoint {each[:60]!r}",
                hint=codec.suggestion(each, sorted(known)),
            )


def _name_from(domain: str) -> str:
    word = re.sub(r"[^a-z0-9]+", "-", domain.lower()).strip("-") or "domain"
    word = word if word[0].isalpha() else f"i-{word}"
    suffix = secrets.token_hex(SUFFIX_CHARS // 2)
    return f"{word[: MAX_NAME_CHARS - SUFFIX_CHARS - 1].rstrip('-')}-{suffix}"
