"""Committing a source: what is stored, what is read again, and what survives an interruption."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import leptonai.data.commit as committing
import leptonai.data.storing as storing
from leptonai.blobs.packs import Naming, head_size
from leptonai.data.commit import Committed, commit
from leptonai.data.manifest import Manifest
from leptonai.data.seen import UNSETTLED_NS
from leptonai.data.shelf import Shelf
from leptonai.data.source import LocalSource
from leptonai.data.version import Version
from leptonai.errors import InvalidRequest, NotFound, StorageFull

LONG_AGO_NS = 1_600_000_000_000_000_000


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def later(monkeypatch):
    """The clock of commits runs ahead: files of this test count as written long before."""
    import time

    monkeypatch.setattr(committing, "now_ns", lambda: time.time_ns() + 2 * UNSETTLED_NS)


def files(root, contents):
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def many(root, count, size=1000):
    chance = np.random.default_rng(0)
    return files(root, {f"{n % 7}/{n:05}": chance.bytes(size) for n in range(count)})


def stored(shelf):
    """Digest → bytes of every blob."""
    return {
        f"sha256:{path.name}": path.read_bytes() for path in (shelf.place / "sha256").glob("*/*")
    }


def name_of(data):
    naming = Naming()
    naming.update(data)
    return f"sha256:{naming.hexdigest()}"


def content_of(made: Committed, shelf):
    version = Version(made.manifest, shelf)
    manifest = made.manifest
    return {manifest.path_of(n): bytes(version.read_file(n)) for n in range(manifest.file_count)}


def test_what_goes_in_comes_out(tmp_path, shelf):
    contents = {"b/2": b"two", "a": b"", "b/1": b"one", "big": bytes(2 << 20), "ü": b"x", "c": b""}
    made = commit(LocalSource(files(tmp_path / "data", contents)), shelf)
    assert content_of(made, shelf) == contents
    assert made.manifest.paths() == ["a", "b/1", "b/2", "big", "c", "ü"]
    version = Version.open(shelf, made.digest)
    assert [bytes(each) for each in version.read([2, 0, 5])] == [b"two", b"", b"x"]
    assert version.manifest.file_of("b/2") == 2
    assert version.manifest.size_bytes == 7 + (2 << 20)
    assert [bytes(x) for x in pickle.loads(pickle.dumps(version)).read([1])] == [b"one"]
    with pytest.raises(IndexError, match="numbered from 0 to 5"):
        version.read([6])
    with pytest.raises(NotFound, match="no file 'b/3'"):
        version.manifest.file_of("b/3")


def test_every_blob_has_the_name_of_its_bytes_and_a_manifest_names_its_objects(tmp_path, shelf):
    root = many(tmp_path / "data", 50)
    files(root, {"empty": b"", "large": b"large" * (1 << 19)})
    made = commit(LocalSource(root), shelf)
    blobs = stored(shelf)
    assert {name_of(data) for data in blobs.values()} == {*blobs}
    assert {made.digest, *made.manifest.objects} == {*blobs}


def test_many_small_files_are_few_objects_and_equal_ones_one(tmp_path, shelf, monkeypatch):
    monkeypatch.setattr(storing, "PACK_BYTES", 100_000)
    root = many(tmp_path / "data", 1000)
    for number in range(100):
        (root / f"copy{number}").write_bytes(b"the same" * 1000)
    made = commit(LocalSource(root), shelf)
    assert len(made.manifest.objects) <= 20
    of_heads = made.stored_bytes - (1000 * 1000 + 8000)
    assert 40 * 1001 <= of_heads <= 40 * 1100 + 128 * len(made.manifest.objects)
    assert made.read_bytes == made.manifest.size_bytes == 1000 * 1000 + 100 * 8000


def test_many_readers_have_smaller_packs_and_make_the_same_version(tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "PACKED_BELOW_BYTES", 2000)
    monkeypatch.setattr(storing, "MAX_MEMBERS", 50)
    monkeypatch.setattr(storing, "BUFFERED_BYTES", 100_000)
    source = LocalSource(many(tmp_path / "in", 60))
    made = {}
    for readers in (1, 9):
        source.readers = readers
        made[readers] = commit(source, Shelf(tmp_path / f"shelf-{readers}"))
    assert {readers: one.stored_objects for readers, one in made.items()} == {1: 3, 9: 12}
    assert made[1].manifest.facts.content == made[9].manifest.facts.content


def test_the_same_data_is_the_same_version_wherever_and_whenever(tmp_path, shelf):
    one = commit(LocalSource(many(tmp_path / "one", 100)), shelf)
    other = commit(LocalSource(many(tmp_path / "other", 100)), Shelf(tmp_path / "shelf2"))
    assert one.digest == other.digest
    changed = many(tmp_path / "one", 100)
    (changed / "0" / "00000").write_bytes(b"other")
    third = commit(LocalSource(changed), shelf)
    assert third.manifest.facts.content != one.manifest.facts.content


def test_what_has_not_changed_is_not_read_and_one_change_stores_one_object(tmp_path, shelf, later):
    root = many(tmp_path / "data", 300)
    first = commit(LocalSource(root), shelf)
    again = commit(LocalSource(root), shelf)
    assert (again.digest, again.read_bytes, again.stored_objects) == (first.digest, 0, 0)
    (root / "3" / "00003").write_bytes(b"changed")
    third = commit(LocalSource(root), shelf)
    assert (third.read_bytes, third.stored_objects) == (7, 1)
    assert third.stored_bytes == head_size(1) + 7
    assert {*third.manifest.objects} > {*first.manifest.objects}
    assert content_of(third, shelf)["3/00003"] == b"changed"


def test_an_edit_that_leaves_size_and_time_as_they_were_is_seen(tmp_path, shelf):
    root = files(tmp_path / "data", {"a": b"before", "b": b"b"})
    commit(LocalSource(root), shelf)  # at once after the files were written
    status = (root / "a").stat()
    (root / "a").write_bytes(b"after!")
    os.utime(root / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_of(commit(LocalSource(root), shelf), shelf)["a"] == b"after!"


def test_an_edit_with_an_old_time_is_seen_by_the_time_of_its_state(tmp_path, shelf, later):
    root = files(tmp_path / "data", {"a": b"before"})
    os.utime(root / "a", ns=(LONG_AGO_NS, LONG_AGO_NS))
    commit(LocalSource(root), shelf)
    (root / "a").write_bytes(b"after!")
    os.utime(root / "a", ns=(LONG_AGO_NS, LONG_AGO_NS))
    assert content_of(commit(LocalSource(root), shelf), shelf)["a"] == b"after!"


def test_an_object_that_was_removed_meanwhile_is_made_again(tmp_path, shelf, later):
    root = many(tmp_path / "data", 20)
    first = commit(LocalSource(root), shelf)
    shelf.path(first.manifest.objects[0]).unlink()
    again = commit(LocalSource(root), shelf)
    assert (again.digest, again.stored_objects) == (first.digest, 1)
    assert content_of(again, shelf) == content_of(first, shelf)


def test_a_damaged_journal_costs_time_and_nothing_else(tmp_path, shelf, later):
    root = many(tmp_path / "data", 20)
    first = commit(LocalSource(root), shelf)
    (journal,) = (shelf.place / "seen").iterdir()
    for damage in (b"", b"\xff" * 100, journal.read_bytes()[:-1], journal.read_bytes() * 2):
        journal.write_bytes(damage)
        assert commit(LocalSource(root), shelf).digest == first.digest


def test_a_full_disk_leaves_no_version_and_the_next_commit_goes_on(
    tmp_path, shelf, later, monkeypatch
):
    monkeypatch.setattr(storing, "PACK_BYTES", 10_000)
    root = many(tmp_path / "data", 100)
    write, written = os.write, []

    def full_after_a_while(fd, data):
        written.append(len(data))
        if len(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_after_a_while)
        with pytest.raises(StorageFull, match="no version was made"):
            commit(LocalSource(root), shelf)
    assert not any(data.startswith(b"LEPTONC1") for data in stored(shelf).values())
    assert list((shelf.place / "partial").iterdir()) == []
    made = commit(LocalSource(root), shelf)
    assert 0 < made.stored_objects < len(made.manifest.objects)
    assert content_of(made, shelf) == {
        str(path.relative_to(root)): path.read_bytes() for path in root.glob("*/*")
    }


KILLED = """
import os, signal, sys
from pathlib import Path
import leptonai.data.commit as committing
import leptonai.data.storing as storing
from leptonai.data.shelf import Shelf
from leptonai.data.source import LocalSource
storing.PACK_BYTES = 10_000
kept, keep = [], Shelf.keep
def killed_after_three(self, partial, digest):
    keep(self, partial, digest)
    kept.append(digest)
    if len(kept) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
