"""Lepton: an open AI cloud that a team runs itself."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonai import run
    from leptonai.client import LeptonClient
    from leptonai.data.dataset import Dataset
    from leptonai.data.loader import DataLoader
    from leptonai.data.pipeline import Pipeline
    from leptonai.photon import HTTPException, Photon

__version__ = "0.1.0"

__all__ = ["DataLoader", "Dataset", "HTTPException", "LeptonClient", "Photon", "Pipeline", "run"]

_HOME_OF = {
    "DataLoader": "leptonai.data.loader",
    "Dataset": "leptonai.data.dataset",
    "HTTPException": "leptonai.photon",
    "LeptonClient": "leptonai.client",
    "Photon": "leptonai.photon",
    "Pipeline": "leptonai.data.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is: ``import leptonai`` alone costs next to nothing."""
    if name == "run":
        return import_module("leptonai.run")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
