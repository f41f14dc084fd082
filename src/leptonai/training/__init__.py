"""Training: from a model and data to a trained model, on any number of workers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonai.training.callbacks import Callback
    from leptonai.training.history import History
    from leptonai.training.parallel import Plan
    from leptonai.training.registry import register
    from leptonai.training.saving import Keep
    from leptonai.training.sections import Section
    from leptonai.training.trainer import Trainer

__all__ = ["Callback", "History", "Keep", "Plan", "Section", "Trainer", "register"]

_HOME_OF = {
    "Callback": "leptonai.training.callbacks",
    "History": "leptonai.training.history",
    "Keep": "leptonai.training.saving",
    "Plan": "leptonai.training.parallel",
    "Section": "leptonai.training.sections",
    "Trainer": "leptonai.training.trainer",
    "register": "leptonai.training.registry",
}


def __getattr__(name: str) -> Any:
    """What imports torch, when it is first used."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
