"""Host names that people give to endpoints and ingresses: each belongs to one of them."""

import re
from urllib.parse import urlsplit

from leptonai.control.world import World
from leptonai.core.ingress import domain_owners
from leptonai.core.records import Endpoint, Ingress
from leptonai.errors import AlreadyExists, InvalidRequest
from leptonai.ports.store import Query

MAX_DOMAIN_CHARS = 253
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})+")

Owner = tuple[str, str, str]  # workspace, kind, name


async def check_domain(world: World, field: str, host: str, owner: Owner) -> None:
    """Refuse what is no host name, the platform's own, or another's.

    Raises:
        InvalidRequest, AlreadyExists
    """
    is_address = host.rpartition(".")[2].isdigit()
    if len(host) > MAX_DOMAIN_CHARS or not _DOMAIN.fullmatch(host) or is_address:
        raise InvalidRequest(
            f"{field}: {host[:60]!r} is no host name",
            hint='For example "models.example.org", without a scheme, port or path.',
        )
    own = {urlsplit(url).hostname for url in (world.config.gateway_url, world.config.url)}
    if host.lower().endswith(".localhost") or host.lower() in own:
        raise InvalidRequest(
            f"{field}: {host} is the platform's own",
            hint="Every endpoint is at NAME.WORKSPACE.localhost anyway.",
        )
    holder = (await owners_of_domains(world)).get(host.lower())
    if holder is not None and _key(holder) != owner:
        workspace, kind, name = _key(holder)
        whose = f"{kind} {name}" if workspace == owner[0] else "somebody of another workspace"
        raise AlreadyExists(
            f"{field}: {host} belongs to {whose}",
            hint="Choose another, or take it from that one first.",
        )


async def owners_of_domains(world: World) -> dict[str, Endpoint | Ingress]:
    """Of all workspaces: a host name is in the whole world only once."""
    endpoints = await world.store.find(Endpoint, Query())
    return domain_owners(endpoints, await world.store.find(Ingress, Query()))


def _key(holder: Endpoint | Ingress) -> Owner:
    kind = "endpoint" if isinstance(holder, Endpoint) else "ingress"
    return (holder.workspace, kind, holder.name)
