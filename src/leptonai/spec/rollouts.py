"""Roll-outs: how a new revision of an endpoint takes the place of the one before. All of it extends
the published format."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from leptonai.spec.metadata import Wire

MAX_STEPS = 10
MAX_STEP_S = 86_400
MAX_KEEP_S = 7 * 86_400
DEFAULT_STEPS = (10.0, 50.0)  # percent
DEFAULT_STEP_S = 60
DEFAULT_KEEP_S = 300

Percent = Annotated[float, Meta(gt=0, le=100)]


class Strategy(StrEnum):
    ROLLING = "rolling"  # replicas are replaced one by one
    BLUE_GREEN = "blue-green"  # all of the new revision get ready, then get all requests at once
    CANARY = "canary"  # a part of the requests, which grows in steps while nothing gets worse
    SHADOW = "shadow"  # copies of requests, whose answers nobody gets


class RolloutState(StrEnum):
    PROGRESSING = "Progressing"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"


class RolloutPlan(Wire, frozen=True):
    """How a change that makes a new revision is to be rolled out."""

    strategy: Strategy = Strategy.ROLLING
    # Canary: the percent of the requests that the new revision gets, step by step; after the last
    # step it gets all. Shadow: the percent that is copied to it.
    steps: Annotated[list[Percent], Meta(min_length=1, max_length=MAX_STEPS)] | None = None
    # Canary: how long a step lasts at least.
    step_seconds: Annotated[int, Meta(ge=1, le=MAX_STEP_S)] | None = None
    # Blue-green: how long the old revision is kept after the switch.
    keep_seconds: Annotated[int, Meta(ge=0, le=MAX_KEEP_S)] | None = None


class VersionTraffic(Wire, frozen=True, omit_defaults=False):
    """What became of the requests to one revision since the step began."""

    revision: int
    requests: int
    failed: int  # with 5xx, or without an answer
    refused: int  # with 4xx
    slow: int | None = None  # took longer than `slow_above_ms`
    p50_ms: float | None = None
    p95_ms: float | None = None


class ShadowReport(Wire, frozen=True, omit_defaults=False):
    """How the answers to copies differ from those that users got."""

    compared: int
    status_differs: int
    body_differs: int  # with the same status


class Rollout(Wire, frozen=True, omit_defaults=False):
    strategy: Strategy
    state: RolloutState
    message: str  # what is going on, or how it ended, for people
    revision: int  # the new one
    stable_revision: int  # the one that a rollback leads to
    percent: float | None = None  # of the requests that the new one gets; null: by replicas
    step: int | None = None  # from 1
    steps: list[Percent] | None = None
    step_seconds: int | None = None
    step_started_at: int | None = None  # milliseconds since 1970
    started_at: int | None = None
    ended_at: int | None = None
    slow_above_ms: float | None = None  # most requests to the stable revision take no longer
    stable: VersionTraffic | None = None
    new: VersionTraffic | None = None
    shadow: ShadowReport | None = None
