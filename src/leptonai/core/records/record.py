"""What records have in common."""

import msgspec
from msgspec import field

from leptonai.spec.artifacts import ArtifactSpec


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every record has. `id` is unique in its workspace and kind, for ever."""

    workspace: str
    id: str
    name: str
    created_at_ms: int
    modified_at_ms: int = 0
    owner: str = ""  # the principal who made it
    labels: dict[str, str] = field(default_factory=dict)
    visibility: str = ""
    version: int = 0  # counts its commits; 0 was never committed
    seq: int = 0  # of the commit that wrote it: grows over all records of a store

    @property
    def unique_key(self) -> str | None:
        """A second key, unique in workspace and kind; None where none is needed."""
        return None

    @property
    def parent(self) -> str:
        """The id of the record it belongs to, for look-up."""
        return ""

    @property
    def state_name(self) -> str:
        """Its state as users filter by it."""
        return ""

    @property
    def live(self) -> bool:
        """Whether the control loops still have work to do with it."""
        return True

    @property
    def due_at_ms(self) -> int | None:
        """When retention should look at it, if ever."""
        return None


class Kept(Record, frozen=True, kw_only=True):
    """What the loops have nothing to do with."""

    @property
    def live(self) -> bool:
        return False


class Named(Kept, frozen=True, kw_only=True):
    """Addressed by its name. A name that was removed may be given again, an id never."""

    @property
    def unique_key(self) -> str | None:
        return self.name


class InGroup(Kept, frozen=True, kw_only=True):
    """Of a node group, and addressed by its name."""

    group: str

    @property
    def unique_key(self) -> str | None:
        return f"{self.group}/{self.name}"


class Version(Kept, frozen=True, kw_only=True):
    """Of a named artifact."""

    spec: ArtifactSpec
    number: int  # 1 is the first version
    deleted: bool = False  # kept, so that its number never means something else
    aliases: tuple[str, ...] = ()  # each names one version at a time

    @property
    def unique_key(self) -> str | None:
        return f"{self.name}@{self.number}"

    @property
    def state_name(self) -> str:
        """The format of what is there: so photons can be counted."""
        return "" if self.deleted else self.spec.format
