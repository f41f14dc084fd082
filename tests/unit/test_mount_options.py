import click
import pytest

from leptonai.cli.mounts import attachments_of, mounts_of
from leptonai.cli.storage import _place
from leptonai.spec.containers import Mount, MountOptions, StorageAttachment, StorageAttachmentMode

READ_ONLY = MountOptions(read_only=True)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("data:/mnt/d", Mount(mount_path="/mnt/d", path="data", source="node-local")),
        (":/mnt/d", Mount(mount_path="/mnt/d", path="/", source="node-local")),
        ("/a:/d:shared", Mount(mount_path="/d", path="/a", source="shared")),
        ("/a:/d:node-nfs:x", Mount(mount_path="/d", path="/a", source="node-nfs:x")),
        ("/a:/d:ro", Mount("/d", "/a", "node-local", READ_ONLY)),
        ("/a:/d:node-nfs:x:ro", Mount("/d", "/a", "node-nfs:x", READ_ONLY)),
        ("/a:/d:pro", Mount(mount_path="/d", path="/a", source="pro")),
    ],
)
def test_a_mount_is_written_in_one_word(text, mount):
    assert mounts_of([text]) == [mount]


@pytest.mark.parametrize("text", ["", "data", "data:", "data:relative", "/only"])
def test_what_says_not_where_is_no_mount(text):
    with pytest.raises(click.UsageError):
        mounts_of([text])


def test_a_bucket_is_attached_for_the_aws_tools_or_another():
    aws = StorageAttachmentMode(mode="awsProfile", profile_name="a")
    msc = StorageAttachmentMode(mode="mscProfile", profile_name="b")
    assert attachments_of(["a", "b:msc"]) == [
        StorageAttachment(data_source_name="a", attachments=[aws]),
        StorageAttachment(data_source_name="b", attachments=[msc]),
    ]
    with pytest.raises(click.UsageError):
        attachments_of(["a:ftp"])
    assert attachments_of([]) is None


def test_a_place_is_a_path_in_the_default_volume_or_in_one_that_is_named():
    assert _place("a/b") == ("default", "a/b")
    assert _place("shared:a/b") == ("shared", "a/b")
    assert _place("shared:") == ("shared", "")
    assert _place("dir/odd:name") == ("default", "dir/odd:name")
