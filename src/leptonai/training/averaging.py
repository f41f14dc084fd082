"""A moving average of a model's weights: steadier than the last ones, where steps are noisy."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from leptonai.training import state


class MovingAverage:
    """Begins with the weights that the model has."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.weights = _copy(model)

    @torch.no_grad()
    def move(self, step: int) -> None:
        """After so many steps, towards the weights that the model has now."""
        # At first an average of few: else the weights that it began with would count for long.
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            [state.local_of(each) for each in self.weights.values()],
            [state.local_of(each) for _, each in state.parameters_of(self._model)],
            1 - decay,
        )

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The model has the averaged weights meanwhile."""
        own = _copy(self._model)
        self.give()
        try:
            yield
        finally:
            _set(self._model, own)

    def give(self) -> None:
        """The model has the averaged weights from now on."""
        _set(self._model, self.weights)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in state.parameters_of(model)}


@torch.no_grad()
def _set(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, each in state.parameters_of(model):
        each.copy_(weights[name])
