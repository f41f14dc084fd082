"""Domains whose requests several endpoints share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING

from leptonai.core.ingress import Host

from .balance import Shares, draw, place_of

if TYPE_CHECKING:
    from .endpoint import Endpoint


class SharedHost:
    """Picks the endpoint of each request: evenly by weight, or the same one for a caller."""

    __slots__ = ("_by_address", "_endpoints", "_shares", "_turns")

    def __init__(self, host: Host, endpoints: Mapping[bytes, Endpoint]) -> None:
        weights = {
            f"/e/{share.workspace}/{share.name}".encode(): float(share.weight)
            for share in host.shares
        }
        self._endpoints = endpoints
        self._shares = Shares(weights)
        self._by_address = host.by_address
        self._turns = count()

    def choose(self, address: str) -> Endpoint | None:
        """None where no endpoint has a share."""
        place = place_of(address.encode()) if self._by_address else draw(next(self._turns))
        key = self._shares.at(place)
        return None if key is None else self._endpoints.get(key)
