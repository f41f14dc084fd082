"""Key spaces, queues and objects over HTTP: put in, taken out, and guarded."""

import asyncio
from urllib.parse import parse_qs, urlsplit

from api_world import with_api

from leptonai.control.actions.objects import place_of
from leptonai.spec.values import MAX_KEY_BYTES, MAX_MESSAGE_BYTES, MAX_VALUE_BYTES

# --- key spaces ----------------------------------------------------------------------------------


async def a_space(api, name="cache", who="ana"):
    answer = await api.call("POST", f"/kv/namespaces/{name}", who=who)
    assert answer.status_code == 200, answer.text
    return answer.json()


@with_api
async def test_a_value_is_put_as_a_form_or_as_it_is(api):
    made = await a_space(api)
    assert (made["name"], made["metadata"]["name"]) == ("cache", "cache")
    assert made["status"] == {"redis_url": ""}  # which published clients insist on
    values = "/kv/namespaces/cache/values"
    form = await api.call("POST", f"{values}/a/b", files={"value": b"\x00\xff" * 1000})
    assert form.status_code == 200, form.text
    plain = await api.call("POST", f"{values}/plain", content=b"as it is")
    assert plain.status_code == 200
    assert (await api.call("GET", f"{values}/a/b")).content == b"\x00\xff" * 1000
    assert (await api.call("GET", f"{values}/plain")).content == b"as it is"
    keys = (await api.call("GET", "/kv/namespaces/cache/keys")).json()
    assert keys == {"keys": ["a/b", "plain"], "cursor": 0}
    assert (await api.call("DELETE", f"{values}/plain")).status_code == 200
    assert (await api.call("DELETE", f"{values}/plain")).status_code == 200  # is not there
    assert (await api.call("GET", f"{values}/plain")).status_code == 404


@with_api
async def test_keys_are_read_page_by_page(api):
    await a_space(api)
    for number in range(5):
        await api.call("POST", f"/kv/namespaces/cache/values/k{number}", content=b"1")
    found, cursor = [], 0
    while True:
        page = (
            await api.call("GET", f"/kv/namespaces/cache/keys?limit=2&cursor={cursor}&prefix=k")
        ).json()
        found += page["keys"]
        cursor = page["cursor"]
        if not cursor:
            break
    assert found == [f"k{number}" for number in range(5)]


@with_api
async def test_a_key_space_goes_with_its_values(api):
    await a_space(api)
    await api.call("POST", "/kv/namespaces/cache/values/k", content=b"old")
    assert (await api.call("POST", "/kv/namespaces/cache")).status_code == 409
    assert (await api.call("DELETE", "/kv/namespaces/cache")).status_code == 200
    assert (await api.call("GET", "/kv/namespaces/cache/values/k")).status_code == 404
    await a_space(api)
    assert (await api.call("GET", "/kv/namespaces/cache/values/k")).status_code == 404
    assert [each["name"] for each in (await api.call("GET", "/kv/namespaces")).json()] == ["cache"]


@with_api
async def test_what_cannot_be_a_key_or_a_value_is_refused(api):
    await a_space(api)
    values = "/kv/namespaces/cache/values"
    for path, content, status in (
        (f"{values}/{'k' * (MAX_KEY_BYTES + 1)}", b"1", 400),
        (f"{values}/", b"1", 400),
        (f"{values}/large", b"1" * (MAX_VALUE_BYTES + 1), 413),
        ("/kv/namespaces/none/values/k", b"1", 404),
        ("/kv/namespaces/Not_A_Name", b"", 400),
    ):
        answer = await api.call("POST", path, content=content)
        assert answer.status_code == status, (path, answer.text)
        assert {"code", "message", "hint"} <= answer.json().keys()
    damaged = {"content-type": "multipart/form-data; boundary=x"}
    for body in (
        b"",
        b"--x\r\nnothing",
        b'--x\r\ncontent-disposition: form-data; name="value"\r\n',
    ):
        answer = await api.call("POST", f"{values}/k", content=body, headers=damaged)
        assert answer.status_code == 400, body
    other = await api.call("POST", f"{values}/k", files={"another": b"1"})
    assert other.status_code == 400
    many = [(f"part{number}", b"1") for number in range(101)]
    assert (await api.call("POST", f"{values}/k", files=many)).status_code == 400
    assert (await api.call("GET", "/kv/namespaces/cache/keys")).json()["keys"] == []


