"""Endpoints: made, changed, restarted, deleted."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from leptonai.control.actions.committing import (
    insisting,
    put,
    put_new,
    remove,
    told,
    with_metadata,
)
from leptonai.control.actions.finding import known_to, with_key
from leptonai.control.grpc_endpoints import check_grpc_rollout
from leptonai.control.requests import checked_endpoint, name_and_labels
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.lifecycle import endpoint as endpoint_lifecycle
from leptonai.core.records import Endpoint, TokenHash, event_of
from leptonai.core.rollouts.asked import checked as checked_plan
from leptonai.errors import AlreadyExists, InvalidRequest
from leptonai.security.permissions import may_see, require
from leptonai.security.tokens import token_hash
from leptonai.spec import codec
from leptonai.spec.endpoints import ApiToken, EndpointSpec, LeptonDeployment
from leptonai.spec.explanations import Explanation
from leptonai.spec.rollouts import RolloutPlan


async def create_endpoint(
    world: World, principal: Principal, workspace: str, asked: LeptonDeployment
) -> Endpoint:
    async with world.hosts:
        endpoint = await _new_endpoint(world, principal, workspace, asked)
        step = endpoint_lifecycle.advance(endpoint, (), endpoint.created_at_ms)
        event = event_of(endpoint, "Created", f"created by {principal.name}")
        try:
            return await put_new(world, step, event)
        except AlreadyExists as error:
            raise _name_is_taken(endpoint.name, error.existing_id) from None


async def foresee_endpoint(
    world: World, principal: Principal, workspace: str, asked: LeptonDeployment
) -> tuple[Endpoint, Explanation]:
    """The endpoint as it would be accepted, and what would become of its first replica. Nothing
    is written."""
    endpoint = await _new_endpoint(world, principal, workspace, asked)
    if await with_key(world, workspace, Endpoint, endpoint.name):
        raise _name_is_taken(endpoint.name)
    step = endpoint_lifecycle.advance(endpoint, (), endpoint.created_at_ms)
    explanation = await world.advice.foresee(step.owner, step.replicas, may_see(principal))
    return endpoint, explanation


async def _new_endpoint(
    world: World, principal: Principal, workspace: str, asked: LeptonDeployment
) -> Endpoint:
    require(principal, Action.CREATE, Resource(kind="endpoint", workspace=workspace))
    if asked.rollout is not None:
        raise InvalidRequest(
            "rollout: there is no revision before the first one",
            hint="Leave it out; it is for changes of an endpoint.",
        )
    name, labels = name_and_labels(asked.metadata, "pod" if asked.spec.is_pod else "endpoint")
    spec, model_digest = await checked_endpoint(world, principal, workspace, name, asked.spec)
    spec, token_hashes = _without_literal_tokens(spec, ())
    return endpoint_lifecycle.new_endpoint(
        workspace=workspace,
        name=name,
        spec=spec,
        owner=principal.name,
        labels=labels,
        visibility=asked.metadata.visibility or "",
        now_ms=world.clock.now_ms(),
        token_hashes=token_hashes,
        model_digest=model_digest,
    )


def _name_is_taken(name: str, existing_id: str = "") -> AlreadyExists:
    return AlreadyExists(
        f"there is an endpoint or a pod {name!r} already",
        hint="Update or remove it, or choose another name.",
        existing_id=existing_id,
    )


async def patch_endpoint(
    world: World,
    principal: Principal,
    workspace: str,
    name: str,
    patch: dict[str, Any],
    *,
    dry_run: bool = False,
) -> Endpoint:
    """Merge the patch into what was asked; with `dry_run`, only say what would become of it."""

    plan = _plan(patch)

    async def change() -> Endpoint:
        before = await find_endpoint(world, principal, workspace, name)
        require(principal, Action.UPDATE, before)
        relabelled = with_metadata(before, patch)
        merged = codec.merge_patch(msgspec.to_builtins(before.spec), patch.get("spec") or {})
        asked = codec.convert(EndpointSpec, merged)
        known = {token.masked for token in before.token_hashes}
        spec, model_digest = before.spec, before.model_digest
        if asked != before.spec:
            spec, model_digest = await checked_endpoint(world, principal, workspace, name, asked)
            if asked.model == before.spec.model:
                model_digest = before.model_digest  # it meant this one when it was written
        if bool(spec.is_pod) != before.is_pod or (before.is_pod and plan is not None):
            raise InvalidRequest(
                "a pod and an endpoint do not become each other, and pods are not rolled out",
                hint="Create a new one; leave rollout out for a pod.",
            )
        check_grpc_rollout(spec, plan)
        spec, token_hashes = _without_literal_tokens(spec, before.token_hashes, known)
        now_ms = world.clock.now_ms()
        changed = replace(
            endpoint_lifecycle.updated(
                relabelled,
                spec,
                token_hashes=token_hashes,
                model_digest=model_digest,
                now_ms=now_ms,
                plan=plan,
            ),
            modified_at_ms=before.modified_at_ms,
        )
        if plan is not None and changed.revision == before.revision:
            raise InvalidRequest(
                "rollout: nothing changes that its replicas run, so there is nothing to roll out",
                hint="Leave out how, or change the model, the command, variables …",
            )
        if before.asleep and _asks_for_replicas(patch):
            changed = endpoint_lifecycle.woken(changed)
        if changed == before:
            raise InvalidRequest(
                "no valid field to update", hint="The endpoint is already as you ask."
            )
        changed = replace(changed, modified_at_ms=now_ms)
        if dry_run:
            return replace(changed, version=before.version + 1)
        event = event_of(before, "Updated", f"updated by {principal.name}")
        return await put(world, changed, *told(now_ms, event))

    async with world.hosts:
        return await insisting(change)


def _plan(patch: dict[str, Any]) -> RolloutPlan | None:
    asked = codec.convert(LeptonDeployment, {"metadata": {}, "rollout": patch.get("rollout")})
    return checked_plan(asked.rollout) if asked.rollout is not None else None


def _asks_for_replicas(patch: dict[str, Any]) -> bool:
    """Whether it names how many there are to be: so many as there are to be anyway wake it too."""
    size = (patch.get("spec") or {}).get("resource_requirement") or {}
    return size.get("min_replicas") is not None


async def restart_endpoint(
    world: World, principal: Principal, workspace: str, name: str
) -> Endpoint:
    async def change() -> Endpoint:
        endpoint = await find_endpoint(world, principal, workspace, name)
        require(principal, Action.UPDATE, endpoint)
        now_ms = world.clock.now_ms()
        event = event_of(endpoint, "Restarting", f"restarted by {principal.name}")
        restarted = endpoint_lifecycle.restarted(endpoint, now_ms)
        return await put(world, restarted, *told(now_ms, event))

    return await insisting(change)


async def delete_endpoint(
    world: World, principal: Principal, workspace: str, name: str, *, keep_files: bool = False
) -> Endpoint:
    """Forget it at once, which frees its name; whatever still runs of it is stopped.

    Args:
        keep_files: of a pod; where they lie is told as an event.
    """

    async def change() -> Endpoint:
        endpoint = await find_endpoint(world, principal, workspace, name)
        require(principal, Action.DELETE, endpoint)
        because = f"deleted by {principal.name}"
        await remove(world, endpoint, because, spare_files=keep_files)
        return endpoint

    return await insisting(change)


async def find_endpoint(world: World, principal: Principal, workspace: str, name: str) -> Endpoint:
    return known_to(
        principal,
        await with_key(world, workspace, Endpoint, name),
        f"there is no endpoint or pod {name[:100]!r}",
        hint="`leptonai endpoint list` and `leptonai pod list` show what there is.",
    )


def _without_literal_tokens(
    spec: EndpointSpec, kept: Sequence[TokenHash], masked: frozenset[str] | set[str] = frozenset()
) -> tuple[EndpointSpec, tuple[TokenHash, ...]]:
    """The spec with masked tokens, and the hashes that stand for them.

    A token that is sent back as it was shown keeps its hash.
    """
    left = list(kept)
    hashes: list[TokenHash] = []
    shown: list[ApiToken] = []
    for token in spec.api_tokens or ():
        if token.value is None:
            shown.append(token)
            continue
        if token.value in masked or "***" in token.value:
            known = next((each for each in left if each.masked == token.value), None)
            if known is None:
                raise InvalidRequest(
                    "spec.api_tokens: a masked token that this endpoint does not have",
                    hint="Send the token itself, or leave api_tokens out to keep them all.",
                )
            left.remove(known)
        else:
            known = token_hash(token.value)
        hashes.append(known)
        shown.append(ApiToken(value=known.masked))
    if spec.api_tokens is None:
        return spec, ()
    return replace(spec, api_tokens=shown), tuple(hashes)
