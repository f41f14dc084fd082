"""``from lepton_ai.datasets import DogsAndCats``: what `leptonai.data.sets` has ready-made."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonai.data.sets import CIFAR10, MNIST, Digits, DogsAndCats, FashionMNIST

__all__ = ["CIFAR10", "MNIST", "Digits", "DogsAndCats", "FashionMNIST"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from leptonai.data import sets

    return getattr(sets, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
