"""What models of tokens have in common.

Shape letters in this file: B sequences, T tokens.
"""

from typing import Any

import torch
from torch import Tensor

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks
from leptonai.training.models.base import Model

MAX_CONTEXT = 1 << 24


class TokenModel(Model):
    """Takes tokens [B, T], numbers below `vocabulary`, at most `context` of a sequence."""

    vocabulary: int
    context: int

    def example(self, count: int = 1) -> Tensor:
        return torch.zeros((count, min(self.context, 8)), dtype=torch.int64)

    def check_inputs(self, inputs: Any) -> None:
        self.check_shape(inputs, 0)
        checks.numbers_below("the tokens", inputs, self.vocabulary)

    def check_shape(self, tokens_BT: Any, past: int) -> None:
        checks.shape(self, "tokens", tokens_BT, ("B", "T"))
        if not 0 < tokens_BT.shape[1] <= self.context - past:
            raise InvalidRequest(
                f"{type(self).__name__} reads from 1 to {self.context} tokens of a sequence, got "
                f"{past + tokens_BT.shape[1]}",
                hint="cut the sequences, or make the model with a larger context",
            )


def check_sizes(
    *, vocabulary: int, context: int, width: int, layers: int, heads: int, positions: str
) -> None:
    checks.whole("vocabulary", vocabulary, 2, checks.MAX_VOCABULARY)
    checks.whole("context", context, 1, MAX_CONTEXT)
    checks.whole("width", width, 1, checks.MAX_WIDTH)
    checks.whole("layers", layers, 1, checks.MAX_LAYERS)
    checks.whole("heads", heads, 1, width)
    checks.choice("positions", positions, ("learned", "rotary"))
    if width % heads:
        raise InvalidRequest(f"expected a width that is a multiple of {heads} heads, got {width}")
    if positions == "rotary" and width // heads % 2:
        raise InvalidRequest(
            f"expected heads of an even width to rotate, got {width // heads}",
            hint='or make the model with positions="learned"',
        )
