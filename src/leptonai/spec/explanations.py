"""Why a workload is where it is, until when, and what would change that."""

from typing import Any

from msgspec import field

from leptonai.spec.metadata import Wire


class Holder(Wire, frozen=True, omit_defaults=False):
    """A workload that holds what another waits for."""

    kind: str  # job, endpoint
    name: str  # "" where the asker may not read it
    resource: str  # gpu_millis, cpu_millis, memory_bytes, disk_bytes
    amount: int
    holds: str  # the same in words: "8 GPUs"


class EstimatedStart(Wire, frozen=True, omit_defaults=False):
    """When it is expected to start, if nothing more urgent comes. Milliseconds since 1970."""

    expected_at: int | None
    earliest_at: int | None
    latest_at: int | None
    because: str  # what that is concluded from, or why nothing can be


class Alternative(Wire, frozen=True, omit_defaults=False):
    """A change with which it would start now: the scheduler was asked."""

    kind: str
    text: str
    spec: dict[str, Any]  # a merge patch of the spec; empty where not the spec has to change
    preempts: list[str]  # names of what would have to stop


class Placement(Wire, frozen=True, omit_defaults=False):
    worker: int
    node: str
    gpus: list[int]


class Explanation(Wire, frozen=True, omit_defaults=False):
    """Why a workload is where it is: the answer of `why`, and of a dry run.

    `held_by` … `alternatives` are of what waits; `places` and `preempts` of a dry run of what would
    start now.
    """

    state: str
    code: str  # stable, for programs: "capacity", "running", …
    because: str  # for people
    data: dict[str, float | int | str | list[str]] = field(default_factory=dict)
    held_by: list[Holder] = field(default_factory=list)
    start: EstimatedStart | None = None
    alternatives: list[Alternative] = field(default_factory=list)
    places: list[Placement] = field(default_factory=list)
    preempts: list[str] = field(default_factory=list)
