"""Machines: node groups, nodes, and the shapes that workloads may ask for."""

from leptonai.control.actions.volumes import volumes_of
from leptonai.control.api.routing import Call, Parameter, Route
from leptonai.control.api.views import group_view, machine_view, node_view
from leptonai.core.access import Action, Resource
from leptonai.core.records import Node, NodeState, Replica, Volume
from leptonai.core.shapes import shapes
from leptonai.errors import NotFound
from leptonai.ports.store import Query
from leptonai.security.permissions import require
from leptonai.spec import nodes as wire
from leptonai.spec.metadata import Metadata

# Nodes belong to the platform: every workspace sees them all.
ALL_NODES = Query()


async def list_groups(call: Call) -> list[wire.DedicatedNodeGroup]:
    nodes = await _nodes(call)
    volumes = await volumes_of(call.world.store, call.workspace)
    groups = sorted({node.group for node in nodes})
    return [_group(call, group, nodes, volumes) for group in groups]


async def get_group(call: Call) -> wire.DedicatedNodeGroup:
    volumes = await volumes_of(call.world.store, call.workspace)
    return _group(call, call.path["group"], await nodes_of_group(call), volumes)


async def list_nodes(call: Call) -> list[wire.Node]:
    nodes, held = await nodes_of_group(call), await _held(call)
    if call.flag("idle"):
        nodes = [node for node in nodes if node.id not in held]
    return [node_view(node, held.get(node.id, []), call.workspace) for node in nodes]


async def list_machines(call: Call) -> list[wire.Machine]:
    nodes, held = await nodes_of_group(call), await _held(call)
    return [machine_view(node, held.get(node.id, [])) for node in nodes]


async def list_shapes(call: Call) -> list[wire.Shape]:
    groups = set(call.texts("node_groups"))
    nodes = [node for node in await _nodes(call) if not groups or node.group in groups]
    purpose = call.text("purpose")
    if groups and not nodes:
        return []
    return [
        wire.Shape(metadata=Metadata(id=shape.name, name=shape.name), spec=shape)
        for shape in shapes(nodes)
        if not purpose or purpose in (shape.listable_in or ())
    ]


async def _held(call: Call) -> dict[str, list[Replica]]:
    """What holds capacity of each node."""
    held: dict[str, list[Replica]] = {}
    for replica in await call.world.store.find(Replica, Query(live=True)):
        if replica.holds_capacity:
            held.setdefault(replica.node, []).append(replica)
    return held


def _group(
    call: Call, group: str, nodes: list[Node], volumes: list[Volume]
) -> wire.DedicatedNodeGroup:
    members = [node for node in nodes if node.group == group]
    offered = [volume for volume in volumes if volume.group == group]
    return group_view(group, members, call.world.config.workspaces, offered)


async def nodes_of_group(call: Call) -> list[Node]:
    group = call.path["group"]
    nodes = [node for node in await _nodes(call) if node.group == group]
    if not nodes:
        raise NotFound(
            f"there is no node group {group[:100]!r}", hint="`leptonai node list` shows them."
        )
    return nodes


async def _nodes(call: Call) -> list[Node]:
    """All but those that are gone for good."""
    require(call.principal, Action.READ, Resource(kind="node", workspace=call.workspace))
    found = await call.world.store.find(Node, ALL_NODES)
    return sorted(
        (node for node in found if node.state is not NodeState.FENCED), key=lambda node: node.id
    )


ROUTES = (
    Route(
        method="GET",
        path="/dedicated-node-groups",
        handler=list_groups,
        summary="List node groups",
        answer=list[wire.DedicatedNodeGroup],
    ),
    Route(
        method="GET",
        path="/dedicated-node-groups/{group}",
        handler=get_group,
        summary="One node group",
        answer=wire.DedicatedNodeGroup,
    ),
    Route(
        method="GET",
        path="/dedicated-node-groups/{group}/nodes",
        handler=list_nodes,
        summary="The nodes of a group, what they have and what is taken",
        answer=list[wire.Node],
        query=(Parameter("idle", bool, "Only nodes on which nothing runs."),),
    ),
    Route(
        method="GET",
        path="/dedicated-node-groups/{group}/machines",
        handler=list_machines,
        summary="The machines that the nodes of a group are",
        answer=list[wire.Machine],
    ),
    Route(
        method="GET",
        path="/shapes",
        handler=list_shapes,
        summary="The shapes that workloads may ask for",
        answer=list[wire.Shape],
        query=(
            Parameter("node_groups", about="Ids of node groups.", repeated=True),
            Parameter("purpose", about="job, pod or deployment."),
        ),
    ),
)
