"""The SDK: `LeptonClient`, and `AsyncLeptonClient` with the same methods to await.

    from leptonai.client import LeptonClient

    with LeptonClient() as client:
        for job in client.jobs.list():
            print(job.metadata.id, job.status.state)

`Client` calls one service, a photon or any other that describes itself by OpenAPI:

    from leptonai.client import Client, local

    Client(local()).add(x=1)

The first two come from one source, `asynchronous/`; the sync face is derived from it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leptonai.client.asynchronous import AsyncLeptonClient as AsyncLeptonClient
    from leptonai.client.service import Client as Client
    from leptonai.client.service import current as current
    from leptonai.client.service import local as local
    from leptonai.client.synchronous import LeptonClient as LeptonClient

__all__ = ["AsyncLeptonClient", "Client", "LeptonClient", "current", "local"]


def __getattr__(name: str) -> object:
    """Each face is loaded when first used: the async one needs httpx, the sync one nothing."""
    if name == "LeptonClient":
        from leptonai.client.synchronous import LeptonClient

        return LeptonClient
    if name == "AsyncLeptonClient":
        try:
            from leptonai.client.asynchronous import AsyncLeptonClient
        except ModuleNotFoundError as missing:
            if missing.name != "httpx":
                raise
            raise ModuleNotFoundError(
                "AsyncLeptonClient needs httpx: pip install 'openlepton[async]'", name="httpx"
            ) from missing
        return AsyncLeptonClient
    if name in ("Client", "current", "local"):
        from leptonai.client import service

        return getattr(service, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
