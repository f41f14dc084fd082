"""What people give to a model, refused by name where it cannot be used."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from leptonai.errors import InvalidRequest

MAX_LAYERS = 1_024  # of one kind: what a stranger's file may ask to be built
MAX_WIDTH = 1 << 20  # of one layer
MAX_SIDE = 1 << 16  # of an image
MAX_CLASSES = 1 << 20  # each has a name
MAX_VOCABULARY = 1 << 24


def whole(name: str, value: Any, least: int, most: int) -> int:
    """The number itself, if it is a whole one from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"expected {name} to be a whole number, got {value!r}")
    if not least <= value <= most:
        raise InvalidRequest(f"expected {name} from {least} to {most}, got {value}")
    return value


def share(name: str, value: Any) -> float:
    """At least 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InvalidRequest(f"expected {name} to be at least 0 and below 1, got {value!r}")
    return float(value)


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InvalidRequest(f"expected {name} to be one of {', '.join(choices)}, got {value!r}")
    return str(value)


def scale(name: str, mean: float, std: float) -> None:
    """Of a normalisation: finite, and dividing by it is possible."""
    for part, value in (("mean", mean), ("std", std)):
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30:
            raise InvalidRequest(f"expected {name}_{part} to be a finite number, got {value!r}")
    if not std > 0:
        raise InvalidRequest(f"expected a {name}_std above 0, got {std}")


def class_names(num_classes: int, classes: Sequence[str] | None) -> tuple[str, ...]:
    """As given, or "0", "1", … ."""
    whole("num_classes", num_classes, 1, MAX_CLASSES)
    names = numbered(num_classes) if classes is None else tuple(classes)
    if len(names) != num_classes:
        raise InvalidRequest(f"expected {num_classes} names of classes, got {len(names)}")
    return names


def numbered(num_classes: int) -> tuple[str, ...]:
    return tuple(str(k) for k in range(num_classes))


def shape(model: object, what: str, tensor: Any, expected: Sequence[int | str]) -> None:
    """A letter in `expected` stands for any size."""
    if not isinstance(tensor, Tensor):
        raise InvalidRequest(
            f"{type(model).__name__} expected {what} as a tensor of shape {[*expected]}, "
            f"got a {type(tensor).__name__}"
        )
    sizes = tensor.shape
    fits = len(sizes) == len(expected) and all(
        isinstance(size, str) or size == actual
        for size, actual in zip(expected, sizes, strict=True)
    )
    if not fits:
        raise InvalidRequest(
            f"{type(model).__name__} expected {what} of shape {[*expected]}, got {list(sizes)}"
        )


def finite(what: str, tensor: Tensor) -> None:
    """Costs one pass over numbers with a fraction, and nothing for whole ones."""
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
        return
    at = (~torch.isfinite(tensor)).nonzero()[0].tolist()
    raise InvalidRequest(
        f"the {what} hold {tensor[tuple(at)].item()} at {at}, of shape {list(tensor.shape)}",
        hint="take out or fill in what is missing before it comes to the model",
    )


def numbers_below(what: str, tensor: Tensor, count: int, *, ignored: int | None = None) -> None:
    """Whole numbers from 0 to ``count - 1``: classes, tokens."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InvalidRequest(
            f"expected {what} as whole numbers from 0 to {count - 1}, got {tensor.dtype}",
            hint="give the number of each class, not a row with a 1 at its place"
            if tensor.ndim > 1
            else "convert them to int64",
        )
    wrong = (tensor < 0) | (tensor >= count)
    if ignored is not None:
        wrong &= tensor != ignored
    if bool(wrong.any()):
        at = wrong.nonzero()[0].tolist()
        raise InvalidRequest(
            f"expected {what} from 0 to {count - 1}, got {int(tensor[tuple(at)])} at {at}"
        )
