"""What a model remembers of the texts that it writes together: keys and values, in one rectangle.

Texts are aligned at their ends, so that the next token of each goes into the same column; what is
left of a shorter one is never looked at. Columns are written into room that was made beforehand,
where transformers' own cache copies all of itself with each token.

Shape letters: B texts, H heads, T columns, D numbers of a head.
"""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

ROOM = 128  # columns that are made at a time


@cache
def _layer_class() -> Any:
    """Keys and values of one layer of the model. Made when transformers is there to build upon."""
    base: Any = import_module("transformers.cache_utils").DynamicLayer

    class Layer(base):  # type: ignore[misc]  # transformers is hardly typed
        def __init__(self, keys: "Tensor | None" = None, values: "Tensor | None" = None) -> None:
            super().__init__()
            self._kept: list[Tensor] = []  # keys and values, with room at their ends
            if keys is not None and values is not None:
                self.lazy_initialization(keys, values)
                self._kept = [keys, values]

        def lazy_initialization(self, key_states: "Tensor", value_states: "Tensor") -> None:
            super().lazy_initialization(key_states, value_states)
            self._kept = []

        def show(self, columns: int) -> "Layer":
            """So many of them are filled."""
            self.keys, self.values = (kept[:, :, :columns] for kept in self._kept)
            return self

        def update(
            self, key_states: "Tensor", value_states: "Tensor", *_: Any, **__: Any
        ) -> "tuple[Tensor, Tensor]":
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            before = self.get_seq_length()
            after = before + key_states.shape[-2]
            if not self._kept or after > self._kept[0].shape[-2]:
                self._kept = [
                    _with_room(old, new, after)
                    for old, new in ((self.keys, key_states), (self.values, value_states))
                ]
            for kept, new in zip(self._kept, (key_states, value_states), strict=True):
                kept[:, :, before:after] = new
            self.show(after)
            return self.keys, self.values

    return Layer


def _with_room(old: "Tensor", new: "Tensor", columns: int) -> "Tensor":
    made = _made(new, new.shape[0], columns + ROOM)
    if old.numel():
        made[:, :, : old.shape[-2]] = old
    return made


def _made(like: "Tensor", texts: int, columns: int) -> "Tensor":
    # Zeros: what is never looked at is multiplied by 0, and must not be infinite.
    return like.new_zeros((texts, like.shape[1], columns, like.shape[3]))


def new_cache() -> Any:
    cache_class: Any = import_module("transformers.cache_utils").Cache
    return cache_class(layer_class_to_replicate=_layer_class())


class Part(NamedTuple):
    """Some texts of a cache."""

    cache: Any
    texts: Sequence[int]  # by row


def combined(parts: Sequence[Part], columns: int) -> Any:
    """One cache of all of them, in this order.

    Args:
        columns: of the longest text; each part has at least the columns of its own longest.
    """
    cache_class: Any = import_module("transformers.cache_utils").Cache
    first = parts[0].cache
    layers = []
    for at in range(len(first.layers)):
        kept = []
        for name in ("keys", "values"):
            tensors = [getattr(part.cache.layers[at], name) for part in parts]
            made = _made(tensors[0], sum(len(part.texts) for part in parts), columns + ROOM)
            row = 0
            for part, tensor in zip(parts, tensors, strict=True):
                width = min(columns, tensor.shape[-2])
                rows = torch.tensor([*part.texts], device=tensor.device)
                chosen = tensor[:, :, tensor.shape[-2] - width :].index_select(0, rows)
                made[row : row + len(part.texts), :, columns - width : columns] = chosen
                row += len(part.texts)
            kept.append(made)
        layers.append(_layer_class()(*kept).show(columns))
    return cache_class(layers=layers)