@with_api
async def test_all_of_a_workspace_share_a_key_space_and_its_owner_removes_it(api):
    await a_space(api, who="ana")
    value = "/kv/namespaces/cache/values/k"
    assert (await api.call("POST", value, who="ben", content=b"1")).status_code == 200
    assert (await api.call("GET", value, who="ana")).content == b"1"
    assert (await api.call("DELETE", "/kv/namespaces/cache", who="ben")).status_code == 403
    assert (await api.call("GET", "/kv/namespaces", who="gateway")).json() == []
    assert (await api.call("POST", value, who="gateway", content=b"2")).status_code == 404
    assert (await api.call("DELETE", "/kv/namespaces/cache", who="admin")).status_code == 200


# --- queues --------------------------------------------------------------------------------------


@with_api
async def test_messages_come_in_their_order_to_one_receiver_each(api):
    made = await api.call("POST", "/queue", json={"name": "work"})
    assert made.json()["name"] == "work"
    assert (await api.call("POST", "/queue", json={"name": "work"})).status_code == 409
    for text in ("one", "two", "two", "drei Grüße", "x" * MAX_MESSAGE_BYTES):
        sent = await api.call("POST", "/queue/work/messages", json={"message": text})
        assert sent.status_code == 200, sent.text
    assert (await api.call("GET", "/queue/work/length")).json() == {"length": 4}
    taken = await asyncio.gather(*(api.call("GET", "/queue/work/messages") for _ in range(5)))
    texts = [each.json()[0]["message"] for each in taken if each.json()]
    assert sorted(texts) == sorted(["one", "two", "drei Grüße", "x" * MAX_MESSAGE_BYTES])
    assert (await api.call("GET", "/queue/work/messages")).json() == []
    assert (await api.call("DELETE", "/queue/work", who="ben")).status_code == 403
    assert (await api.call("DELETE", "/queue/work")).status_code == 200
    assert (await api.call("GET", "/queue")).json() == []


@with_api
async def test_what_is_no_message_is_refused(api):
    await api.call("POST", "/queue", json={"name": "work"})
    for content, status in (
        (b"", 400),
        (b"[]", 400),
        (b'{"message": 1}', 400),
        (b'{"message": "\xff"}', 400),
        (b'{"message": "a\\u0000b"}', 400),
        (b'{"message": "' + b"x" * (MAX_MESSAGE_BYTES + 1) + b'"}', 413),
    ):
        answer = await api.call("POST", "/queue/work/messages", content=content)
        assert answer.status_code == status, content[:40]
    assert (await api.call("GET", "/queue/work/length")).json() == {"length": 0}
    assert (await api.call("GET", "/queue/none/length")).status_code == 404


# --- objects -------------------------------------------------------------------------------------


async def put(api, key, content, bucket="private", who="ana"):
    path = f"/object_storage/{bucket}_presigned/{key}"
    answer = await api.call("PUT", path, who=who, content=content)
    assert answer.status_code == 200, answer.text


async def link_to(api, method, path, who="ana"):
    answer = await api.call(method, path, who=who)
    assert answer.status_code == 307, answer.text
    assert answer.json()["url"] == answer.headers["location"]
    return answer.headers["location"]


