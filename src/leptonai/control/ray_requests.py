"""Ray clusters that a user asked for, checked against what there is: what passes can be done."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from leptonai.control.requests import (
    check_command,
    check_feasible,
    check_surroundings,
    with_gpu_type,
)
from leptonai.control.world import World
from leptonai.core.access import Principal
from leptonai.core.lifecycle.ray_node import program_of_node
from leptonai.core.records import Node
from leptonai.errors import InvalidRequest, Unsatisfiable
from leptonai.ports.store import Query
from leptonai.spec import codec
from leptonai.spec.names import check_name
from leptonai.spec.rayclusters import RayClusterSpec, RayGroup, RayWorkerGroup

MAX_WORKERS = 1_000  # of a cluster
HEAD_NAME = "head"
CHANGEABLE = ("min_replicas", "max_replicas", "segment_config")  # of a group, by a patch


async def checked_raycluster(
    world: World, principal: Principal, workspace: str, spec: RayClusterSpec
) -> RayClusterSpec:
    """The spec, with a name for every group, and the exact GPU types that its shapes mean.

    Raises:
        InvalidRequest: something in it is wrong.
        Unsatisfiable: no machine here could ever be one of its nodes.
    """
    head = spec.head
    if head.min_replicas not in (None, 1) or head.max_replicas not in (None, 1):
        raise InvalidRequest(
            "spec.head_group_spec: a cluster has one head",
            hint="Leave min_replicas and max_replicas out there.",
        )
    if head.segment_config is not None:
        raise InvalidRequest(
            "spec.head_group_spec.segment_config: a head has no segments", hint="Leave it out."
        )
    groups = _named(spec.groups)
    for group in groups:
        _check_numbers(group, autoscales=spec.autoscaler is not None)
    if spec.workers > MAX_WORKERS:
        raise InvalidRequest(
            f"spec.worker_group_specs: {spec.workers} workers",
            hint=f"A cluster may have {MAX_WORKERS} in all.",
        )
    nodes = await world.store.find(Node, Query())
    return replace(
        spec,
        head_group_spec=await _checked(world, principal, workspace, head, HEAD_NAME, nodes),
        worker_group_specs=[
            await _checked(world, principal, workspace, group, group.group_name or "", nodes)
            for group in groups
        ],
    )


def patched_spec(before: RayClusterSpec, patch: dict[str, Any]) -> RayClusterSpec:
    """With the numbers of workers and `suspend` that a patch names: nothing else can change.

    The groups of a patch are those that change, each found by its name, as the published client
    sends them; where there is one, it needs none.
    """
    told = dict(patch)
    changes = told.pop("worker_group_specs", None) or []
    if not isinstance(changes, list) or not all(isinstance(each, dict) for each in changes):
        raise InvalidRequest(
            "spec.worker_group_specs: expected array of objects", hint="One for each group."
        )
    after = codec.convert(RayClusterSpec, codec.merge_patch(msgspec.to_builtins(before), told))
    if replace(after, suspend=before.suspend) != before:
        raise InvalidRequest(
            "spec: of a cluster only `suspend` and the numbers of its workers can change",
            hint="Create a new one for the rest.",
        )
    groups = {group.group_name or "": group for group in before.groups}
    for change in changes:
        name = change.get("group_name") or (next(iter(groups)) if len(groups) == 1 else "")
        if not isinstance(name, str) or name not in groups:
            raise InvalidRequest(
                f"spec.worker_group_specs: there is no group {str(name)[:60]!r}",
                hint=f"The groups are {', '.join(groups) or 'none'}.",
            )
        group = groups[name]
        merged = codec.merge_patch(msgspec.to_builtins(group), change | {"group_name": name})
        changed = codec.convert(RayWorkerGroup, merged)
        if replace(changed, **{each: getattr(group, each) for each in CHANGEABLE}) != group:
            raise InvalidRequest(
                f"spec.worker_group_specs: of group {name} only {', '.join(CHANGEABLE)} can change",
                hint="Create a new cluster for the rest.",
            )
        groups[name] = changed
    return replace(after, worker_group_specs=list(groups.values()))


def _named(groups: Sequence[RayWorkerGroup]) -> list[RayWorkerGroup]:
    """Each with a name: by it a group is changed later, and its workers are told apart."""
    taken: set[str] = set()
    for group in groups:
        if group.group_name is None:
            continue
        check_name(group.group_name, "group")
        if group.group_name in taken or group.group_name == HEAD_NAME:
            raise InvalidRequest(
                f"spec.worker_group_specs: there are two groups {group.group_name!r}",
                hint="Give each a name of its own; the head is a group, too.",
            )
        taken.add(group.group_name)
    named = []
    for number, group in enumerate(groups):
        name = group.group_name or next(
            each for i in range(len(groups)) if (each := f"workers-{number + i}") not in taken
        )
        taken.add(name)
        named.append(replace(group, group_name=name))
    return named


def _check_numbers(group: RayWorkerGroup, *, autoscales: bool) -> None:
    where = f"spec.worker_group_specs: group {group.group_name}"
    if group.max_replicas is not None and group.max_replicas < group.workers:
        raise InvalidRequest(
            f"{where} has max_replicas, {group.max_replicas}, below min_replicas, {group.workers}",
            hint="Raise one or lower the other.",
        )
    if group.segment_config is None:
        return
    segment = group.segment_config.count_per_segment
    if autoscales or segment < 1 or group.workers % segment:
        raise InvalidRequest(
            f"{where} cannot have segments of {segment} workers",
            hint="They divide min_replicas, and an autoscaler knows none.",
        )


async def _checked(
    world: World,
    principal: Principal,
    workspace: str,
    group: RayGroup,
    name: str,
    nodes: Sequence[Node],
) -> Any:
    """The same group, with the exact GPU type that its shape means."""
    try:
        if group.container is not None and group.container.command:
            check_command(group.container, needed="")
        await check_surroundings(world, principal, workspace, group)
        group = with_gpu_type(group, nodes)
        program = program_of_node(group, is_head=name == HEAD_NAME)
        check_feasible(program, 1, group.affinity, nodes)
    except (InvalidRequest, Unsatisfiable) as refused:
        raise type(refused)(f"group {name}: {refused.message}", hint=refused.hint) from None
    return group
