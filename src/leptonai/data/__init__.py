"""Datasets: real samples with ids, how they are divided, and how they come in batches."""

from typing import TYPE_CHECKING, Any

from leptonai.data.split import Split, split

if TYPE_CHECKING:
    from leptonai.data.loader import DataLoader

__all__ = ["DataLoader", "Split", "split"]


def __getattr__(name: str) -> Any:
    """What imports numpy, when it is first used."""
    if name != "DataLoader":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from leptonai.data.loader import DataLoader

    return DataLoader