@with_api
async def test_an_object_is_put_and_read_through_links(api):
    url = await link_to(api, "PUT", "/object_storage/private_presigned/dir/a b.bin")
    assert (await api.http.put(url, content=b"0123456789")).status_code == 200
    url = await link_to(api, "GET", "/object_storage/private_presigned/dir/a b.bin")
    read = await api.http.get(url)
    assert read.content == b"0123456789"
    part = await api.http.get(url, headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    for path in ("/object_storage/private", "/object_storage/private/"):
        listed = (await api.call("GET", f"{path}?prefix=dir/")).json()
        assert [(each["key"], each["size"]) for each in listed["items"]] == [("dir/a b.bin", 10)]
        assert (listed["prefix"], listed["nextContinuationToken"]) == ("dir/", "")
    assert (await api.call("DELETE", "/object_storage/private/dir/a b.bin")).status_code == 200
    assert (await api.http.get(url)).status_code == 404


@with_api
async def test_a_link_is_good_for_its_object_its_purpose_and_its_time(api):
    await put(api, "mine", b"1")
    await put(api, "other", b"2")
    reads = await link_to(api, "GET", "/object_storage/private_presigned/mine")
    writes = await link_to(api, "PUT", "/object_storage/private_presigned/mine")
    token = parse_qs(urlsplit(reads).query)["link"][0]
    assert (await api.http.put(reads, content=b"x")).status_code == 403
    assert (await api.http.get(writes)).status_code == 404
    for path in ("/objects/private/other", "/workspace", "/usersecrets", "/jobs", "/nothing"):
        answer = await api.http.get(f"/api/v2/workspaces/ws{path}?link={token}")
        assert answer.status_code in (403, 404), path
    answer = await api.http.get(f"/api/v2/workspaces/other/objects/private/mine?link={token}")
    assert answer.status_code == 404
    for damaged in (token[:-2] + "AA", "lepton_link_", "lepton_link_e30.e30", token + "x"):
        answer = await api.http.get(f"/api/v2/workspaces/ws/objects/private/mine?link={damaged}")
        assert answer.status_code == 401
    assert (await api.http.get(reads)).content == b"1"
    api.clock.at_ms += 901_000
    assert (await api.http.get(reads)).status_code == 401
    assert (await api.http.put(writes, content=b"x")).status_code == 401


@with_api
async def test_private_objects_are_their_owners_and_public_ones_are_read_by_all(api):
    await put(api, "k", b"ana's")
    await put(api, "k", b"all's", bucket="public")
    assert (await api.call("GET", "/object_storage/private", who="ben")).json()["items"] == []
    hidden = await api.call("GET", "/object_storage/private_presigned/k", who="ben")
    assert hidden.status_code == 404
    taken = await api.call("PUT", "/object_storage/private_presigned/k", who="ben", content=b"x")
    assert taken.status_code == 403
    url = await link_to(api, "GET", "/object_storage/public/k", who="ben")
    assert (await api.http.get(url)).content == b"all's"
    await api.call("DELETE", "/object_storage/private/k", who="ben")  # of which he knows nothing
    assert (await api.call("DELETE", "/object_storage/public/k", who="ben")).status_code == 403
    assert (await api.call("GET", "/objects/private/k")).content == b"ana's"
    assert (await api.call("PUT", "/objects/private/k", content=b"")).status_code == 200
    assert (await api.call("GET", "/objects/private/k")).content == b""


@with_api
async def test_what_cannot_be_an_object_is_refused(api):
    for path in ("none_presigned/k", "private/k", "private_presigned/" + "k" * 513):
        answer = await api.call("PUT", f"/object_storage/{path}", content=b"1")
        assert answer.status_code in (400, 404), path
    # A key is a name and no path: it leads nowhere.
    await put(api, "..%2F..%2Fetc%2Fpasswd", b"1")
    listed = (await api.call("GET", "/object_storage/private")).json()["items"]
    assert [each["key"] for each in listed] == ["../../etc/passwd"]


def test_a_place_has_a_known_bucket_and_a_printable_key() -> None:
    assert place_of("ws", "public", "a/b").name == "public/a/b"
