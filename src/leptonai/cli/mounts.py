"""Options of what a workload finds of volumes and buckets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leptonai.cli.options import as_one
from leptonai.cli.session import given

if TYPE_CHECKING:
    from leptonai.spec.containers import Mount, StorageAttachment

F = TypeVar("F", bound=Callable[..., Any])
MODES = {"aws": "awsProfile", "msc": "mscProfile"}


def mounts_of(texts: Sequence[str]) -> list[Mount] | None:
    """Raises:
    click.UsageError: one is not PATH:AT[:VOLUME][:ro].
    """
    from leptonai.spec.containers import Mount, MountOptions

    mounts = []
    for text in texts:
        path, _, rest = text.partition(":")
        at, _, volume = rest.partition(":")
        read_only = volume == "ro" or volume.endswith(":ro")
        volume = volume.removesuffix("ro").removesuffix(":") if read_only else volume
        if not at.startswith("/"):
            raise click.UsageError(f"--mount {text!r}: expected PATH:AT, as in data:/mnt/data")
        mounts.append(
            Mount(
                mount_path=at,
                path=path or "/",
                source=volume or "node-local",
                mount_options=MountOptions(read_only=True) if read_only else None,
            )
        )
    return mounts or None


def attachments_of(texts: Sequence[str]) -> list[StorageAttachment] | None:
    """Raises:
    click.UsageError: one is not NAME[:aws|msc].
    """
    from leptonai.spec.containers import StorageAttachment, StorageAttachmentMode

    attachments = []
    for text in texts:
        name, _, mode = text.partition(":")
        if (mode or "aws") not in MODES:
            raise click.UsageError(f"--bucket {text!r}: expected NAME, NAME:aws or NAME:msc")
        attached = StorageAttachmentMode(mode=MODES[mode or "aws"], profile_name=name)
        attachments.append(StorageAttachment(data_source_name=name, attachments=[attached]))
    return attachments or None


def _storage(mounts: Sequence[str], buckets: Sequence[str]) -> Mapping[str, object]:
    return given(mounts=mounts_of(mounts), storage_attachments=attachments_of(buckets))


# The command gets `storage`, fields of a spec.
storage_options = as_one(
    "storage",
    _storage,
    click.option(
        "--mount",
        "mounts",
        multiple=True,
        metavar="PATH:AT[:VOLUME][:ro]",
        help="Find a directory of a volume at this path.",
    ),
    click.option(
        "--bucket",
        "buckets",
        multiple=True,
        metavar="NAME[:aws|msc]",
        help="Give it a profile of this name that opens this data source.",
    ),
)
