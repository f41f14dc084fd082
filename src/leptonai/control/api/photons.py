"""Photons as published clients push and list them; here they are models of their own format."""

from leptonai.control.actions.artifacts import delete_artifacts
from leptonai.control.actions.photons import ARCHIVE, find_photon, list_photons, register_photon
from leptonai.control.api.multipart import file_in
from leptonai.control.api.routing import BYTES, DONE, Answer, Call, Parameter, Route
from leptonai.core.records import Model
from leptonai.errors import NotFound
from leptonai.spec import codec
from leptonai.spec.photons import DeploymentTemplate, RegisteredPhoton

SCOPES = ("private", "public")


async def list_(call: Call) -> list[RegisteredPhoton]:
    if _scope(call) == "public":
        return []  # what a platform of many tenants shows to all of them
    found = await list_photons(call.world, call.principal, call.workspace)
    return [_view(each) for each in found]


async def push(call: Call) -> RegisteredPhoton:
    _only_private(call)
    archive = file_in(call, "file")
    return _view(await register_photon(call.world, call.principal, call.workspace, archive))


async def get(call: Call) -> RegisteredPhoton | Answer:
    found = await _photon(call)
    return await _content(call, found) if call.flag("content") else _view(found)


async def content(call: Call) -> Answer:
    return await _content(call, await _photon(call))


async def delete(call: Call) -> Answer:
    found = await _photon(call)
    await delete_artifacts(call.world, call.principal, call.workspace, Model, found.id)
    return DONE


async def _photon(call: Call) -> Model:
    _only_private(call)
    return await find_photon(call.world, call.principal, call.workspace, call.path["id"])


async def _content(call: Call, photon: Model) -> Answer:
    archive = photon.spec.attributes.get(ARCHIVE)
    if not isinstance(archive, str):
        raise NotFound(
            f"{photon.id} was not pushed as an archive",
            hint=f"`leptonai model download {photon.id}` fetches its files.",
        )
    size = await call.world.blobs.size(archive)
    return Answer(
        stream=call.world.blobs.get(archive, 0, size),
        media=BYTES,
        headers=(("content-length", str(size)),),
    )


def _scope(call: Call) -> str:
    scope = call.path["scope"]
    if scope not in SCOPES:
        raise NotFound(
            f"there are no {scope[:60]!r} photons", hint="There are private and public ones."
        )
    return scope


def _only_private(call: Call) -> None:
    if _scope(call) == "public":
        raise NotFound("there are no public photons here", hint="Use those of the workspace.")


def _view(photon: Model) -> RegisteredPhoton:
    facts = photon.spec.attributes
    template = facts.get("deployment_template") or {}
    return RegisteredPhoton(
        id=photon.id,
        name=photon.name,
        model=str(facts.get("model") or facts.get("class", "")),
        created_at=photon.created_at_ms,
        version=photon.number,
        requirement_dependency=[str(line) for line in facts.get("requirement_dependency", ())],
        deployment_template=codec.convert(DeploymentTemplate, template),
        image=str(facts.get("image", "")),
    )


_ONE = "/photons/{scope}/{id}"
ROUTES = (
    Route(
        method="GET",
        path="/photons/{scope}",
        handler=list_,
        summary="List photons, newest first; the scope is private",
        answer=list[RegisteredPhoton],
    ),
    Route(
        method="POST",
        path="/photons/{scope}",
        handler=push,
        summary="Register a photon's archive: the body, or the part `file` of a form",
        raw_body=True,
        answer=RegisteredPhoton,
    ),
    Route(
        method="GET",
        path=_ONE,
        handler=get,
        summary="One photon, or its archive",
        answer=RegisteredPhoton,
        query=(Parameter("content", bool, "The archive itself."),),
    ),
    Route(
        method="GET",
        path=f"{_ONE}/content",
        handler=content,
        summary="The archive of a photon",
        media=BYTES,
    ),
    Route(method="DELETE", path=_ONE, handler=delete, summary="Remove a photon"),
)
