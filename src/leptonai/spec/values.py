"""Key spaces, queues and objects: what workloads hand each other."""

from leptonai.spec.metadata import Metadata, Wire

MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 256 << 10
MAX_MESSAGE_BYTES = 256 << 10
MAX_OBJECT_KEY_CHARS = 512


class KeySpaceStatus(Wire, frozen=True, omit_defaults=False):
    redis_url: str = ""  # published clients insist on it; nothing of ours is a Redis


class KeySpace(Wire, frozen=True, omit_defaults=False):
    """Called a namespace on the wire."""

    name: str
    metadata: Metadata
    status: KeySpaceStatus = KeySpaceStatus()


class KeyList(Wire, frozen=True, omit_defaults=False):
    """In the order in which they were first put."""

    keys: list[str]
    cursor: int = 0  # ask for the keys after this; 0 where there are none


class Queue(Wire, frozen=True):
    name: str
    metadata: Metadata | None = None


class QueueLength(Wire, frozen=True, omit_defaults=False):
    length: int


class QueueMessage(Wire, frozen=True, omit_defaults=False):
    message: str


class ObjectFacts(Wire, frozen=True, omit_defaults=False):
    key: str
    size: int
    last_modified: int  # milliseconds since 1970


class ObjectList(Wire, frozen=True, omit_defaults=False):
    """By their keys."""

    items: list[ObjectFacts]
    prefix: str = ""
    nextContinuationToken: str = ""  # noqa: N815 - its published name; "" on the last page


class ObjectLink(Wire, frozen=True, omit_defaults=False):
    """Good for one object, for whoever has it, until it expires."""

    url: str
