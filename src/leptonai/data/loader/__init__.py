"""Batches of a data set, shuffled globally, sharded, made ahead, and resumable at any sample."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonai.data.loader.loader import DataLoader

__all__ = ["DataLoader"]


def __getattr__(name: str) -> Any:
    """It imports numpy, so only when it is used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from leptonai.data.loader.loader import DataLoader

    return DataLoader
