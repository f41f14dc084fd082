"""What every resource carries on the wire."""

from enum import StrEnum

import msgspec


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value of the wire format: immutable; a field at its default is left out of the JSON."""


class Visibility(StrEnum):
    PUBLIC = "public"
    PRIVATE = "private"


class Metadata(Wire, frozen=True):
    id: str | None = None
    name: str | None = None
    created_at: int | None = None  # milliseconds since 1970
    version: int | None = None
    created_by: str | None = None
    last_modified_by: str | None = None
    last_modified_at: int | None = None  # milliseconds since 1970
    semantic_version: str | None = None  # "N.M"
    labels: dict[str, str] | None = None
    owner: str | None = None
    visibility: Visibility | None = None
    replica_version: str | None = None
