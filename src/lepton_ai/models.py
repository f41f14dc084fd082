"""``from lepton_ai.models import CNN``: the models of `leptonai.training.models`."""

from typing import TYPE_CHECKING, Any

from leptonai.training.models import __all__

if TYPE_CHECKING:
    from leptonai.training.models import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from leptonai.training import models

    return getattr(models, name)
