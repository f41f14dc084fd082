"""Templates: those of everybody, and a workspace's own."""

from typing import Any

import msgspec
from msgspec.structs import replace

from leptonai.control.actions.templates import (
    create_template,
    delete_template,
    find_template,
    no_template,
)
from leptonai.control.api.routing import DONE, Answer, Call, Route
from leptonai.control.api.views import metadata_of
from leptonai.control.templates import public_templates
from leptonai.core.access import Action, Resource
from leptonai.core.records import Template
from leptonai.core.templates import rendered
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read, require
from leptonai.spec.metadata import Metadata
from leptonai.spec.templates import LeptonTemplate, RenderedTemplate


async def list_public(call: Call) -> list[LeptonTemplate]:
    _require_read(call)
    return list(public_templates().values())


async def get_public(call: Call) -> LeptonTemplate:
    _require_read(call)
    found = public_templates().get(call.path["id"])
    if found is None:
        raise no_template(call.path["id"])
    return found


async def render_public(call: Call) -> RenderedTemplate:
    return _rendered(await get_public(call), await call.json())


async def list_private(call: Call) -> list[LeptonTemplate]:
    found = await call.world.store.find(Template, Query(workspace=call.workspace))
    return [_view(each) for each in found if may_read(call.principal, each)]


async def get_private(call: Call) -> LeptonTemplate:
    return _view(await find_template(call.world, call.principal, call.workspace, call.path["id"]))


async def render_private(call: Call) -> RenderedTemplate:
    return _rendered(await get_private(call), await call.json())


async def create(call: Call) -> LeptonTemplate:
    asked: LeptonTemplate = await call.json()
    return _view(await create_template(call.world, call.principal, call.workspace, asked))


async def delete(call: Call) -> Answer:
    await delete_template(call.world, call.principal, call.workspace, call.path["id"])
    return DONE


def _view(template: Template) -> LeptonTemplate:
    return LeptonTemplate(
        metadata=replace(metadata_of(template), id=template.name), spec=template.spec
    )


def _rendered(template: LeptonTemplate, given: dict[str, Any]) -> RenderedTemplate:
    made = rendered(template.spec, given)
    return RenderedTemplate(metadata=Metadata(), spec=msgspec.to_builtins(made))


def _require_read(call: Call) -> None:
    require(call.principal, Action.READ, Resource(kind="template", workspace=call.workspace))


ROUTES = (
    Route(
        method="GET",
        path="/templates/public",
        handler=list_public,
        summary="The templates that come with the platform",
        answer=list[LeptonTemplate],
    ),
    Route(
        method="GET",
        path="/templates/public/{id}",
        handler=get_public,
        summary="One of the platform's templates",
        answer=LeptonTemplate,
    ),
    Route(
        method="POST",
        path="/templates/public/{id}/render",
        handler=render_public,
        summary="Fill in the parameters of one of the platform's templates",
        body=dict[str, Any],
        answer=RenderedTemplate,
        audited=False,
    ),
    Route(
        method="GET",
        path="/templates/private",
        handler=list_private,
        summary="The workspace's own templates",
        answer=list[LeptonTemplate],
    ),
    Route(
        method="POST",
        path="/templates/private",
        handler=create,
        summary="Keep a template",
        body=LeptonTemplate,
        answer=LeptonTemplate,
    ),
    Route(
        method="GET",
        path="/templates/private/{id}",
        handler=get_private,
        summary="One of the workspace's own templates",
        answer=LeptonTemplate,
    ),
    Route(
        method="DELETE",
        path="/templates/private/{id}",
        handler=delete,
        summary="Remove a template; what was made of it stays",
    ),
    Route(
        method="POST",
        path="/templates/private/{id}/render",
        handler=render_private,
        summary="Fill in the parameters of one of the workspace's own templates",
        body=dict[str, Any],
        answer=RenderedTemplate,
        audited=False,
    ),
)
