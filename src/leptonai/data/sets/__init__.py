"""Ready-made data sets: published ones, in the formats that they were published in.

Each is opened by ``NAME.split()`` -> (train, test), from where it was published, from another
address, from an archive or from a directory; Digits from scikit-learn, which has them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonai.data.digits import Digits
    from leptonai.data.sets.cifar import CIFAR10
    from leptonai.data.sets.dogs_and_cats import DogsAndCats
    from leptonai.data.sets.idx import MNIST, FashionMNIST

__all__ = ["CIFAR10", "MNIST", "Digits", "DogsAndCats", "FashionMNIST"]

_HOME_OF = {
    "CIFAR10": "leptonai.data.sets.cifar",
    "Digits": "leptonai.data.digits",
    "DogsAndCats": "leptonai.data.sets.dogs_and_cats",
    "FashionMNIST": "leptonai.data.sets.idx",
    "MNIST": "leptonai.data.sets.idx",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
