"""Models to train. Their modules import torch, and so are imported on first use."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonai.training.models.cnn import CNN, load_model, save_model

__all__ = ["CNN", "load_model", "save_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from leptonai.training.models import cnn

    return getattr(cnn, name)
