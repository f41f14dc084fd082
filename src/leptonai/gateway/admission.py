"""Who is let in. Pure."""

from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from leptonai.core.routing import Route
from leptonai.errors import Forbidden, LeptonError, Unauthenticated

from .limits import MAX_TOKEN_BYTES


class Gate:
    """What one endpoint asks of a caller, made ready when its route arrives.

    Tokens are looked up by their SHA-256: how long that takes tells nothing about a token, since
    nobody can choose a token by its hash.
    """

    __slots__ = ("_networks", "_own", "_restricted", "_route", "_workspace")

    def __init__(self, route: Route, workspace_tokens: frozenset[str]) -> None:
        self._route = route
        self._own = frozenset(route.token_sha256)
        self._workspace = workspace_tokens
        self._restricted = bool(route.ip_allowlist)
        self._networks = [net for net in map(_network, route.ip_allowlist) if net is not None]

    def refusal(self, digest: str, address: str) -> LeptonError | None:
        """Why a caller stays out, or None.

        Args:
            digest: of the token that came with the request; "" without one.
            address: of the caller.
        """
        route = self._route
        if not route.public and digest not in self._own:
            if digest not in self._workspace:
                return stranger()
            if route.credential:
                return Forbidden(
                    f"pod {route.name!r} is another's: only its owner and admins enter it",
                    hint="create one of your own: `leptonai pod create NAME`",
                )
            if not route.workspace_tokens:
                return Forbidden(
                    f"endpoint {route.name!r} takes its own tokens only",
                    hint="use one of the tokens it was created with",
                )
        if self._restricted and not self._in_allowlist(address):
            return Forbidden(
                f"address {address} is not on the allow list of endpoint {route.name!r}",
                hint="call from an allowed address, or have the list changed",
            )
        return None

    def _in_allowlist(self, address: str) -> bool:
        try:
            caller: IPv4Address | IPv6Address = ip_address(address)
        except ValueError:
            return False
        if isinstance(caller, IPv6Address) and caller.ipv4_mapped is not None:
            caller = caller.ipv4_mapped
        return any(caller in network for network in self._networks)


def stranger() -> Unauthenticated:
    """The one answer to no token, a wrong one and an unknown name: names are not revealed."""
    return Unauthenticated(
        "no token that opens this endpoint came with the request",
        hint="send `Authorization: Bearer TOKEN`; `leptonai token show` prints the workspace's own",
    )


def digest_of(authorization: bytes | None) -> str:
    """The SHA-256, in hex, of the bearer token in an Authorization header; "" if there is none."""
    if authorization is None or len(authorization) > MAX_TOKEN_BYTES:
        return ""
    if authorization[:7].lower() != b"bearer ":
        return ""
    token = authorization[7:].strip(b" ")
    return sha256(token).hexdigest() if token else ""


def _network(text: str) -> IPv4Network | IPv6Network | None:
    """None for what is no network: it lets nobody in."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
