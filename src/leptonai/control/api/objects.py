"""Objects: files under names of the user's choice.

Published clients ask for a link, are redirected to it, and read or send the bytes there: a link is
good without a token, for one object and a while.
"""

from urllib.parse import quote

from leptonai.control.actions.objects import (
    Place,
    delete_object,
    find_object,
    list_objects,
    place_of,
    put_object,
    require_put,
)
from leptonai.control.api.blobs import about_blob, part_of_blob
from leptonai.control.api.routing import BYTES, DONE, Answer, Call, Parameter, Route, json_answer
from leptonai.errors import NotFound
from leptonai.spec.values import ObjectFacts, ObjectLink, ObjectList

LINK_GOOD_FOR_MS = 900_000
PUBLIC_LINK_GOOD_FOR_MS = 7 * 86_400_000
SIGNED = "_presigned"
PAGE = 1_000


async def list_(call: Call) -> ObjectList:
    bucket, prefix, after = call.path["bucket"], call.text("prefix"), call.text("continuation")
    found = await list_objects(call.world, call.principal, call.workspace, bucket, prefix)
    left = [each for each in found if each.name > f"{bucket}/{after}"] if after else found
    items = [
        ObjectFacts(
            key=each.name.partition("/")[2],
            size=each.size_bytes,
            last_modified=each.modified_at_ms,
        )
        for each in left[:PAGE]
    ]
    more = items[-1].key if len(left) > PAGE else ""
    return ObjectList(items=items, prefix=prefix, nextContinuationToken=more)


async def link_to_put(call: Call) -> Answer:
    """Who sends the bytes at once is spared the way."""
    place = _place(call, signed=True)
    if call.length or call.header("transfer-encoding"):
        await put_object(call.world, call.principal, place, call.chunks())
        return DONE
    await require_put(call.world, call.principal, place)
    return _redirect(call, place, writes=True)


async def link_to_get(call: Call) -> Answer | ObjectList:
    if not call.path["key"]:
        return await list_(call)  # some ask for the bucket with a slash at its end
    place = _place(call, signed=call.path["bucket"] != "public")
    await find_object(call.world, call.principal, place)
    return _redirect(call, place, writes=False)


async def delete(call: Call) -> Answer:
    await delete_object(call.world, call.principal, _place(call, signed=False))
    return DONE


async def head(call: Call) -> Answer:
    found = await find_object(call.world, call.principal, _place(call, signed=False))
    return about_blob(found.digest, found.size_bytes)


async def get(call: Call) -> Answer:
    """All of it, or the range that is asked for."""
    found = await find_object(call.world, call.principal, _place(call, signed=False))
    return await part_of_blob(call, found.digest, found.size_bytes)


async def put(call: Call) -> Answer:
    place = _place(call, signed=False)
    await put_object(call.world, call.principal, place, call.chunks())
    return DONE


def _place(call: Call, *, signed: bool) -> Place:
    bucket = call.path["bucket"]
    if signed:
        if not bucket.endswith(SIGNED):
            raise NotFound(
                f"there is no bucket {bucket[:60]!r} here",
                hint=f"Ask for {bucket[:60]}{SIGNED}, and follow the link.",
            )
        bucket = bucket.removesuffix(SIGNED)
    return place_of(call.workspace, bucket, call.path["key"])


def _redirect(call: Call, place: Place, *, writes: bool) -> Answer:
    public = place.bucket == "public" and not writes
    good_for_ms = PUBLIC_LINK_GOOD_FOR_MS if public else LINK_GOOD_FOR_MS
    token = call.world.links.token(
        place.workspace,
        place.name,
        writes=writes,
        by=call.principal.name,
        until_ms=call.world.clock.now_ms() + good_for_ms,
    )
    base = f"{call.world.config.url}/api/v2/workspaces/{place.workspace}"
    url = f"{base}/objects/{place.bucket}/{quote(place.key)}?link={token}"
    answer = json_answer(ObjectLink(url=url), status=307)
    return Answer(status=307, body=answer.body, headers=(("location", url),))


_LINKED = "/object_storage/{bucket}/{key:path}"
_OBJECT = "/objects/{bucket}/{key:path}"
ROUTES = (
    Route(
        method="GET",
        path="/object_storage/{bucket}",
        handler=list_,
        summary="List the objects of a bucket, private or public, by their keys",
        answer=ObjectList,
        query=(
            Parameter("prefix", about="Only keys that begin so."),
            Parameter("continuation", about="What the page before said."),
        ),
    ),
    Route(
        method="PUT",
        path=_LINKED,
        handler=link_to_put,
        summary="Put an object, or without a body get a link to do so; BUCKET_presigned",
        answer=ObjectLink,
        raw_body=True,
        status=307,
    ),
    Route(
        method="GET",
        path=_LINKED,
        handler=link_to_get,
        summary="A link to read an object with; private_presigned, or public",
        answer=ObjectLink,
        status=307,
    ),
    Route(
        method="DELETE",
        path=_LINKED,
        handler=delete,
        summary="Delete an object, if it is there",
    ),
    Route(
        method="HEAD",
        path=_OBJECT,
        linked=True,
        handler=head,
        summary="How large an object is",
        media=BYTES,
    ),
    Route(
        method="GET",
        path=_OBJECT,
        linked=True,
        handler=get,
        summary="An object, or with `Range: bytes=FIRST-LAST` a part of it; by token or by link",
        media=BYTES,
        ranges=True,
    ),
    Route(
        method="PUT",
        path=_OBJECT,
        linked=True,
        handler=put,
        summary="Put an object, whole when all of it has come; by token or by link",
        raw_body=True,
    ),
)
