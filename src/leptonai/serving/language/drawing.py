"""The next token of each of several texts, drawn from what the model expects.

Shape letters: B texts, V tokens of the vocabulary.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

MIN_TEMPERATURE = 1e-5  # below it the likeliest token is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0
    top_p: float = 1.0  # of the likeliest tokens that make up so much
    top_k: int = 0  # of so many of the likeliest tokens; 0 is all
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None  # of how many of the likeliest tokens it is told how likely

    @property
    def is_greedy(self) -> bool:
        return self.temperature < MIN_TEMPERATURE

    @property
    def changes_scores(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty or self.logit_bias)


class Likely(NamedTuple):
    """Natural logarithms of probabilities, before temperature and penalties."""

    logprob: float  # of the token that was drawn
    top: list[tuple[int, float]]  # the likeliest tokens


class Drawn(NamedTuple):
    token: int
    likely: Likely | None


class Drawing:
    """What one text draws its tokens with: the same seed draws the same, whatever texts are
    computed beside it."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self.sampling = sampling
        self._chance = random.Random(seed)  # noqa: S311
        self._counts: Counter[int] = Counter()  # of tokens that were drawn

    def chance(self) -> float:
        return self._chance.random()

    def changed(self, scores_V: "Tensor") -> "Tensor":
        """With penalties and biases."""
        import torch

        told = self.sampling
        scores_V = scores_V.clone()
        if self._counts and (told.presence_penalty or told.frequency_penalty):
            tokens = torch.tensor([*self._counts], device=scores_V.device)
            counts = torch.tensor([*self._counts.values()], device=scores_V.device)
            scores_V[tokens] -= told.presence_penalty + told.frequency_penalty * counts
        if told.logit_bias:
            tokens = torch.tensor([*told.logit_bias], device=scores_V.device)
            scores_V[tokens] += torch.tensor([*told.logit_bias.values()], device=scores_V.device)
        return scores_V

    def note(self, token: int) -> None:
        if self.sampling.presence_penalty or self.sampling.frequency_penalty:
            self._counts[token] += 1


def draw(scores_BV: "Tensor", drawings: Sequence[Drawing]) -> list[Drawn]:
    """One token of each."""
    import torch

    scores_BV = scores_BV.float()
    likely = _likely(scores_BV, drawings)
    wanted_BV = scores_BV
    if any(each.sampling.changes_scores for each in drawings):
        rows = zip(scores_BV, drawings, strict=True)
        wanted_BV = torch.stack(
            [each.changed(row) if each.sampling.changes_scores else row for row, each in rows]
        )
    tokens = wanted_BV.argmax(dim=1).tolist()
    chosen = [at for at, each in enumerate(drawings) if not each.sampling.is_greedy]
    if chosen:
        some = wanted_BV if len(chosen) == len(drawings) else wanted_BV[chosen]
        for at, token in zip(chosen, _sampled(some, [drawings[at] for at in chosen]), strict=True):
            tokens[at] = token
    drawn = []
    for at, (token, each) in enumerate(zip(tokens, drawings, strict=True)):
        each.note(token)
        drawn.append(Drawn(token, likely[at](token) if at in likely else None))
    return drawn


def _sampled(scores_BV: "Tensor", drawings: Sequence[Drawing]) -> list[int]:
    """By the inverse of the distribution function, for which a text needs one number a token."""
    import torch

    device = scores_BV.device
    told = [each.sampling for each in drawings]
    temperatures_B = torch.tensor([each.temperature for each in told], device=device)
    chances_B = torch.tensor(
        [each.chance() for each in drawings], device=device, dtype=torch.float64
    )
    shares_BV = torch.softmax(scores_BV / temperatures_B[:, None], dim=1)
    order_BV = None
    if any(each.top_p < 1 or each.top_k for each in told):
        shares_BV, order_BV = shares_BV.sort(dim=1, descending=True, stable=True)
        before_BV = shares_BV.cumsum(dim=1) - shares_BV
        most_B = torch.tensor([each.top_p for each in told], device=device)
        counts_B = torch.tensor([each.top_k or shares_BV.shape[1] for each in told], device=device)
        places_V = torch.arange(shares_BV.shape[1], device=device)
        taken_BV = (before_BV < most_B[:, None]) & (places_V < counts_B[:, None])
        taken_BV[:, 0] = True
        shares_BV = shares_BV * taken_BV
    sums_BV = shares_BV.cumsum(dim=1, dtype=torch.float64)
    totals_B1 = sums_BV[:, -1:]
    found_B = torch.searchsorted(sums_BV, chances_B[:, None] * totals_B1, right=True)[:, 0]
    # A chance next to 1 may round to the whole, behind which there is nothing.
    last_B = (sums_BV < totals_B1).sum(dim=1)
    found_B = torch.minimum(found_B, last_B)
    if order_BV is not None:
        found_B = order_BV.gather(1, found_B[:, None])[:, 0]
    tokens: list[int] = found_B.tolist()
    return tokens


def _likely(scores_BV: "Tensor", drawings: Sequence[Drawing]) -> "dict[int, _Told]":
    wanted = [at for at, each in enumerate(drawings) if each.sampling.logprobs is not None]
    if not wanted:
        return {}
    logprobs_BV = scores_BV[wanted].log_softmax(dim=1)
    most = max(drawings[at].sampling.logprobs or 0 for at in wanted)
    values, tokens = logprobs_BV.topk(min(most, logprobs_BV.shape[1]), dim=1)
    pairs = zip(wanted, logprobs_BV, values.tolist(), tokens.tolist(), strict=True)
    return {
        at: _Told(row, [*zip(found, shares, strict=True)][: drawings[at].sampling.logprobs])
        for at, row, shares, found in pairs
    }


class _Told(NamedTuple):
    logprobs: "Tensor"  # of all tokens
    top: list[tuple[int, float]]

    def __call__(self, token: int) -> Likely:
        return Likely(float(self.logprobs[token]), self.top)
