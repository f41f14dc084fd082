"""A decoder in the manner of GPT-2: from tokens to the next one.

Shape letters in this file: B sequences, T tokens, D width, V size of the vocabulary.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks
from leptonai.training.models.attention import (
    NORM_EPSILON,
    Block,
    Cache,
    Unembedding,
    begin,
    rotation_at,
    tensor_parallel_blocks,
    tensor_parallel_tokens,
)
from leptonai.training.models.generation import Stop, generate
from leptonai.training.models.sequences import TokenModel, check_sizes
from leptonai.training.models.tasks import Classes
from leptonai.training.parallel import Plan
from leptonai.training.sections import Section

if TYPE_CHECKING:
    from numpy.random import Generator

# As published: 124, 355, 774 and 1,558 million parameters.
PRESETS: Mapping[str, Mapping[str, int]] = {
    "gpt2": {"layers": 12, "heads": 12, "width": 768},
    "gpt2-medium": {"layers": 24, "heads": 16, "width": 1024},
    "gpt2-large": {"layers": 36, "heads": 20, "width": 1280},
    "gpt2-xl": {"layers": 48, "heads": 25, "width": 1600},
}
GPT2_VOCABULARY = 50_257
GPT2_CONTEXT = 1_024


class GPT(TokenModel, format="torch-gpt"):
    """Tokens [B, T] in; scores of each one's next token [B, T, V] out.

    It learns from (tokens, next tokens), where a target of -100 teaches nothing; or from tokens
    alone, whose next ones are found in themselves. Weights begin as GPT-2's: N(0, 0.02²), those
    that end in the sum over layers by 1/√(2 layers) smaller.

    Args:
        vocabulary: V.
        context: the most tokens that it can read.
        width, layers, heads: D, how many blocks, and how many heads divide D among them.
        feed_width: inside of a block's feed; 4 D unless given.
        dropout: share of embeddings, attention and results that training leaves out.
        positions: "rotary" turns the heads, "learned" adds a row for each position, as GPT-2 does.
        tied: tokens are scored by the weights that they are embedded with.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        context: int = 256,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        feed_width: int | None = None,
        dropout: float = 0.0,
        positions: str = "rotary",
        tied: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(
            vocabulary=vocabulary,
            context=context,
            width=width,
            layers=layers,
            heads=heads,
            positions=positions,
        )
        self.vocabulary, self.context = vocabulary, context
        self.width, self.layers, self.heads = width, layers, heads
        self.feed_width = checks.whole("feed_width", feed_width or 4 * width, 1, checks.MAX_WIDTH)
        self.dropout = checks.share("dropout", dropout)
        self.positions, self.tied = positions, bool(tied)
        self.task = Classes(vocabulary)

        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(context, width) if positions == "learned" else None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, feed_width=self.feed_width, dropout=dropout, causal=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.head = Unembedding() if tied else nn.Linear(width, vocabulary, bias=False)
        begin(self, layers)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A shape of GPT-2: "gpt2" (124 million parameters), "gpt2-medium", "gpt2-large",
        "gpt2-xl". New weights, not the published ones."""
        checks.choice("the preset", name, [*PRESETS])
        published = {
            "vocabulary": GPT2_VOCABULARY,
            "context": GPT2_CONTEXT,
            "positions": "learned",
            "dropout": 0.1,
            **PRESETS[name],
        }
        return cls(**{**published, **changes})

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> Tensor:
        """Args:
        cache: of `new_cache`: what was read before these tokens, to which they are added.
        """
        past = cache.length if cache else 0
        hidden_BTD = self._embedded(tokens_BT, past)
        rotation = self._rotation(tokens_BT, past)
        for number, block in enumerate(self.blocks):
            of_layer = cache.layers[number] if cache else None
            hidden_BTD = block(hidden_BTD, rotation, None, of_layer)
        return self._scores(hidden_BTD)

    def _embedded(self, tokens_BT: Tensor, past: int = 0) -> Tensor:
        self.check_shape(tokens_BT, past)
        hidden_BTD = self.tokens(tokens_BT.long())
        if self.places is not None:
            at = torch.arange(past, past + tokens_BT.shape[1], device=tokens_BT.device)
            hidden_BTD = hidden_BTD + self.places(at)
        dropped_BTD: Tensor = self.drop(hidden_BTD)
        return dropped_BTD

    def _rotation(self, tokens_BT: Tensor, past: int = 0) -> tuple[Tensor, Tensor] | None:
        if self.places is not None:
            return None
        return rotation_at(past, tokens_BT.shape[1], self.width // self.heads, tokens_BT.device)

    def _scores(self, hidden_BTD: Tensor) -> Tensor:
        weights = (self.tokens.weight,) if self.tied else ()
        scores_BTV: Tensor = self.head(self.norm(hidden_BTD), *weights)
        return scores_BTV

    def new_cache(self) -> Cache:
        """For one batch of sequences: give it to `forward` with the first tokens, then the next."""
        return Cache(self.layers, self.context)

    def generate(
        self,
        tokens: Any,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: Stop = None,
        use_cache: bool = True,
    ) -> Tensor:
        """Go on after tokens [T] or [B, T]; see `leptonai.training.models.generation.generate`."""
        return generate(
            self,
            tokens,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
            use_cache=use_cache,
        )

    def pair(self, batch: Any, rng: "Generator | None" = None) -> tuple[Any, Any]:
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return batch[0], batch[1]
        tokens_BT = self.inputs_of(batch)
        if tokens_BT.ndim != 2 or tokens_BT.shape[1] < 2:
            raise InvalidRequest(
                "expected tokens of shape ['B', 'T'], two or more of a sequence, "
                f"got {list(tokens_BT.shape)}"
            )
        return tokens_BT[:, :-1], tokens_BT[:, 1:]

    def plan(self) -> Plan:
        """Tensors are cut by heads and by the vocabulary: `heads` is to be a multiple of the
        devices. A pipeline is cut between blocks."""
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

        tokens = (
            tensor_parallel_tokens("tokens", "head")
            if self.tied
            else {
                "tokens": RowwiseParallel(input_layouts=Replicate()),
                "head": ColwiseParallel(output_layouts=Replicate()),
            }
        )
        places = () if self.places is None else (self.places,)
        return Plan(
            blocks=[*self.blocks],
            tensor={**tokens, **tensor_parallel_blocks("blocks", self.layers)},
            pipeline=[
                Section(lambda _, tokens_BT: self._embedded(tokens_BT), (self.tokens, *places)),
                *(Section(self._through(block), (block,)) for block in self.blocks),
                Section(
                    lambda hidden_BTD, _: self._scores(hidden_BTD),
                    (self.norm, self.tokens if self.tied else self.head),
                ),
            ],
        )

    def _through(self, block: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda hidden_BTD, tokens_BT: block(hidden_BTD, self._rotation(tokens_BT))
