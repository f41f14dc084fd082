"""Files of the home that are broken, gone, or tell of somebody else's process."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from leptonai.core.records import Secret
from leptonai.errors import InvalidRequest, NotFound, Unavailable
from leptonai.home import Home
from leptonai.main.ending import shut_down
from leptonai.main.opening import key_of, open_store_of, see_to_token
from leptonai.ports.store import Put, Query
from leptonai.stores import open_store
from leptonai.testing.platform import RunningPlatform

SECRET = Secret(
    workspace="w",
    id="A",
    name="A",
    created_at_ms=1,
    modified_at_ms=1,
    owner="admin",
    ciphertext=b"x",
)


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "a home")
    made.make()
    return made


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("attacked") / "home") as running:
        yield running


@pytest.fixture
def stranger():
    """A process of somebody who has nothing to do with it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    assert process.poll() is None
    process.kill()
    process.wait()


def test_nobody_elses_process_is_taken_for_the_platform_or_the_gateway_nor_ended(home, stranger):
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for started in ("", "1", f"{boot}/1"):
        process = {"pid": stranger.pid, "started": started}
        home.state_file.write_text(
            json.dumps(
                {"url": "http://127.0.0.1:9", "gateway_url": "http://127.0.0.1:9"}
                | {"workspace": "default", "version": "1", "token_file": "t", **process}
            )
        )
        home.gateway_record.write_text(
            json.dumps(
                {"host": "127.0.0.1", "port": 9, "control_url": "http://127.0.0.1:9"}
                | {"version": "1", **process}
            )
        )
        home.lock.write_text(f"{stranger.pid} {started}\n")
        assert (home.state(), home.holder()) == (None, None)
        ended = shut_down(home, keep=True)
        assert (ended.platform, ended.gateway, ended.workloads) == (False, False, 0)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"pid": "x"}', '{"pid": -1, "started": "a"}', "\x00\xff"]
)
def test_a_record_of_a_process_that_is_none_is_nobodys(home, text):
    for file in (home.state_file, home.gateway_record, home.lock):
        file.write_bytes(text.encode("latin-1"))
    assert (home.state(), home.holder()) == (None, None)
    assert shut_down(home, keep=True).platform is False


@pytest.mark.parametrize("text", ["", "{", "[]", '{"database": ""}', '{"workspaces": 1}', "\xff"])
def test_settings_that_cannot_be_read_are_not_taken_for_none(home, text):
    home.config_file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidRequest, match="which database, blobs and workspaces to use"):
        home.config()


@pytest.mark.parametrize("text", ["", "\n", "short", "a b" * 20, "\xff" * 40, "x" * 5_000])
def test_a_token_file_that_holds_none_is_told(home, text):
    home.token_file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidRequest, match="holds no token"):
        see_to_token(home.token_file)


def test_a_token_that_others_could_read_is_theirs_no_more(home):
    see_to_token(home.token_file)
    home.token_file.chmod(0o644)
    see_to_token(home.token_file)
    assert home.token_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["removed", "emptied"])
def test_no_empty_database_takes_the_place_of_one_that_is_gone(home, damage):
    async def story():
        store = await open_store_of(home, home.config())
        await key_of(home, store)
        await store.close()
        if damage == "removed":
            home.database.unlink()
        else:
            home.database.write_bytes(b"")
        with pytest.raises(NotFound, match="is gone or empty"):
            await open_store_of(home, home.config())
        home.key_file.unlink()  # as the hint says
        await (await open_store_of(home, home.config())).close()

    asyncio.run(story())


def test_a_new_key_does_not_take_the_place_of_one_that_secrets_are_sealed_with(home):
    async def story():
        store = await open_store_of(home, home.config())
        await key_of(home, store)
        home.key_file.unlink()
        await key_of(home, store)  # nothing is sealed with it yet
        home.key_file.unlink()
        await store.commit(Put(SECRET))
        with pytest.raises(NotFound, match="1 secrets are sealed with it"):
            await key_of(home, store)
        await store.close()

    asyncio.run(story())


@pytest.mark.parametrize("damage", ["removed", "replaced", "emptied"])
def test_nothing_is_acknowledged_that_goes_to_a_database_which_is_gone(home, damage):
    async def story():
        store = await open_store(f"sqlite:///{home.database}")
        (kept,) = await store.commit(Put(SECRET))
        if damage == "emptied":
            os.truncate(home.database, 0)
        else:
            aside = home.database.rename(home.path / "aside")
            if damage == "replaced":
                shutil.copy(aside, home.database)
        for _ in range(2):
            with pytest.raises(Unavailable, match="removed, replaced or emptied"):
                await store.commit(Put(kept))
        if damage != "emptied":
            aside.replace(home.database)
            await store.commit(Put(kept))
            assert await store.count(Secret, Query()) == 1
        with suppress(Exception):
            await store.close()

    asyncio.run(story())


def test_a_home_may_have_any_name(tmp_path):
    async def story():
        for name in ("a b", "100%25", "what?", "a#b", "é", "line\nend", "l" * 200):
            directory = tmp_path / name
            directory.mkdir()
            store = await open_store(f"sqlite:///{directory}/lepton.db")
            await store.close()
            assert (directory / "lepton.db").stat().st_size > 0

    asyncio.run(story())


def test_a_platform_whose_state_file_is_lost_can_still_be_stopped(platform):
    pid = platform.state.pid
    platform.home.state_file.unlink()
    status = platform.cli("status", check=False)
    assert (status.returncode, f"(pid {pid})" in status.stderr) == (1, True)
    assert "stopped; what it ran goes on" in platform.cli("down", "--keep").stdout
    assert platform.home.holder() is None
    platform.up()


def test_the_token_is_not_sent_to_whoever_listens_after_a_crash(platform):
    platform.kill()
    try:
        answer = platform.cli("job", "list", check=False)
        assert (answer.returncode, answer.stderr.splitlines()[0].rpartition(": ")[2]) == (
            1,
            "its process is gone",
        )
    finally:
        platform.up()


def test_whatever_lies_in_the_home_at_the_start_is_survived_or_named(platform):
    """Each file in turn: a directory in its place, noise, nothing."""
    home = platform.home
    platform.cli("down")
    named = {"token", "config.json", "lepton.db", "platform.key"}
    for file in (home.token_file, home.config_file, home.key_file, home.database):
        kept = file.read_bytes()
        file.write_bytes(b"\xfe" * 1_000)
        answer = platform.cli("up", "-d", "--port", "0", "--gateway-port", "0", check=False)
        lines = answer.stderr.splitlines()
        assert (answer.returncode, len(lines)) == (1, 2), answer.stderr
        assert any(name in lines[0] for name in named), lines
        assert file.read_bytes() == b"\xfe" * 1_000
        file.write_bytes(kept)
        file.chmod(0o600)
    for file in (home.gateway / "routes.json", home.gateway_record, home.lock, home.state_file):
        file.write_bytes(b"\xfe" * 1_000)
    (home.path / "attempts" / "epoch").write_bytes(b"")
    (home.path / "attempts" / "live" / "junk").write_text("not an attempt")
    (home.path / "attempts" / "live" / "loop").symlink_to("loop")
    (home.path / "attempts" / "live" / "empty").mkdir()
    platform.up()
    assert platform.cli("job", "list").returncode == 0
