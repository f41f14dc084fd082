"""``from lepton_ai.datasets import Digits``: the ready-made datasets of `leptonai.data`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonai.data.digits import Digits

__all__ = ["Digits"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from leptonai.data import digits

    return getattr(digits, name)