Shelf.keep = killed_after_three
committing.commit(LocalSource(sys.argv[1]), Shelf(Path(sys.argv[2])))
"""


def test_after_kill_minus_nine_nothing_is_half_there_and_it_goes_on(
    tmp_path, shelf, later, monkeypatch
):
    monkeypatch.setattr(storing, "PACK_BYTES", 10_000)
    root = many(tmp_path / "data", 100)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(root), str(shelf.place)])
    assert ended.returncode == -signal.SIGKILL
    before = stored(shelf)
    assert before and not any(data.startswith(b"LEPTONC1") for data in before.values())
    made = commit(LocalSource(root), shelf)
    assert {*before} <= {*made.manifest.objects}
    assert made.digest == commit(LocalSource(root), Shelf(tmp_path / "fresh")).digest


def test_two_commits_at_once_make_the_same_version(tmp_path, shelf):
    root = many(tmp_path / "data", 500)
    made: list[Committed] = []
    threads = [
        threading.Thread(target=lambda: made.append(commit(LocalSource(root), shelf)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3 and len({each.digest for each in made}) == 1
    assert len(content_of(made[0], shelf)) == 500


def test_what_was_stored_twice_or_known_before_is_not_read_again_either(tmp_path, shelf, later):
    root = files(tmp_path / "data", {"a": b"same", "b": b"same", "c": b"other"})
    commit(LocalSource(root), shelf)
    files(root, {"d": b"other", "e": b"new"})
    second = commit(LocalSource(root), shelf)
    assert (second.read_bytes, second.stored_objects) == (8, 1)
    third = commit(LocalSource(root), shelf)
    assert (third.digest, third.read_bytes) == (second.digest, 0)


def test_the_journal_does_not_grow_with_the_number_of_commits(tmp_path, shelf, later):
    root = many(tmp_path / "data", 20)
    sizes = []
    for turn in range(30):
        files(root, {f"0/{name:05}": f"{turn} {name}".encode() for name in range(0, 20, 7)})
        commit(LocalSource(root), shelf)
        (journal,) = (shelf.place / "seen").iterdir()
        sizes.append(journal.stat().st_size)
    assert max(sizes) < 5 * sizes[0]


def test_where_the_cache_cannot_be_passed_the_pack_is_written_all_the_same(
    tmp_path, shelf, monkeypatch
):
    root = many(tmp_path / "data", 50)
    write, refused = os.write, []

    def refuses_whole_pages(fd, data):
        if len(data) % 4096 == 0 and not refused:
            refused.append(fd)
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(fd, data)

    monkeypatch.setattr(os, "write", refuses_whole_pages)
    made = commit(LocalSource(root), shelf)
    assert {name_of(data) for data in stored(shelf).values()} == {
        made.digest,
        *made.manifest.objects,
    }
    assert refused


def test_progress_goes_on_within_a_large_file(tmp_path, shelf, monkeypatch):
    monkeypatch.setattr(storing, "HEARD_S", 0.001)
    root = files(tmp_path / "data", {"large": bytes(4 << 20)})
    source, seen = LocalSource(root), []
    chunks = source.chunks

    def halting(path):
        for number, chunk in enumerate(chunks(path)):
            if number == 2:
                told.wait(10)
            yield chunk

    told = threading.Event()

    def progress(done, whole):
        seen.append((done, whole))
        if done == 2 << 20:
            told.set()

    monkeypatch.setattr(source, "chunks", halting)
    commit(source, shelf, progress=progress)
    assert (2 << 20, 4 << 20) in seen and seen[-1] == (4 << 20, 4 << 20)


def test_progress_ends_at_all_bytes(tmp_path, shelf):
    seen = []
    commit(LocalSource(many(tmp_path / "data", 10)), shelf, progress=lambda *now: seen.append(now))
    assert seen[-1] == (10_000, 10_000)


def test_a_file_that_grows_while_it_is_read_is_said(tmp_path, shelf, monkeypatch):
    root = files(tmp_path / "data", {"a": b"1", "b": b"2"})
    source = LocalSource(root)
    listing = source.list()
    (root / "b").write_bytes(b"longer")
    monkeypatch.setattr(source, "stretches", lambda: iter([listing]))
    with pytest.raises(InvalidRequest, match="'b' changed while it was read"):
        commit(source, shelf)


def test_what_is_not_there_is_not_found(tmp_path, shelf):
    with pytest.raises(NotFound, match="nope does not exist"):
        LocalSource(tmp_path / "nope")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="holds no files"):
        commit(LocalSource(tmp_path / "empty"), shelf)


def test_a_single_file_is_a_source(tmp_path, shelf):
    files(tmp_path, {"table.csv": b"a,b\n1,2\n", "other": b""})
    made = commit(LocalSource(tmp_path / "table.csv"), shelf)
    assert content_of(made, shelf) == {"table.csv": b"a,b\n1,2\n"}


def spoiled(manifest, **columns):
    return Manifest(manifest.facts, manifest.columns | columns)


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("object", np.array([0, 9], np.uint32), "lies in no object"),
        ("at", np.array([0, 1 << 63], np.uint64), "ends outside of its object"),
        ("size", np.array([1, 1 << 63], np.uint64), "ends outside of its object"),
        ("path_end", np.array([2, 1], np.uint64), "paths overlap"),
        ("label", np.array([0], np.int32), "not every sample has its label"),
        ("at", np.array([0], np.uint64), "unequal lengths"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, shelf, column, value, why):
    made = commit(LocalSource(files(tmp_path / "data", {"a": b"1", "b": b"2"})), shelf)
    bad = tmp_path / "bad"
    bad.write_bytes(b"".join(spoiled(made.manifest, **{column: value}).parts()))
    with pytest.raises(InvalidRequest, match=why):
        Manifest.open(bad)


@pytest.mark.parametrize("cut", [0, 5, 20, 100, 700])
def test_a_manifest_that_is_cut_short_is_refused(tmp_path, shelf, cut):
    made = commit(LocalSource(files(tmp_path / "data", {"a": b"1"})), shelf)
    bad = tmp_path / "bad"
    bad.write_bytes(shelf.path(made.digest).read_bytes()[:cut])
    with pytest.raises((InvalidRequest, NotFound)):
        Manifest.open(Path(bad))
