"""Which blobs a record refers to."""

import re

import msgspec

from leptonai.core.records import (
    Dataset,
    Endpoint,
    Job,
    Model,
    Record,
    Replica,
    Run,
    StoredObject,
)

# Whoever reads them one kind after the other has to keep this order: a digest goes from a run to an
# artifact, from there to what is made with it, and from there to replicas. So the reference that
# somebody removes behind the reader's back has been handed on to a record that is still to be read.
REFERRING_KINDS: tuple[type[Record], ...] = (
    StoredObject,
    Run,
    Dataset,
    Model,
    Job,
    Endpoint,
    Replica,
)

_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")


def digests_in(record: Record) -> frozenset[str]:
    """Every digest that stands anywhere in the record, whatever the field: a reference that were
    overlooked would cost somebody the blob. None of an artifact that was deleted."""
    if isinstance(record, Dataset | Model) and record.deleted:
        return frozenset()
    return frozenset(found.decode() for found in _DIGEST.findall(msgspec.json.encode(record)))
