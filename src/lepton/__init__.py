"""Another published name of `leptonai`: ``from lepton import LeptonClient``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonai.client import LeptonClient

__all__ = ["LeptonClient"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import leptonai

    return getattr(leptonai, name)
