"""The SDK's decisions: where the workspace is, what to send again, what lines are."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.client.connection import Connection, local_platform, resolve
from leptonai.client.messages import (
    LONGEST_PAUSE_S,
    MAX_LINE_CHARS,
    Answer,
    Lines,
    Request,
    is_done_already,
    may_try_again,
    path_of,
    pause_s,
)
from leptonai.errors import InvalidRequest, Unauthenticated, Unavailable
from leptonai.home import place_of

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path):
    """Of a platform that was started on this machine."""
    (tmp_path / "run").mkdir()
    facts = {"url": "http://127.0.0.1:8420", "workspace": "team", "pid": os.getpid()}
    (tmp_path / "run" / "platform.json").write_text(json.dumps(facts))
    (tmp_path / "token").write_text("local-token\n")
    return tmp_path


def test_the_platform_of_this_machine_is_used_where_nothing_else_is_said(home):
    assert resolve(environ={"LEPTON_HOME": str(home)}) == Connection(
        url="http://127.0.0.1:8420/api/v2/workspaces/team",
        token="local-token",
        local=True,
        blobs=home / "blobs",
    )


def test_the_environment_comes_before_this_machine_and_arguments_before_both(home):
    environ = {
        "LEPTON_HOME": str(home),
        "LEPTON_WORKSPACE_URL": "https://lepton.example/api/v2/workspaces/ws",
        "LEPTON_WORKSPACE_TOKEN": "t1",
    }
    assert resolve(environ=environ) == Connection(
        url="https://lepton.example/api/v2/workspaces/ws", token="t1"
    )
    assert resolve(url="http://other:1/", token="t2", workspace="w", environ=environ) == Connection(
        url="http://other:1/api/v2/workspaces/w", token="t2"
    )


def test_the_local_token_is_never_sent_to_another_server(home):
    environ = {"LEPTON_HOME": str(home)}
    for url in ("http://evil.example", "http://127.0.0.1:8421", "http://127.0.0.1.evil.tld:8420"):
        with pytest.raises(Unauthenticated, match="no token for"):
            resolve(url=url, environ=environ)


def test_a_copy_of_a_home_is_not_where_the_platform_of_the_original_runs(home, tmp_path):
    record = home / "run" / "platform.json"
    facts = json.loads(record.read_text())
    record.write_text(json.dumps({**facts, "place": place_of(home)}))
    assert resolve(environ={"LEPTON_HOME": str(home)}).local
    shutil.copytree(home / "run", tmp_path / "copy" / "run")
    with pytest.raises(Unavailable, match=r"no Lepton platform is running in .*copy"):
        resolve(environ={"LEPTON_HOME": str(tmp_path / "copy")})


def test_without_a_platform_the_hint_says_how_to_start_one(tmp_path):
    with pytest.raises(Unavailable) as caught:
        resolve(environ={"LEPTON_HOME": str(tmp_path)})
    assert caught.value.wire() == {
        "code": "Unavailable",
        "message": f"no Lepton platform is running in {tmp_path}",
        "hint": "start one with `leptonai up -d`",
    }


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "localhost:8420", "http://", "http://h:port", "http://h/p?q", "http://h/\x07x"],
)
def test_what_is_no_url_is_refused_with_an_example(url):
    with pytest.raises(InvalidRequest) as caught:
        resolve(url=url, token="t", environ={"LEPTON_HOME": "/nowhere"})
    assert caught.value.hint.startswith("for example http://")


def test_a_token_with_a_line_break_is_refused():
    with pytest.raises(InvalidRequest):
        resolve(url="http://h", token="a\r\nX: y", environ={"LEPTON_HOME": "/nowhere"})


def test_a_token_is_not_shown_in_a_representation():
    assert "t0ken" not in repr(Connection(url="http://h/x", token="t0ken"))


def test_a_broken_record_of_the_platform_is_none(home):
    for text in ("", "[]", '{"url": 1}', "{"):
        (home / "run" / "platform.json").write_text(text)
        assert local_platform(home) is None


def test_a_process_that_is_gone_is_known_to_be_gone(home):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert local_platform(home).process_is_gone is False
    facts = json.loads((home / "run" / "platform.json").read_text()) | {"pid": ended.pid}
    (home / "run" / "platform.json").write_text(json.dumps(facts))
    assert local_platform(home).process_is_gone is True


def test_a_post_is_repeated_only_with_a_key():
    bare, keyed = Request(method="POST", path="/x"), Request(method="POST", path="/x", key="k")
    unavailable, refused = Answer(503), Answer(429)
    assert [may_try_again(bare, unavailable), may_try_again(bare, refused)] == [False, True]
    assert [may_try_again(keyed, unavailable), may_try_again(keyed, Answer(500))] == [True, False]
    assert is_done_already(Request(method="DELETE", path="/x"), Answer(404))


def test_parts_of_a_path_are_quoted_and_parameters_left_out_where_none():
    assert path_of("jobs", "a/b ü", q=None, page=1, follow=False, status=["A", "B"]) == (
        "/jobs/a%2Fb%20%C3%BC?page=1&follow=false&status=A&status=B"
    )
    assert path_of("datasets", "digits@3") == "/datasets/digits@3"


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_to_a_bound(attempt, chance):
    assert 0 < pause_s(attempt, chance) <= LONGEST_PAUSE_S
    assert pause_s(attempt + 1, chance) >= pause_s(attempt, chance)


@given(st.text(), st.lists(st.integers(0, 50)))
def test_lines_do_not_depend_on_where_chunks_are_cut(text, sizes):
    content = text.replace("\r", "").encode()
    lines, found, rest = Lines(), [], content
    for size in sizes:
        found += lines.feed(rest[:size])
        rest = rest[size:]
    found += lines.feed(rest) + lines.end()
    expected = content.decode().split("\n")
    assert found == (expected if expected[-1] else expected[:-1])


def test_a_line_without_end_is_cut_at_the_bound():
    lines = Lines()
    assert [len(line) for line in lines.feed(b"x" * (MAX_LINE_CHARS + 1))] == [MAX_LINE_CHARS]
    assert lines.end() == ["x"]


def test_bytes_that_are_no_text_are_shown_as_such():
    lines = Lines()
    assert lines.feed(b"a\xff\n") + lines.end() == ["a\ufffd"]


def test_the_sync_client_is_derived_from_the_async_one_as_it_is_now():
    tool = runpy.run_path(str(REPOSITORY / "tools" / "derive_sync_client.py"))
    assert tool["stale"]() == []


def test_a_file_of_the_sync_client_that_is_missing_or_changed_or_has_no_source_is_noticed(tmp_path):
    tool = runpy.run_path(str(REPOSITORY / "tools" / "derive_sync_client.py"))
    copy = shutil.copytree(tool["DERIVED"], tmp_path / "synchronous")
    assert tool["stale"](derived=copy) == []
    (copy / "jobs.py").unlink()
    with (copy / "pods.py").open("a") as file:
        file.write("\n")
    (copy / "extra.py").touch()
    assert tool["stale"](derived=copy) == ["extra.py", "jobs.py", "pods.py"]


def test_the_sync_client_and_the_command_line_load_nothing_heavy():
    program = (
        "import sys; import leptonai.cli.__main__, leptonai.cli.job; "
        "from leptonai.client import LeptonClient; "
        "print([name for name in ('httpx', 'rich', 'asyncio', 'numpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("[]\n", "")
