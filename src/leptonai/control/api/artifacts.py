"""Datasets and models: named, numbered versions of trees of files."""

from collections.abc import Awaitable, Callable

from leptonai.control.actions.artifacts import (
    ArtifactKind,
    ArtifactRecord,
    delete_artifacts,
    drop_alias,
    find_artifact,
    register_artifact,
    set_alias,
    word_of,
)
from leptonai.control.api.paging import PAGING, page_of
from leptonai.control.api.routing import DONE, Answer, Call, Parameter, Route
from leptonai.control.api.views import artifact_view
from leptonai.core.records import Dataset, Model
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read
from leptonai.spec.artifacts import Artifact

Handler = Callable[[Call], Awaitable[object]]


def _list(kind: ArtifactKind) -> Handler:
    async def list_all(call: Call) -> list[Artifact]:
        def shown(record: ArtifactRecord) -> bool:
            return not record.deleted and may_read(call.principal, record)

        query = Query(workspace=call.workspace, name=call.text("name") or None)
        return [artifact_view(record) for record in await page_of(call, kind, query, shown)]

    return list_all


def _register(kind: ArtifactKind) -> Handler:
    async def register(call: Call) -> Artifact:
        asked: Artifact = await call.json()
        return artifact_view(
            await register_artifact(call.world, call.principal, call.workspace, kind, asked)
        )

    return register


def _get(kind: ArtifactKind) -> Handler:
    async def get(call: Call) -> Artifact:
        return artifact_view(
            await find_artifact(
                call.world, call.principal, call.workspace, kind, call.path["reference"]
            )
        )

    return get


def _delete(kind: ArtifactKind) -> Handler:
    async def delete(call: Call) -> Answer:
        await delete_artifacts(
            call.world, call.principal, call.workspace, kind, call.path["reference"]
        )
        return DONE

    return delete


def _set_alias(kind: ArtifactKind) -> Handler:
    async def put(call: Call) -> Artifact:
        reference, alias = call.path["reference"], call.path["alias"]
        return artifact_view(
            await set_alias(call.world, call.principal, call.workspace, kind, reference, alias)
        )

    return put


def _drop_alias(kind: ArtifactKind) -> Handler:
    async def delete(call: Call) -> Answer:
        reference, alias = call.path["reference"], call.path["alias"]
        await drop_alias(call.world, call.principal, call.workspace, kind, reference, alias)
        return DONE

    return delete


def _routes(path: str, kind: ArtifactKind) -> tuple[Route, ...]:
    word = word_of(kind)
    return (
        Route(
            method="GET",
            path=path,
            handler=_list(kind),
            summary=f"List every version of every {word}",
            answer=list[Artifact],
            query=(Parameter("name", about="Only versions of this one."), *PAGING),
        ),
        Route(
            method="POST",
            path=path,
            handler=_register(kind),
            summary=f"Register the next version of a {word}",
            body=Artifact,
            answer=Artifact,
        ),
        Route(
            method="GET",
            path=f"{path}/{{reference}}",
            handler=_get(kind),
            summary=f"A {word}: NAME is its newest version; or NAME@VERSION, NAME@ALIAS",
            answer=Artifact,
        ),
        Route(
            method="DELETE",
            path=f"{path}/{{reference}}",
            handler=_delete(kind),
            summary=f"Forget a {word}: NAME all its versions, NAME@VERSION that one",
        ),
        Route(
            method="PUT",
            path=f"{path}/{{reference}}/aliases/{{alias}}",
            handler=_set_alias(kind),
            summary=f"Make NAME@ALIAS mean this version of a {word}",
            answer=Artifact,
        ),
        Route(
            method="DELETE",
            path=f"{path}/{{reference}}/aliases/{{alias}}",
            handler=_drop_alias(kind),
            summary=f"Take an alias from a version of a {word}",
        ),
    )


ROUTES = (*_routes("/datasets", Dataset), *_routes("/models", Model))
