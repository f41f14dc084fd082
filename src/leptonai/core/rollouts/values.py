"""What an endpoint's record keeps of its roll-out: enough for another control plane to go on."""

import msgspec
from msgspec import field

from leptonai.spec.endpoints import EndpointSpec
from leptonai.spec.rollouts import RolloutPlan, RolloutState


class Revision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the replicas of one revision run, so that more of them can be started. What its spec
    says of anything but them is not looked at."""

    number: int
    spec: EndpointSpec
    model_digest: str = ""


class Seen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of some requests to one revision."""

    requests: int = 0
    failed: int = 0
    refused: int = 0
    service_ms: tuple[int, ...] = ()  # as in a `TrafficWindow`


class Bets(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Logarithms of what each bet has come to: see `betting`. () is before the first."""

    worse: tuple[float, ...] = ()  # that the new revision is worse
    no_worse: tuple[float, ...] = ()  # that it is not worse by a margin


class Differences(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Between the answers to copies and those that users got."""

    compared: int = 0
    status: int = 0
    body: int = 0


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was seen in the present step."""

    stable: Seen = Seen()
    new: Seen = Seen()
    before: Seen = Seen()  # of the stable revision, before this step
    slow_above_ms: float | None = None  # None: too little was seen of the stable revision
    bets: dict[str, Bets] = field(default_factory=dict)  # by measure
    differences: Differences = Differences()


class Rollout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    plan: RolloutPlan
    revision: int  # the new one
    stable: Revision  # the one that a rollback leads to
    state: RolloutState = RolloutState.PROGRESSING
    message: str = ""
    step: int = 0
    step_since_ms: int | None = None  # None: too few replicas of the new one have been ready yet
    step_spent_ms: int = 0  # in this step, before its endpoint last slept
    # Of the requests that the new revision gets. None: each ready replica gets its share.
    percent: float | None = None
    started_at_ms: int = 0
    ended_at_ms: int | None = None
    counted_to_ms: int = 0  # what was told of traffic up to then has been counted
    evidence: Evidence = Evidence()
