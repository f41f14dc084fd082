"""Key spaces: small values by key, for workloads to share. The wire calls them kv namespaces."""

from leptonai.control.actions.named import create_named, delete_named, find_named, list_named
from leptonai.control.api.multipart import file_in
from leptonai.control.api.routing import BYTES, DONE, Answer, Call, Parameter, Route
from leptonai.control.api.views import metadata_of
from leptonai.core.access import Action
from leptonai.core.records import KeySpace
from leptonai.errors import InvalidRequest, NotFound, TooLarge
from leptonai.spec import values as wire
from leptonai.spec.values import MAX_KEY_BYTES, MAX_VALUE_BYTES, KeyList

DEFAULT_KEYS = 1_000  # on a page
MAX_KEYS = 10_000


async def list_spaces(call: Call) -> list[wire.KeySpace]:
    found = await list_named(call.world, call.principal, call.workspace, KeySpace)
    return [_view(each) for each in found]


async def create(call: Call) -> wire.KeySpace:
    name = call.path["name"]
    return _view(await create_named(call.world, call.principal, call.workspace, KeySpace, name))


async def get_space(call: Call) -> wire.KeySpace:
    return _view(await _space(call, Action.READ))


async def delete_space(call: Call) -> Answer:
    name = call.path["name"]
    gone = await delete_named(call.world, call.principal, call.workspace, KeySpace, name)
    await call.world.store.values.forget(call.workspace, gone.id)
    return DONE


async def list_keys(call: Call) -> KeyList:
    space = await _space(call, Action.READ)
    page = await call.world.store.values.keys(
        call.workspace,
        space.id,
        prefix=call.text("prefix"),
        after=call.number("cursor", 0),
        limit=call.number("limit", 0) or DEFAULT_KEYS,
    )
    return KeyList(keys=list(page.keys), cursor=page.cursor)


async def get(call: Call) -> Answer:
    space = await _space(call, Action.READ)
    key = _key(call)
    value = await call.world.store.values.get(call.workspace, space.id, key)
    if value is None:
        raise NotFound(
            f"the key space {space.name} has no key {key[:100]!r}",
            hint="Nothing was put there, or it was deleted.",
        )
    return Answer(body=value, media=BYTES)


async def put(call: Call) -> Answer:
    space = await _space(call, Action.USE)
    key = _key(call)
    value = b""
    async for chunk in file_in(call, "value"):
        value += chunk
        if len(value) > MAX_VALUE_BYTES:
            raise TooLarge(
                f"the value has more than {MAX_VALUE_BYTES} bytes",
                hint="Keep large ones as objects or in storage, and their names here.",
            )
    await call.world.store.values.put(call.workspace, space.id, key, value)
    return DONE


async def delete(call: Call) -> Answer:
    """Also of a key that is not there."""
    space = await _space(call, Action.USE)
    await call.world.store.values.delete(call.workspace, space.id, _key(call))
    return DONE


async def _space(call: Call, action: Action) -> KeySpace:
    name = call.path["name"]
    return await find_named(call.world, call.principal, call.workspace, KeySpace, name, action)


def _key(call: Call) -> str:
    key = call.path["key"]
    if not key or len(key.encode(errors="replace")) > MAX_KEY_BYTES:
        raise InvalidRequest(
            f"the key has {len(key.encode(errors='replace'))} bytes",
            hint=f"A key has 1 to {MAX_KEY_BYTES}.",
        )
    return key


def _view(space: KeySpace) -> wire.KeySpace:
    return wire.KeySpace(name=space.name, metadata=metadata_of(space))


_SPACE = "/kv/namespaces/{name}"
_VALUE = f"{_SPACE}/values/{{key:path}}"
ROUTES = (
    Route(
        method="GET",
        path="/kv/namespaces",
        handler=list_spaces,
        summary="List key spaces",
        answer=list[wire.KeySpace],
    ),
    Route(
        method="POST",
        path=_SPACE,
        handler=create,
        summary="Create a key space",
        answer=wire.KeySpace,
    ),
    Route(
        method="GET", path=_SPACE, handler=get_space, summary="One key space", answer=wire.KeySpace
    ),
    Route(
        method="DELETE",
        path=_SPACE,
        handler=delete_space,
        summary="Remove a key space with all its values",
    ),
    Route(
        method="GET",
        path=f"{_SPACE}/keys",
        handler=list_keys,
        summary="A page of its keys, in the order in which they were first put",
        answer=KeyList,
        query=(
            Parameter("prefix", about="Only those that begin so."),
            Parameter("cursor", int, "What the page before said; 0 for the first."),
            Parameter("limit", int, "At most so many; 0 for the default.", most=MAX_KEYS),
        ),
    ),
    Route(
        method="GET", path=_VALUE, handler=get, summary="The value of a key, as bytes", media=BYTES
    ),
    Route(
        method="POST",
        path=_VALUE,
        handler=put,
        summary="Put a value: the body, or the part `value` of a form",
        raw_body=True,
        audited=False,
    ),
    Route(
        method="DELETE",
        path=_VALUE,
        handler=delete,
        summary="Delete a key, if it is there",
        audited=False,
    ),
)
