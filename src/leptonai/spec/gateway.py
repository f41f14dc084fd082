"""How the gateway treats the requests to an endpoint: an extension of the wire."""

from typing import Annotated, Literal

from msgspec import Meta

from leptonai.spec.metadata import Wire

MAX_HELD = 10_000
MAX_HOLD_S = 3_600
MAX_DOMAINS = 20
# A header's name, or a cookie's: a token of RFC 9110.
Token = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", max_length=64)]


class BalanceSettings(Wire, frozen=True):
    """Which replica gets a request. `name` is that of the header or of the cookie."""

    by: Literal["least-outstanding", "header", "address", "cookie"]
    name: Token | None = None


class HoldSettings(Wire, frozen=True):
    """Requests that wait while no replica is ready. `progress` tells those that accept an event
    stream, as comments of that stream: their status is then 200 whatever follows."""

    max_requests: Annotated[int, Meta(ge=0, le=MAX_HELD)] | None = None
    max_seconds: Annotated[int, Meta(ge=0, le=MAX_HOLD_S)] | None = None
    progress: bool | None = None


class RateLimitSettings(Wire, frozen=True):
    """What one caller may ask: each gateway counts for itself."""

    by: Literal["token", "address"] | None = None  # token, if not given
    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1)] | None = None  # of models, in and out


class HedgeSettings(Wire, frozen=True):
    """When a request that does no harm twice goes to a second replica, too: the answer that begins
    first is passed on. After a percentile of the times to an answer, or a fixed time."""

    percentile: Annotated[float, Meta(ge=50, lt=100)] | None = None
    after_ms: Annotated[float, Meta(gt=0, le=600_000)] | None = None
    budget_percent: Annotated[float, Meta(gt=0, le=100)] | None = None  # of the requests; 5


class GatewaySettings(Wire, frozen=True):
    retry: Literal["safe", "always", "never"] | None = None  # safe, if not given
    balance: BalanceSettings | None = None
    hold: HoldSettings | None = None
    rate_limit: RateLimitSettings | None = None
    hedge: HedgeSettings | None = None
    domains: Annotated[list[str], Meta(max_length=MAX_DOMAINS)] | None = None
