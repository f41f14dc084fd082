"""Volumes, buckets, and what workloads share."""

from typing import Literal

from leptonai.core.records.record import InGroup, Named
from leptonai.spec.storage import DataSourceSpec, StoragePermission


class Volume(InGroup, tag="volume", tag_field="kind", frozen=True, kw_only=True):
    """A directory of the nodes of a group that what runs there may mount. Addressed by name."""

    source: Literal["local", "nfs"] = "local"
    path: str  # on the nodes
    size_in_gb: int = 0  # told, not enforced
    creation_mode: str = ""
    managed: bool = False  # by the platform: nobody removes it
    rules: tuple[StoragePermission, ...] = ()


class DataSource(InGroup, tag="datasource", tag_field="kind", frozen=True, kw_only=True):
    """A bucket that what runs on the nodes of a group may be given credentials for."""

    spec: DataSourceSpec


class KeySpace(Named, tag="keyspace", tag_field="kind", frozen=True, kw_only=True):
    """Holds values by key; they are beside the records (`ports.values`)."""


class MessageQueue(Named, tag="queue", tag_field="kind", frozen=True, kw_only=True):
    """Holds messages in their order; they are beside the records (`ports.messages`)."""


class StoredObject(Named, tag="object", tag_field="kind", frozen=True, kw_only=True):
    """A file under a name of the user's choice, `BUCKET/KEY`."""

    digest: str
    size_bytes: int
