"""What a user or a project is guaranteed of the cluster."""

from typing import Annotated

from msgspec import Meta

from leptonai.spec.metadata import Wire

MAX_GPUS, MAX_CPUS, MAX_WEIGHT = 1_000_000, 100_000_000, 1_000


class QuotaSpec(Wire, frozen=True):
    """Without `gpus`, or `cpu`, as much of them as there is room for."""

    gpus: Annotated[float, Meta(ge=0, le=MAX_GPUS)] | None = None
    cpu: Annotated[float, Meta(ge=0, le=MAX_CPUS)] | None = None  # cores
    borrow: bool = True  # may hold more while it is idle, with workloads that can be preempted
    weight: Annotated[float, Meta(gt=0, le=MAX_WEIGHT)] = 1.0  # a user's turns; of projects unused


class QuotaUse(Wire, frozen=True, omit_defaults=False):
    gpus: float = 0.0
    cpu: float = 0.0


class Quota(Wire, frozen=True, omit_defaults=False):
    kind: str  # "user" or "project"
    name: str
    spec: QuotaSpec
    used: QuotaUse
