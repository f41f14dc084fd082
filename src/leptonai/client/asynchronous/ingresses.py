"""Domains that lead to endpoints."""

from collections.abc import Mapping, Sequence

from leptonai.client.asynchronous.calls import AsyncCalls
from leptonai.client.messages import delete_of, get_of, merge_patch, patch_of, post_to
from leptonai.spec.ingress import IngressEndpoint, IngressSpec, LeptonIngress
from leptonai.spec.metadata import Metadata


class AsyncIngresses:
    """Domains, and the endpoints that share their requests."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def create(
        self, domain: str, shares: Mapping[str, int] | None = None, name: str | None = None
    ) -> LeptonIngress:
        """Args: shares: the weight of each endpoint, by its name."""
        endpoints = [IngressEndpoint(deployment=e, weight=w) for e, w in (shares or {}).items()]
        spec = IngressSpec(domain_name=domain, endpoints=endpoints or None)
        asked = LeptonIngress(metadata=Metadata(name=name), spec=spec)
        return await self._calls.read(post_to("/ingress", asked, key=""), LeptonIngress)

    async def list(self) -> Sequence[LeptonIngress]:
        return await self._calls.read(get_of("ingress"), list[LeptonIngress])

    async def get(self, name: str) -> LeptonIngress:
        return await self._calls.read(get_of("ingress", name), LeptonIngress)

    async def share(self, name: str, shares: Mapping[str, int]) -> LeptonIngress:
        """Lead to these endpoints, by weight, and to no others."""
        endpoints = [{"deployment": each, "weight": weight} for each, weight in shares.items()]
        patch = merge_patch(spec={"endpoints": endpoints})
        return await self._calls.read(patch_of(patch, "ingress", name), LeptonIngress)

    async def remove(self, name: str) -> None:
        await self._calls.ask(delete_of("ingress", name))
