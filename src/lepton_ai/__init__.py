"""Another published name of `leptonai`: its models and datasets."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_ai import datasets, models

__all__ = ["datasets", "models"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"lepton_ai.{name}")
