"""A directory as records, and which directories are refused."""

import os
import pickle

import pytest

from leptonai.data.folder import LocalFolder
from leptonai.data.walk import walk
from leptonai.errors import InvalidRequest, NotFound


def a_folder(root, **contents):
    """`cat__1` is the file cat/1."""
    for name, content in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def test_the_files_are_numbered_by_path_and_their_folders_are_the_classes(tmp_path):
    records = LocalFolder(a_folder(tmp_path, dog__1=b"woof", cat__2=b"", cat__1=b"meow"))
    assert (len(records), records.classes) == (3, ("cat", "dog"))
    assert [records.path_of(at) for at in range(3)] == ["cat/1", "cat/2", "dog/1"]
    assert records.labels.tolist() == [0, 0, 1]
    assert records.read([2, 0, 1, 2]) == [b"woof", b"meow", b"", b"woof"]
    assert pickle.loads(pickle.dumps(records)).read([0]) == [b"meow"]


def test_files_beside_the_folders_mean_that_there_are_no_classes(tmp_path):
    records = LocalFolder(a_folder(tmp_path, a=b"1", b__c=b"2"))
    assert (records.classes, records.labels) == ((), None)


def test_the_digest_changes_with_the_files_alone(tmp_path):
    first = LocalFolder(a_folder(tmp_path, a=b"1", b=b"2")).digest
    assert LocalFolder(tmp_path).digest == first
    a_folder(tmp_path, b=b"22")
    assert LocalFolder(tmp_path).digest != first


def test_a_file_that_changed_or_went_is_said(tmp_path):
    records = LocalFolder(a_folder(tmp_path, a=b"1", b=b"2"))
    a_folder(tmp_path, a=b"longer")
    (tmp_path / "b").unlink()
    with pytest.raises(InvalidRequest, match="a has changed since"):
        records.read([0])
    with pytest.raises(InvalidRequest, match="b has gone"):
        records.read([1])
    with pytest.raises(IndexError):
        records.read([2])


def test_what_desktops_and_git_leave_behind_is_no_data(tmp_path):
    root = a_folder(tmp_path, **{".git__config": b"", ".DS_Store": b"", "a": b""})
    assert walk(root).paths == ["a"]


def test_a_link_within_the_data_is_the_file_it_leads_to(tmp_path):
    a_folder(tmp_path, a=b"1")
    (tmp_path / "b").symlink_to("a")
    assert LocalFolder(tmp_path).read([1]) == [b"1"]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda root: (root / "x").symlink_to("/etc/passwd"), "'x' links to /etc/passwd, outside"),
        (lambda root: (root / "x").symlink_to(".."), "outside of the data"),
        (lambda root: (root / "x").symlink_to("gone"), "which is no file"),
        (lambda root: (root / "x").symlink_to("folder"), "which is no file"),
        (lambda root: os.mkfifo(root / "x"), "'x' is not a file"),
        (lambda root: os.link(bytes(root) + b"/a", bytes(root) + b"/\xff"), "is not UTF-8"),
    ],
)
def test_what_is_no_data_is_refused_by_name(tmp_path, spoil, complaint):
    a_folder(tmp_path / "data", a=b"", folder__b=b"")
    spoil(tmp_path / "data")
    with pytest.raises(InvalidRequest, match=complaint):
        LocalFolder(tmp_path / "data")


def test_no_directory_and_an_empty_one_are_not_found(tmp_path):
    with pytest.raises(NotFound, match="nope is not a directory"):
        LocalFolder(tmp_path / "nope")
    with pytest.raises(NotFound, match="holds no files"):
        LocalFolder(tmp_path)
