"""A directory here and one in a pod: what travels, what is refused, and what stays."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.pod_world import KEY, PATIENCE_S, RunningPod, a_pod

from leptonai.client.sessions import Tunnel, entered
from leptonai.client.syncing import listing, sync
from leptonai.errors import InvalidRequest, LeptonError
from leptonai.spec.pods import (
    SYNC_BLOCK_BYTES,
    SyncContent,
    SyncContents,
    SyncDone,
    SyncEntry,
    SyncFiles,
    SyncRemoval,
    SyncStart,
    SyncWants,
)


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    with a_pod(tmp_path_factory.mktemp("pod") / "home") as running:
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    return place


def synced(pod: RunningPod, here: Path, to: str, *, delete: bool = False) -> SyncDone:
    async def main() -> SyncDone:
        async with asyncio.timeout(PATIENCE_S), entered(pod.url, KEY, "/sync") as tunnel:
            return await sync(tunnel, here, listing(here), to=to, delete=delete)

    return asyncio.run(main())


def tree(place: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = "directory"
        else:
            found[name] = (path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found


def test_all_of_it_arrives_and_then_only_what_has_changed(
    pod: RunningPod, here: Path, request: pytest.FixtureRequest
) -> None:
    (here / "src").mkdir()
    (here / "empty").mkdir()
    (here / "src" / "a.py").write_text("print(1)")
    (here / "run.sh").write_text("#!/bin/sh")
    (here / "run.sh").chmod(0o755)
    (here / "link").symlink_to("src/a.py")
    (here / "nothing").write_bytes(b"")
    (here / "umläut é.txt").write_text("x")
    there = pod.home / "first"
    assert synced(pod, here, "first").written == 5
    assert tree(there) == tree(here)
    assert synced(pod, here, "first") == SyncDone()
    (here / "src" / "a.py").write_text("print(2)")
    assert synced(pod, here, "first") == SyncDone(written=1, bytes_written=8)
    assert tree(there) == tree(here)


def test_of_a_large_file_only_blocks_that_differ_travel(pod: RunningPod, here: Path) -> None:
    content = bytearray(os.urandom(20 * SYNC_BLOCK_BYTES + 77))
    (here / "large").write_bytes(content)
    synced(pod, here, "large")
    content[5 * SYNC_BLOCK_BYTES + 3] ^= 1
    (here / "large").write_bytes(content)
    assert synced(pod, here, "large").bytes_written == SYNC_BLOCK_BYTES
    content += b"more"
    (here / "large").write_bytes(content)
    assert synced(pod, here, "large").bytes_written == 77 + 4
    (here / "large").write_bytes(content[: SYNC_BLOCK_BYTES + 1])
    synced(pod, here, "large")
    assert tree(pod.home / "large") == tree(here)


def test_a_file_that_was_only_touched_does_not_travel(pod: RunningPod, here: Path) -> None:
    (here / "a").write_bytes(b"x" * 1000)
    synced(pod, here, "touched")
    os.utime(here / "a", ns=(5, 5))
    assert synced(pod, here, "touched").bytes_written == 0
    assert (pod.home / "touched" / "a").stat().st_mtime_ns == 5


BLOCKS = st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=5)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(BLOCKS, BLOCKS, st.binary(max_size=9))
def test_whatever_a_file_was_it_becomes_what_it_is(
    pod: RunningPod, here: Path, before: list[bytes], after: list[bytes], tail: bytes
) -> None:
    for number, content in enumerate((before, after)):
        data = b"".join(letter * SYNC_BLOCK_BYTES for letter in content) + tail[:: 1 - 2 * number]
        (here / "f").write_bytes(data)
        os.utime(here / "f", ns=(number + 10, number + 10))
        synced(pod, here, "becomes")
        assert (pod.home / "becomes" / "f").read_bytes() == data


def test_what_ignore_files_name_stays_here_and_there(pod: RunningPod, here: Path) -> None:
    (here / ".gitignore").write_text("*.log\nbuild/\n")
    (here / ".leptonignore").write_text("/data\n")
    (here / ".git").mkdir()
    (here / ".git" / "config").write_text("secret")
    (here / "data").mkdir()
    (here / "data" / "big").write_text("x")
    (here / "a.log").write_text("x")
    (here / "kept").write_text("x")
    synced(pod, here, "ignoring")
    there = pod.home / "ignoring"
    assert set(tree(there)) == {".gitignore", ".leptonignore", "kept"}
    (there / "build").mkdir()
    (there / "build" / "out").write_text("made in the pod")
    (there / "train.log").write_text("made in the pod")
    (there / "stale" / "deep").mkdir(parents=True)
    (there / "stale" / "deep" / "file").write_text("x")
    assert synced(pod, here, "ignoring").removed == 0
    assert synced(pod, here, "ignoring", delete=True).removed == 3
    assert set(tree(there)) == {
        *(".gitignore", ".leptonignore", "kept", "build", "build/out", "train.log"),
    }


def test_the_whole_home_keeps_what_the_platform_has_there(pod: RunningPod, here: Path) -> None:
    (here / "mine").write_text("x")
    synced(pod, here, "~", delete=True)
    assert (pod.home / ".lepton").is_dir()
    assert (pod.home / "mine").exists()


def test_links_that_lead_out_stay_here(pod: RunningPod, here: Path) -> None:
    (here / "passwd").symlink_to("/etc/passwd")
    (here / "up").symlink_to("../../x")
    os.mkfifo(here / "pipe")
    found = listing(here)
    assert found.entries == ()
    assert len(found.skipped) == 3
    assert synced(pod, here, "links") == SyncDone()


@pytest.mark.parametrize("to", ["/etc", "..", "a/../../b", "/", "a\0b", "~root", "~/../x"])
def test_nothing_outside_of_the_home_is_written_to(pod: RunningPod, here: Path, to: str) -> None:
    (here / "f").write_text("x")
    if to in ("~root",):  # a plain name, for no shell is asked
        synced(pod, here, to)
        assert (pod.home / "~root" / "f").exists()
        return
    with pytest.raises(InvalidRequest) as told:
        synced(pod, here, to)
    assert told.value.hint in ("name a directory below its home", "send plain names")


def test_what_is_a_link_in_the_pod_is_not_written_through(
    pod: RunningPod, here: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("untouched")
    there = pod.home / "through"
    there.mkdir()
    (there / "d").symlink_to(outside)
    (there / "f").symlink_to(outside / "f")
    (here / "d").mkdir()
    (here / "d" / "f").write_text("new")
    (here / "f").write_text("new")
    done = synced(pod, here, "through", delete=True)
    assert (outside / "f").read_text() == "untouched"
    assert (there / "f").read_text() == "new"
    assert not (there / "f").is_symlink()
    assert [line.partition(":")[0] for line in done.refused] == ["d", "d/f"]


def test_a_directory_is_not_replaced_by_a_file(pod: RunningPod, here: Path) -> None:
    (pod.home / "kinds" / "x").mkdir(parents=True)
    (here / "x").write_text("file")
    (here / "y").write_text("file")
    done = synced(pod, here, "kinds")
    assert (len(done.refused), done.written) == (1, 1)
    assert not list((pod.home / "kinds").glob(".lepton-sync*"))


# --- by clients that are not ours -----------------------------------------------------------------


def speak(pod: RunningPod, *messages: object) -> SyncDone:
    """Say these, and hear how it ends."""

    async def main() -> SyncDone:
        async with asyncio.timeout(PATIENCE_S), entered(pod.url, KEY, "/sync") as tunnel:
            for message in messages:
                await tunnel.send(message)  # type: ignore[arg-type]
            while True:
                said = await hear(tunnel)
                if isinstance(said, SyncDone):
                    return said

    return asyncio.run(main())


async def hear(tunnel: Tunnel) -> SyncWants | SyncDone:
    return await tunnel.receive_value(SyncWants | SyncDone)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    ["../out", "/etc/cron.d/x", "a/../../out", "a//b", ".", "a/./b", "x/" * 200 + "y", "a\0b"],
)
@pytest.mark.parametrize("kind", ["f", "d", "l"])
def test_names_that_lead_out_are_refused(pod: RunningPod, path: str, kind: str) -> None:
    entry = SyncEntry(path, kind, 1, 1, target="x")  # type: ignore[arg-type]
    content = SyncContents(files=[SyncContent(path, 1, False, [(-1, 1)])])
    done = speak(
        pod,
        SyncStart(to="evil"),
        SyncFiles(entries=[entry], last=True),
        content,
        b"x",
        SyncRemoval(paths=[path], last=True),
    )
    assert done.refused
    assert done.written == done.removed == 0


def test_links_that_lead_out_are_refused(pod: RunningPod) -> None:
    for target in ("/etc/passwd", "../x", "a/../../x"):
        entry = SyncEntry("l", "l", target=target)
        done = speak(
            pod,
            SyncStart(to="evil2"),
            SyncFiles(entries=[entry], last=True),
            SyncRemoval(paths=[], last=True),
        )
        assert len(done.refused) == 1
    assert not (pod.home / "evil2" / "l").is_symlink()


def test_only_what_the_pod_named_as_extra_is_removed(pod: RunningPod) -> None:
    (pod.home / "mine").write_text("x")
    done = speak(
        pod,
        SyncStart(to=""),
        SyncFiles(entries=[], last=True),
        SyncRemoval(paths=["mine"], last=True),
    )
    assert done.removed == 0
    assert (pod.home / "mine").exists()


@pytest.mark.parametrize(
    "parts", [[(-1, -5)], [(3, 1)], [(0, 10**9)], [(-1, 1), (-1, 10**15)], [(-1, 3)]]
)
def test_parts_that_make_no_sense_make_no_file(
    pod: RunningPod, parts: list[tuple[int, int]]
) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), entered(pod.url, KEY, "/sync") as tunnel:
            await tunnel.send(SyncStart(to="parts"))
            await tunnel.send(SyncFiles(entries=[SyncEntry("f", "f", 1, 1)], last=True))
            await hear(tunnel)
            await tunnel.send(SyncContents(files=[SyncContent("f", 1, False, parts)]))
            await tunnel.send(b"xx")
            await tunnel.send(SyncRemoval(paths=[], last=True))
            await hear(tunnel)

    with contextlib.suppress(LeptonError):
        asyncio.run(main())
    assert not (pod.home / "parts" / "f").exists()
    assert not list((pod.home / "parts").glob(".lepton-sync*"))


def test_a_file_that_is_refused_half_way_does_not_spoil_the_next(pod: RunningPod) -> None:
    gone = SyncContent("gone", 1, False, [(-1, 2), (0, 1), (-1, 2)])  # it has no earlier content
    good = SyncContent("good", 1, False, [(-1, 4)])
    done = speak(
        pod,
        SyncStart(to="half"),
        SyncFiles(entries=[SyncEntry("gone", "f", 1, 1), SyncEntry("good", "f", 1, 1)], last=True),
        SyncContents(files=[gone, good]),
        b"aabbgood",
        SyncRemoval(paths=[], last=True),
    )
    assert (done.written, len(done.refused)) == (1, 1)
    assert tree(pod.home / "half") == {"good": (b"good", False)}


def test_who_breaks_off_in_a_file_leaves_the_old_one(pod: RunningPod, here: Path) -> None:
    (here / "f").write_text("old")
    synced(pod, here, "broken")

    async def main() -> None:
        async with entered(pod.url, KEY, "/sync") as tunnel:
            await tunnel.send(SyncStart(to="broken"))
            await tunnel.send(SyncFiles(entries=[SyncEntry("f", "f", 9, 9)], last=True))
            await hear(tunnel)
            await tunnel.send(SyncContents(files=[SyncContent("f", 9, False, [(-1, 9)])]))
            await tunnel.send(b"new")

    asyncio.run(main())
    there = pod.home / "broken"
    assert (there / "f").read_text() == "old"
    assert asyncio.run(_until_no_draft(there))


async def _until_no_draft(there: Path) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        while list(there.glob(".lepton-sync*")):
            await asyncio.sleep(0.02)
    return True


def test_values_are_what_they_are_on_the_wire() -> None:
    entry = SyncEntry("a", "f", 1, 2, True)
    assert msgspec.json.encode(entry) == b'["a","f",1,2,true,""]'
