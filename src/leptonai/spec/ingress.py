"""A domain, and the endpoints that requests to it get to."""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from leptonai.spec.endpoints import AuthConfig, LoadBalance
from leptonai.spec.metadata import Metadata, Wire

MAX_SHARES = 100
MAX_WEIGHT = 1_000_000


class IngressEndpoint(Wire, frozen=True):
    """An endpoint's share of the requests. Weights are relative: 80 and 20 are as 4 and 1."""

    deployment: str | None = None  # the endpoint's name
    weight: Annotated[int, Meta(ge=0, le=MAX_WEIGHT)] | None = None  # 100, if not given
    load_balance_config: LoadBalance | None = None


class IngressLocality(Wire, frozen=True):
    region: str | None = None


class IngressShadowing(Wire, frozen=True):
    percentage: int | None = None
    endpoint: IngressEndpoint | None = None


class IngressSpec(Wire, frozen=True):
    domain_name: str
    endpoints: Annotated[list[IngressEndpoint], Meta(max_length=MAX_SHARES)] | None = None
    retelimit_config: dict[str, Any] | None = None  # so spelt; it has no fields that say anything
    auth_config: AuthConfig | None = None
    locality: IngressLocality | None = None
    traffic_shadowing_config: IngressShadowing | None = None


class DomainRecord(Wire, frozen=True, omit_defaults=False):
    """Which DNS record a domain should have, and what DNS says of it at the moment."""

    record: str  # "CNAME gateway.example.org", "A 203.0.113.7"
    leads_here: bool | None = None  # None: it was not looked up yet
    addresses: list[str] = field(default_factory=list)
    looked_up_at: int | None = None  # milliseconds since 1970


class IngressStatus(Wire, frozen=True, omit_defaults=False):
    """`active`: requests that come for the domain reach an endpoint. `dns` is an extension."""

    validation_status: Literal["pending", "active", "failed"]
    message: str
    expected_cname_target: str
    dns: DomainRecord | None = None


class LeptonIngress(Wire, frozen=True):
    metadata: Metadata
    spec: IngressSpec
    status: IngressStatus | None = None
