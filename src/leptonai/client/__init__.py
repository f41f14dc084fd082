"""The SDK: `LeptonClient`, and `AsyncLeptonClient` with the same methods to await.

    from leptonai.client import LeptonClient

    with LeptonClient() as client:
        for job in client.jobs.list():
            print(job.metadata.id, job.status.state)

Both come from one source, `asynchronous.py`; the sync face is derived from it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leptonai.client.asynchronous import AsyncLeptonClient as AsyncLeptonClient
    from leptonai.client.synchronous import LeptonClient as LeptonClient

__all__ = ["AsyncLeptonClient", "LeptonClient"]


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
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
