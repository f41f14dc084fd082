"""Many small files are read by processes: what is stored is the same, whatever becomes of these."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import leptonai.data.readers as readers
import leptonai.data.storing as storing
from leptonai.data.commit import commit
from leptonai.data.readers import Readers
from leptonai.data.shelf import Shelf
from leptonai.data.source import LocalSource
from leptonai.data.version import Version
from leptonai.errors import InvalidRequest


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Many files and full packs are a few."""
    monkeypatch.setattr(storing, "MANY_FILES", 10)
    monkeypatch.setattr(storing, "PACK_BYTES", 20_000)
    monkeypatch.setattr(storing, "PACKED_BELOW_BYTES", 10_000)


@pytest.fixture
def asked(monkeypatch):
    """What the processes answered."""
    read, answers = Readers.read, []

    def noted(*args):
        answers.append(read(*args))
        return answers[-1]

    monkeypatch.setattr(Readers, "read", noted)
    return answers


def a_folder(root, count=200):
    """Files of all sizes, empty and equal ones, in folders and beside them, and a link."""
    chance = np.random.default_rng(0)
    contents = {f"{n % 5}/ü {n}": chance.bytes(chance.integers(0, 3_000)) for n in range(count)}
    contents |= {f"0.{n}": b"" if n % 2 else b"the same" for n in range(20)}
    contents |= {f"3/large {n}": chance.bytes(12_345) for n in range(2)}
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "link").symlink_to("0/ü 0")
    return root, contents | {"link": contents["0/ü 0"]}


def content_of(made, shelf):
    version, manifest = Version(made.manifest, shelf), made.manifest
    return {manifest.path_of(n): bytes(version.read_file(n)) for n in range(manifest.file_count)}


def test_what_processes_read_is_what_is_there(tmp_path, asked, monkeypatch):
    root, contents = a_folder(tmp_path / "data")
    shelf, seen = Shelf(tmp_path / "shelf"), []
    made = commit(LocalSource(root), shelf, progress=lambda *now: seen.append(now))
    assert asked and all(asked)
    assert content_of(made, shelf) == contents
    whole = sum(map(len, contents.values()))
    assert seen[-1] == (whole, whole) and made.read_bytes == whole
    monkeypatch.setattr(storing, "MANY_FILES", 1 << 30)
    by_threads = commit(LocalSource(root), Shelf(tmp_path / "other"))
    assert by_threads.manifest.facts.content == made.manifest.facts.content
    again = commit(LocalSource(root), shelf)
    assert again.stored_objects == 0


def test_processes_that_are_killed_or_cannot_be_had_are_done_without(tmp_path, asked, monkeypatch):
    root, contents = a_folder(tmp_path / "data")

    class Killed(Readers):
        def __init__(self, *args):
            super().__init__(*args)
            for process in self._all:
                process.kill()

    monkeypatch.setattr(storing, "Readers", Killed)
    shelf = Shelf(tmp_path / "shelf")
    assert content_of(commit(LocalSource(root), shelf), shelf) == contents
    assert asked and not any(asked)
    monkeypatch.setattr(storing, "Readers", Readers)
    monkeypatch.setattr(readers.sys, "executable", None)
    shelf = Shelf(tmp_path / "another")
    assert content_of(commit(LocalSource(root), shelf), shelf) == contents


def test_where_no_memory_can_be_shared_threads_read(tmp_path, asked, monkeypatch):
    def refused(name):
        raise OSError("not here")

    monkeypatch.setattr(os, "memfd_create", refused)
    root, contents = a_folder(tmp_path / "data")
    shelf = Shelf(tmp_path / "shelf")
    assert content_of(commit(LocalSource(root), shelf), shelf) == contents
    assert not asked


@pytest.mark.parametrize("spoil", ["longer", "shorter", "gone"])
def test_a_file_that_changes_before_it_is_read_is_said(tmp_path, monkeypatch, spoil):
    root, _ = a_folder(tmp_path / "data")
    (root / "4/last").write_bytes(b"as listed")
    source = LocalSource(root)
    listing = source.list()
    monkeypatch.setattr(source, "stretches", lambda: iter([listing]))
    (root / "4/last").unlink()
    if spoil != "gone":
        (root / "4/last").write_bytes(b"as listed, and more" if spoil == "longer" else b"as")
    shelf = Shelf(tmp_path / "shelf")
    with pytest.raises(InvalidRequest, match="'4/last' changed while it was read"):
        commit(source, shelf)
    assert not list((shelf.place / "partial").iterdir())


def test_files_are_found_in_the_order_of_their_paths_whatever_the_stretches(tmp_path, monkeypatch):
    root, contents = a_folder(tmp_path / "data")
    monkeypatch.setattr("leptonai.data.walk.STRETCH_FILES", 3)
    stretches = list(LocalSource(root).stretches())
    assert len(stretches) > 50
    found = [path for each in stretches for path in each.paths]
    assert found == sorted(contents, key=str.encode)
    shelf = Shelf(tmp_path / "shelf")
    monkeypatch.setattr(storing, "MANY_FILES", 3)
    assert content_of(commit(LocalSource(root), shelf), shelf) == contents


KILLED = """
import os, signal, sys
from pathlib import Path
import leptonai.data.storing as storing
from leptonai.data.commit import commit
from leptonai.data.shelf import Shelf
from leptonai.data.source import LocalSource
storing.MANY_FILES, storing.PACK_BYTES = 10, 20_000
keep = Shelf.keep
def killed(self, partial, digest):
    keep(self, partial, digest)
    os.kill(os.getpid(), signal.SIGKILL)
Shelf.keep = killed
commit(LocalSource(sys.argv[1]), Shelf(Path(sys.argv[2])))
"""


def test_when_a_commit_is_killed_its_processes_end_too(tmp_path):
    root, contents = a_folder(tmp_path / "data")
    shelf = Shelf(tmp_path / "shelf")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(root), str(shelf.place)])
    assert ended.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while left := running_for(root):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
    assert content_of(commit(LocalSource(root), shelf), shelf) == contents


def running_for(root):
    """The processes that were told of a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(root) in words and any(word.endswith(b"reader.py") for word in words):
            found.append(process)
    return found
