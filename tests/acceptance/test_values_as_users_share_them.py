"""Key spaces, queues and objects from the command line and from programs."""

import asyncio
import os
import threading
import urllib.request
from itertools import islice

import pytest

from leptonai.client import AsyncLeptonClient
from leptonai.errors import NotFound
from leptonai.testing.platform import RunningPlatform


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("values") / "home") as running:
        yield running


def test_a_value_is_exactly_the_bytes_that_were_put(platform, tmp_path):
    platform.cli("kv", "create", "results")
    value, got = tmp_path / "value", tmp_path / "got"
    for content in (bytes(range(256)), b"", b"--x\r\n", os.urandom(256 << 10)):
        value.write_bytes(content)
        platform.cli("kv", "put", "results", "a/b c?&#%2F", "--file", str(value))
        platform.cli("kv", "get", "results", "a/b c?&#%2F", "--to", str(got))
        assert got.read_bytes() == content
    platform.cli("kv", "put", "results", "piped", stdin="two\nlines\n")
    assert platform.cli("kv", "get", "results", "piped").stdout == "two\nlines\n"
    platform.cli("kv", "delete", "results", "piped", "never-there")
    keys = ("kv", "keys", "results", "-o", "json")
    assert platform.answer(*keys) == ["a/b c?&#%2F"]
    platform.cli("kv", "remove", "results")
    assert platform.answer("kv", "list", "-o", "json") == []


def test_keys_come_page_by_page_and_no_more_are_shown_than_were_asked_for(platform):
    with platform.client() as client:
        client.key_spaces.create("many")
        for at in range(1_005):
            client.key_spaces.put("many", f"key-{at:04}", b"")
        names = [f"key-{at:04}" for at in range(1_005)]
        assert [*client.key_spaces.keys("many")] == names
        assert [*client.key_spaces.keys("many", "key-100")] == names[1_000:]
        assert [*islice(client.key_spaces.keys("many"), 2)] == names[:2]
    shown = platform.cli("kv", "keys", "many", "--limit", "2")
    assert shown.stdout.split() == names[:2]
    assert shown.stderr == "there are more than 2: see --limit and --prefix\n"


def test_a_message_reaches_one_receiver_who_may_have_waited_for_it(platform):
    platform.cli("queue", "create", "work")
    platform.cli("queue", "send", "work", "first")
    platform.cli("queue", "send", "work", stdin="second ü\n")
    assert platform.answer("queue", "length", "work", "-o", "json")["length"] == 2
    assert platform.cli("queue", "receive", "work").stdout == "first\n"
    assert platform.answer("queue", "receive", "work", "-o", "json") == {"message": "second ü\n"}
    with platform.client() as client:
        later = threading.Timer(0.3, client.queues.send, ("work", "third"))
        later.start()
        assert platform.cli("queue", "receive", "work", "--wait", "60s").stdout == "third\n"
        later.join()
        assert client.queues.receive("work") is None


def test_objects_of_any_size_come_back_whole_and_links_need_no_token(platform, tmp_path):
    source, got = tmp_path / "large", tmp_path / "got"
    source.write_bytes(os.urandom(20 << 20))
    platform.cli("object", "put", str(source), "reports/may 1.bin")
    platform.cli("object", "get", "reports/may 1.bin", str(got))
    assert got.read_bytes() == source.read_bytes()
    got.write_bytes(b"something else")
    platform.cli("object", "get", "reports/may 1.bin", str(got))
    assert got.read_bytes() == source.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    url = platform.cli("object", "link", "reports/may 1.bin").stdout.strip()
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == source.read_bytes()
    to = platform.cli("object", "link", "--write", "reports/june").stdout.strip()
    with urllib.request.urlopen(urllib.request.Request(to, b"june", method="PUT")) as answer:
        assert answer.status == 200
    assert platform.cli("object", "get", "reports/june", "-").stdout == "june"
    listed = platform.answer("object", "list", "reports/", "-o", "json")
    assert [(each["key"], each["size"]) for each in listed] == [
        ("reports/june", 4),
        ("reports/may 1.bin", 20 << 20),
    ]
    platform.cli("object", "remove", "reports/june", "reports/may 1.bin")
    assert platform.answer("object", "list", "-o", "json") == []


def test_what_had_come_of_an_object_is_not_fetched_again(platform, tmp_path):
    source, got = tmp_path / "large", tmp_path / "got"
    source.write_bytes(os.urandom(4 << 20))
    told: list[int] = []
    with platform.client() as client:
        client.objects.put("public", "large", source)
        client.objects.get("public", "large", got)
        with pytest.raises(NotFound, match="there is no object 'large' in the private bucket"):
            client.objects.get("private", "large", got)

        def stop(done: int, total: int) -> None:
            told.append(done)
            if len(told) == 1:
                raise KeyboardInterrupt

        got.unlink()
        with pytest.raises(KeyboardInterrupt):
            client.objects.get("public", "large", got, stop)
        assert not got.exists()
        client.objects.get("public", "large", got, stop)
    assert got.read_bytes() == source.read_bytes()
    assert told[1] > told[0]


def test_programs_that_do_not_block_share_the_same(platform):
    async def main() -> None:
        with platform.client() as blocking:
            url, token = blocking.url, platform.token
        async with AsyncLeptonClient(url=url, token=token) as client:
            await client.key_spaces.create("async")
            await client.key_spaces.put("async", "key", b"\x00")
            assert await client.key_spaces.get("async", "key") == b"\x00"
            assert [key async for key in client.key_spaces.keys("async")] == ["key"]
            await client.queues.create("async")
            await client.queues.send("async", "hello")
            assert await client.queues.receive("async") == "hello"
            assert [each async for each in client.objects.list("private")] == []

    asyncio.run(main())
