"""Tokens: what lets people in. The list of them is the published client's, with more facts."""

from typing import Literal

from leptonai.spec.metadata import Wire

NO_EXPIRY_MS = 253_402_300_799_000  # the year 9999: published clients want a number
MEMBER_ROLES = ("member", "admin")


class TokenInfo(Wire, frozen=True, omit_defaults=False):
    """`id`, `name`, `role` and `created_at` are Lepton extensions."""

    masked_value: str
    expires_at: int  # milliseconds since 1970
    id: str
    name: str  # whose it is: what its bearer makes is owned by this name
    role: str
    created_at: int  # milliseconds since 1970


class NewToken(Wire, frozen=True):
    """A Lepton extension."""

    name: str
    role: Literal["member", "admin"] = "member"
    expires_at: int | None = None  # milliseconds since 1970; None: never


class IssuedToken(Wire, frozen=True, omit_defaults=False):
    """`value` is the token itself, which is told this once."""

    id: str
    name: str
    role: str
    expires_at: int  # milliseconds since 1970
    value: str
