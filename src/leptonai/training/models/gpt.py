"""A decoder in the manner of GPT-2: from tokens to the next one.

Shape letters in this file: B sequences, T tokens, D width, V size of the vocabulary.
"""

from collections.abc import Mapping
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
        self.check_shape(tokens_BT, past)
        count = tokens_BT.shape[1]
        hidden_BTD = self.tokens(tokens_BT.long())
        rotation = None
        if self.places is not None:
            at = torch.arange(past, past + count, device=tokens_BT.device)
            hidden_BTD = hidden_BTD + self.places(at)
        else:
            head_width = self.width // self.heads
            rotation = rotation_at(past, count, head_width, tokens_BT.device)
        hidden_BTD = self.drop(hidden_BTD)
        for number, block in enumerate(self.blocks):
            of_layer = cache.layers[number] if cache else None
            hidden_BTD = block(hidden_BTD, rotation, None, of_layer)
        hidden_BTD = self.norm(hidden_BTD)
        weights = (self.tokens.weight,) if self.tied else ()
        scores_BTV: Tensor = self.head(hidden_BTD, *weights)
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
        """Cut by heads and by the vocabulary: `heads` is to be a multiple of the devices."""
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
        return Plan(
            blocks=[*self.blocks],
            tensor={**tokens, **tensor_parallel_blocks("blocks", self.layers)},
        )
