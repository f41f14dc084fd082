"""What people are told of records."""

from enum import StrEnum

import msgspec

from leptonai.core.records.workloads import Workload, kind_of


class Severity(StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to a record, told to people."""

    workspace: str
    kind: str  # of the record
    id: str  # of the record
    name: str
    reason: str  # CamelCase, stable
    message: str
    severity: Severity = Severity.NORMAL
    at_ms: int = 0
    seq: int = 0  # given by the store; visible in this order


def event_of(
    owner: Workload, reason: str, message: str, severity: Severity = Severity.NORMAL
) -> Event:
    """What happened to something that has replicas."""
    return Event(
        workspace=owner.workspace,
        kind=kind_of(owner),
        id=owner.id,
        name=owner.name,
        reason=reason,
        message=message,
        severity=severity,
    )
