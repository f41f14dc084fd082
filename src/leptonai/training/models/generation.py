"""Going on with a sequence of tokens, one after the other.

Shape letters in this file: B sequences, T tokens of the prompt, N new ones, V size of the
vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks

if TYPE_CHECKING:
    from leptonai.training.models.gpt import GPT

MAX_SEED = (1 << 64) - 1

Stop: TypeAlias = int | Sequence[int] | None


def generate(
    model: "GPT",
    tokens: Any,
    max_new_tokens: int,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    stop: Stop,
    use_cache: bool,
) -> Tensor:
    """Prompt and what follows it, [T + N] or [B, T + N]; N is at most `max_new_tokens`.

    What a row becomes depends on its prompt, the seed and its number in the batch alone. The draws
    are made on the CPU, so the same scores give the same tokens on every device.

    Args:
        tokens: [T] or [B, T], a tensor or lists.
        temperature: 0 takes the likeliest token; above 1 draws more evenly than the scores say.
        top_k: draw from the likeliest k tokens only.
        top_p: draw from the fewest tokens only that have this probability together.
        stop: a row that has come to such a token has ended, and is filled up with it.
        use_cache: remember what was read. Without, the same comes out, later.

    Raises:
        InvalidRequest: the prompt is empty, is not of tokens, or leaves no room in the context.
    """
    prompt = torch.as_tensor(tokens, device=model.device)
    prompt_BT = prompt[None] if prompt.ndim == 1 else prompt
    checks.whole("max_new_tokens", max_new_tokens, 1, model.context)
    model.check_inputs(prompt_BT)
    if prompt_BT.shape[1] + max_new_tokens > model.context + 1:
        raise InvalidRequest(
            f"a prompt of {prompt_BT.shape[1]} tokens and {max_new_tokens} new ones are more than "
            f"the model's context of {model.context}",
            hint="ask for fewer new tokens, or give the end of the prompt alone",
        )
    choose = _Choice(temperature, top_k, top_p, model.vocabulary)
    ends = _stop_tokens(stop, model)
    checks.whole("seed", seed, 0, MAX_SEED)
    draws = np.random.default_rng(seed).random((len(prompt_BT), max_new_tokens), np.float32)
    draws_BN = torch.from_numpy(draws).to(model.device)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            whole_BT = _go_on(model, prompt_BT.long(), choose, draws_BN, ends, use_cache)
    finally:
        model.train(training)
    made = whole_BT.clone()
    return made[0] if prompt.ndim == 1 else made


def _go_on(
    model: "GPT",
    prompt_BT: Tensor,
    choose: "_Choice",
    draws_BN: Tensor,
    ends: Tensor | None,
    use_cache: bool,
) -> Tensor:
    cache = model.new_cache() if use_cache else None
    batch, length = prompt_BT.shape
    room = prompt_BT.new_zeros((batch, length + draws_BN.shape[1]))
    room[:, :length] = prompt_BT
    unread = 0
    ended_B = torch.zeros(batch, dtype=torch.bool, device=prompt_BT.device)
    for step in range(draws_BN.shape[1]):
        scores_BV = model(room[:, unread:length], cache)[:, -1]
        unread = length if cache else 0
        next_B = choose(scores_BV, draws_BN[:, step])
        if ends is not None:
            next_B = torch.where(ended_B, room[:, length - 1], next_B)
            ended_B |= torch.isin(next_B, ends)
        room[:, length] = next_B
        length += 1
        if ends is not None and bool(ended_B.all()):
            break
    return room[:, :length]


class _Choice:
    """Of the next token, by its score and a draw from [0, 1)."""

    def __init__(
        self, temperature: float, top_k: int | None, top_p: float | None, vocabulary: int
    ) -> None:
        if not 0 <= temperature < float("inf"):
            raise InvalidRequest(f"expected a temperature of 0 or more, got {temperature}")
        if top_p is not None and not 0 < top_p <= 1:
            raise InvalidRequest(f"expected top_p above 0 and at most 1, got {top_p}")
        self._temperature = temperature
        self._top_k = (
            min(checks.whole("top_k", top_k, 1, checks.MAX_VOCABULARY), vocabulary)
            if (top_k is not None)
            else vocabulary
        )
        self._top_p = top_p

    def __call__(self, scores_BV: Tensor, draw_B: Tensor) -> Tensor:
        if not self._temperature:
            return scores_BV.argmax(-1)
        # From the likeliest to the least likely, so that a draw cuts off what is left out.
        scores_BK, tokens_BK = (scores_BV.float() / self._temperature).topk(self._top_k)
        upto_BK = scores_BK.softmax(-1).cumsum(-1)
        total_B = upto_BK[:, -1]
        if self._top_p is not None:
            count_B = (upto_BK < self._top_p).sum(-1).clamp(max=self._top_k - 1)
            total_B = upto_BK.gather(1, count_B[:, None])[:, 0]
        at_B = torch.searchsorted(upto_BK, (draw_B * total_B)[:, None], right=True)
        return tokens_BK.gather(1, at_B.clamp(max=self._top_k - 1))[:, 0]


def _stop_tokens(stop: Stop, model: "GPT") -> Tensor | None:
    if stop is None:
        return None
    numbers = [stop] if isinstance(stop, int) else [*stop]
    for number in numbers:
        checks.whole("a token to stop at", number, 0, model.vocabulary - 1)
    return torch.tensor(numbers, device=model.device)
