"""`Scaling`: raw numbers, made about as large as a network likes them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks


class Scaling(nn.Module):
    """[…, F] in and out: the mean taken off, and divided by the standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: float | Sequence[float], std: float | Sequence[float], features: int
    ) -> None:
        """Args:
        mean, std: one for all of the F `features`, or one for each.
        """
        super().__init__()
        for name, given in (("mean", mean), ("std", std)):
            numbers = [*given] if isinstance(given, Sequence) else [given]
            if len(numbers) not in (1, features):
                raise InvalidRequest(
                    f"expected input_{name} to be one number or {features}, got {len(numbers)}"
                )
            for number in numbers:
                checks.scale("input", *((number, 1.0) if name == "mean" else (0.0, number)))
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32))

    def forward(self, raw: Tensor) -> Tensor:
        return (raw.to(self.mean.dtype) - self.mean) / self.std
