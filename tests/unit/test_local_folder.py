"""A directory as records, and which directories are refused."""

import os
import pickle

import pytest

from leptonai.data.commit import commit
from leptonai.data.folder import LocalFolder
from leptonai.data.shelf import Shelf
from leptonai.data.source import LocalSource
from leptonai.data.version import Version
from leptonai.data.walk import joined, walk
from leptonai.errors import InvalidRequest, NotFound


def a_folder(root, **contents):
    """`cat__1_png` is the file cat/1.png."""
    for name, content in contents.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def test_the_files_are_numbered_by_path_and_their_folders_are_the_classes(tmp_path):
    records = LocalFolder(
        a_folder(tmp_path, dog__1_png=b"woof", cat__2_png=b"x", cat__1_png=b"meow")
    )
    assert (len(records), records.classes) == (3, ("cat", "dog"))
    assert [records.path_of(at) for at in range(3)] == ["cat/1.png", "cat/2.png", "dog/1.png"]
    assert records.labels.tolist() == [0, 0, 1]
    assert records.read([2, 0, 1, 2]) == [b"woof", b"meow", b"x", b"woof"]
    assert pickle.loads(pickle.dumps(records)).read([0]) == [b"meow"]


def test_files_beside_the_folders_mean_that_there_are_no_classes(tmp_path):
    records = LocalFolder(a_folder(tmp_path, a=b"1", b__c=b"2"))
    assert (records.classes, records.labels) == ((), None)


def test_a_directory_has_the_samples_of_the_version_that_a_commit_makes(tmp_path):
    root = a_folder(tmp_path / "data", t_csv=b'a,b\n1,"x\ny"\n2,z\n', train_csv=b"a,b\n3,\n")
    made = commit(LocalSource(root), Shelf(tmp_path / "shelf"))
    version, folder = Version(made.manifest, Shelf(tmp_path / "shelf")), LocalFolder(root)
    assert (
        [bytes(each) for each in version.read([2, 0])]
        == folder.read([2, 0])
        == [b"3,", b'1,"x\ny"']
    )
    assert (folder.schema, folder.splits) == (
        made.manifest.facts.schema,
        made.manifest.facts.splits,
    )
    assert [folder.path_of(at) for at in range(3)] == ["t.csv", "t.csv", "train.csv"]


def test_the_digest_changes_with_the_files_alone(tmp_path):
    first = LocalFolder(a_folder(tmp_path, a=b"1", b=b"2")).digest
    assert LocalFolder(tmp_path).digest == first
    a_folder(tmp_path, b=b"22")
    assert LocalFolder(tmp_path).digest != first


def test_a_file_that_changed_or_went_is_said(tmp_path):
    records = LocalFolder(a_folder(tmp_path, a=b"1", b=b"2"))
    a_folder(tmp_path, a=b"longer")
    (tmp_path / "b").unlink()
    with pytest.raises(InvalidRequest, match="'a' has changed since"):
        records.read([0])
    with pytest.raises(InvalidRequest, match="'b' has gone"):
        records.read([1])
    with pytest.raises(IndexError):
        records.read([2])


def test_what_desktops_and_git_leave_behind_is_no_data(tmp_path):
    root = a_folder(tmp_path, **{".git__config": b"", "Thumbs_db": b"", "a": b""})
    assert joined(walk(root)).paths == ["a"]


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
    with pytest.raises(NotFound, match="nope does not exist"):
        LocalFolder(tmp_path / "nope")
    with pytest.raises(NotFound, match="holds no files"):
        LocalFolder(tmp_path)
