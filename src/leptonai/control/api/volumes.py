"""Volumes and data sources of node groups, and who may use what of a volume."""

from leptonai.control.actions import volumes as actions
from leptonai.control.api.nodes import get_group
from leptonai.control.api.routing import DONE, Answer, Call, Parameter, Route
from leptonai.core.access import Action, Resource
from leptonai.core.records import DataSource
from leptonai.ports.store import Query
from leptonai.security.permissions import require
from leptonai.spec import nodes as wire
from leptonai.spec.metadata import Metadata
from leptonai.spec.storage import (
    DataSourceList,
    DataSourceSpec,
    StorageDataSource,
    StoragePermission,
)


async def add(call: Call) -> wire.DedicatedNodeGroup:
    asked: wire.Volume = await call.json()
    group = call.path["group"]
    await actions.add_volume(call.world, call.principal, call.workspace, group, asked)
    return await get_group(call)


async def delete(call: Call) -> wire.DedicatedNodeGroup:
    await actions.delete_volume(
        call.world,
        call.principal,
        call.workspace,
        call.path["group"],
        call.path["name"],
        with_data=call.flag("delete_data"),
    )
    return await get_group(call)


async def permissions(call: Call) -> list[StoragePermission]:
    require(call.principal, Action.READ, Resource(kind="volume", workspace=call.workspace))
    volume = await actions.find_volume(
        call.world, call.workspace, call.path["volume"], call.text("nodegroup_id")
    )
    return list(volume.rules)


async def permit(call: Call) -> Answer:
    rule: StoragePermission = await call.json()
    await actions.set_permission(
        call.world,
        call.principal,
        call.workspace,
        call.path["volume"],
        rule.nodegroup_id or "",
        rule,
    )
    return DONE


async def forbid(call: Call) -> Answer:
    await actions.delete_permission(
        call.world,
        call.principal,
        call.workspace,
        call.path["volume"],
        call.text("nodegroup_id"),
        f"/{call.path['prefix']}",
    )
    return DONE


async def data_sources(call: Call) -> DataSourceList:
    require(call.principal, Action.READ, Resource(kind="datasource", workspace=call.workspace))
    found = await call.world.store.find(DataSource, Query(workspace=call.workspace))
    shown = sorted(
        (each for each in found if each.group == call.path["group"]), key=lambda each: each.name
    )
    return DataSourceList(items=[_view(each) for each in shown])


async def data_source(call: Call) -> StorageDataSource:
    require(call.principal, Action.READ, Resource(kind="datasource", workspace=call.workspace))
    return _view(
        await actions.find_data_source(
            call.world, call.workspace, call.path["group"], call.path["name"]
        )
    )


async def create_data_source(call: Call) -> StorageDataSource:
    spec: DataSourceSpec = await call.json()
    group = call.path["group"]
    return _view(
        await actions.create_data_source(call.world, call.principal, call.workspace, group, spec)
    )


async def update_data_source(call: Call) -> StorageDataSource:
    spec: DataSourceSpec = await call.json()
    return _view(
        await actions.update_data_source(
            call.world,
            call.principal,
            call.workspace,
            call.path["group"],
            call.path["name"],
            spec,
        )
    )


async def delete_data_source(call: Call) -> Answer:
    await actions.delete_data_source(
        call.world, call.principal, call.workspace, call.path["group"], call.path["name"]
    )
    return DONE


def _view(source: DataSource) -> StorageDataSource:
    metadata = Metadata(
        id=source.name, name=source.name, created_at=source.created_at_ms, owner=source.owner
    )
    return StorageDataSource(metadata=metadata, spec=source.spec)


_GROUP = Parameter("nodegroup_id", about="Of which node group the volume is.")

ROUTES = (
    Route(
        method="POST",
        path="/dedicated-node-groups/{group}/volumes",
        handler=add,
        summary="Offer a directory of the nodes as a volume",
        body=wire.Volume,
        answer=wire.DedicatedNodeGroup,
    ),
    Route(
        method="DELETE",
        path="/dedicated-node-groups/{group}/volumes/{name}",
        handler=delete,
        summary="Delete a volume; its files stay",
        answer=wire.DedicatedNodeGroup,
        query=(Parameter("delete_data", bool, "Delete its files too."),),
    ),
    Route(
        method="GET",
        path="/storage-permission/{volume}",
        handler=permissions,
        summary="Who may use what of a volume; without rules everybody may use all",
        answer=list[StoragePermission],
        query=(_GROUP,),
    ),
    Route(
        method="POST",
        path="/storage-permission/{volume}",
        handler=permit,
        summary="Set the rule for a path: from the first one on, only what a rule allows is",
        body=StoragePermission,
    ),
    Route(
        method="DELETE",
        path="/storage-permission/{volume}/{prefix:path}",
        handler=forbid,
        summary="Delete the rule for a path",
        query=(_GROUP,),
    ),
    Route(
        method="GET",
        path="/dedicated-node-groups/{group}/datasources",
        handler=data_sources,
        summary="The buckets of a node group",
        answer=DataSourceList,
    ),
    Route(
        method="POST",
        path="/dedicated-node-groups/{group}/datasources",
        handler=create_data_source,
        summary="Offer a bucket",
        body=DataSourceSpec,
        answer=StorageDataSource,
    ),
    Route(
        method="GET",
        path="/dedicated-node-groups/{group}/datasources/{name}",
        handler=data_source,
        summary="One bucket",
        answer=StorageDataSource,
    ),
    Route(
        method="PATCH",
        path="/dedicated-node-groups/{group}/datasources/{name}",
        handler=update_data_source,
        summary="Change who may use a bucket, and with which credentials",
        body=DataSourceSpec,
        answer=StorageDataSource,
    ),
    Route(
        method="DELETE",
        path="/dedicated-node-groups/{group}/datasources/{name}",
        handler=delete_data_source,
        summary="Take a bucket off; its objects stay",
    ),
)
