"""Files that are written past the system's cache hold what any other file would."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.training import direct
from leptonai.training.direct import BUFFER_BYTES, DirectFile

SIZES = [0, 1, 4_095, 4_096, 4_097, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1]


def written(path: Path, pieces: list[bytes]) -> str:
    with DirectFile(path) as file:
        for piece in pieces:
            file.write(memoryview(piece))
        return file.finish()


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size_holds_what_was_written_and_says_its_digest(tmp_path, size):
    data = os.urandom(size)
    assert written(tmp_path / "file", [data]) == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "file").read_bytes() == data


@settings(deadline=None, max_examples=25)  # each waits for the disk
@given(st.lists(st.binary(max_size=9_000), max_size=8))
def test_it_does_not_matter_in_which_pieces_it_is_written(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("pieces") / "file"
    written(path, pieces)
    assert path.read_bytes() == b"".join(pieces)


def test_where_a_file_system_cannot_it_goes_through_the_cache(tmp_path, monkeypatch):
    refusals = []
    write = os.pwrite

    def refuses_once(fd, data, at):
        if not refusals:
            refusals.append(at)
            raise OSError(errno.EINVAL, "no whole pages, please")
        return write(fd, data, at)

    monkeypatch.setattr(direct.os, "pwrite", refuses_once)
    data = os.urandom(BUFFER_BYTES + 5_000)
    written(tmp_path / "file", [data])
    assert (tmp_path / "file").read_bytes() == data
    assert refusals == [0]


def test_a_file_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        DirectFile(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"
