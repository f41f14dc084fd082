"""`asynchronous/ingresses.py` as `tools/derive_sync_client.py` made it sync; change that."""

from collections.abc import Mapping, Sequence

from leptonai.client.synchronous.calls import Calls
from leptonai.client.messages import delete_of, get_of, merge_patch, patch_of, post_to
from leptonai.spec.ingress import IngressEndpoint, IngressSpec, LeptonIngress
from leptonai.spec.metadata import Metadata


class Ingresses:
    """Domains, and the endpoints that share their requests."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(
        self, domain: str, shares: Mapping[str, int] | None = None, name: str | None = None
    ) -> LeptonIngress:
        """Args: shares: the weight of each endpoint, by its name."""
        endpoints = [IngressEndpoint(deployment=e, weight=w) for e, w in (shares or {}).items()]
        spec = IngressSpec(domain_name=domain, endpoints=endpoints or None)
        asked = LeptonIngress(metadata=Metadata(name=name), spec=spec)
        return self._calls.read(post_to("/ingress", asked, key=""), LeptonIngress)

    def list(self) -> Sequence[LeptonIngress]:
        return self._calls.read(get_of("ingress"), list[LeptonIngress])

    def get(self, name: str) -> LeptonIngress:
        return self._calls.read(get_of("ingress", name), LeptonIngress)

    def share(self, name: str, shares: Mapping[str, int]) -> LeptonIngress:
        """Lead to these endpoints, by weight, and to no others."""
        endpoints = [{"deployment": each, "weight": weight} for each, weight in shares.items()]
        patch = merge_patch(spec={"endpoints": endpoints})
        return self._calls.read(patch_of(patch, "ingress", name), LeptonIngress)

    def remove(self, name: str) -> None:
        self._calls.ask(delete_of("ingress", name))
