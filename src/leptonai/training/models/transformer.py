"""An encoder in the manner of BERT: each token sees all the others.

Shape letters in this file: B sequences, T tokens, D width, V size of the vocabulary, K classes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from leptonai.errors import InvalidRequest
from leptonai.training.losses import IGNORED
from leptonai.training.models import checks
from leptonai.training.models.attention import (
    NORM_EPSILON,
    Block,
    Unembedding,
    begin,
    rotation_at,
    tensor_parallel_blocks,
    tensor_parallel_tokens,
)
from leptonai.training.models.sequences import TokenModel, check_sizes
from leptonai.training.models.tasks import Classes
from leptonai.training.parallel import Plan
from leptonai.training.sections import Section

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

MASKED_SHARE = 0.15  # of the tokens are to be found again; of these
BECOME_MASK = 0.8  # are hidden, and
BECOME_OTHER = 0.1  # become another token; the rest stays


class TransformerEncoder(TokenModel, format="torch-transformer"):
    """Tokens [B, T] in; scores of the classes [B, K], or without classes of what each token is
    [B, T, V], out.

    Padding is neither read nor counted: sequences of several lengths may come in one batch. The
    class is told from the mean over a sequence's tokens. Without classes it learns from tokens
    alone, some of which are hidden from it. Weights begin as GPT-2's, see `GPT`.

    Args:
        vocabulary: V.
        num_classes: K; without it, the model is one for masked tokens.
        context: the most tokens that it can read.
        width, layers, heads: D, how many blocks, and how many heads divide D among them.
        feed_width: inside of a block's feed; 4 D unless given.
        dropout: share of embeddings, attention and results that training leaves out.
        positions: "rotary" turns the heads, "learned" adds a row for each position.
        padding: the token that is none.
        mask: the token that stands for a hidden one; the last one unless given.
        classes: their names.

    Source: Devlin et al. 2018, arXiv:1810.04805; normalised before each part, not after.
    """

    def __init__(
        self,
        vocabulary: int,
        num_classes: int | None = None,
        *,
        context: int = 256,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        feed_width: int | None = None,
        dropout: float = 0.1,
        positions: str = "rotary",
        padding: int = 0,
        mask: int | None = None,
        classes: Sequence[str] | None = None,
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
        self.positions = positions
        self.padding = checks.whole("padding", padding, 0, vocabulary - 1)
        self.mask = checks.whole(
            "mask", vocabulary - 1 if mask is None else mask, 0, vocabulary - 1
        )
        self.num_classes = num_classes
        self.classes = None if num_classes is None else checks.class_names(num_classes, classes)
        self.task = Classes(num_classes or vocabulary)

        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(context, width) if positions == "learned" else None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                feed_width=self.feed_width,
                dropout=dropout,
                causal=False,
                approximate="none",
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        if num_classes is not None:
            self.head: nn.Module = nn.Linear(width, num_classes)
        else:
            self.transform = nn.Linear(width, width)
            self.transform_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
            self.head = Unembedding()
            self.bias = nn.Parameter(torch.zeros(vocabulary))
        begin(self, layers)

    def forward(self, tokens_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Args:
        mask_BT: True where there is a token to read; all that are not padding, unless given.
        """
        self.check_shape(tokens_BT, 0)
        if mask_BT is None:
            mask_BT = tokens_BT != self.padding
        return self._scores(self.encode(tokens_BT, mask_BT), mask_BT)

    def _scores(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        if self.num_classes is not None:
            weights_BT1 = mask_BT[..., None].to(hidden_BTD.dtype)
            mean_BD = (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1)
            scores_BK: Tensor = self.head(mean_BD)
            return scores_BK
        hidden_BTD = self.transform_norm(functional.gelu(self.transform(hidden_BTD)))
        scores_BTV: Tensor = self.head(hidden_BTD, self.tokens.weight) + self.bias
        return scores_BTV

    def encode(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """What each token means among the others, [B, T, D]."""
        hidden_BTD = self._embedded(tokens_BT)
        beside = self._rotation(tokens_BT), self._readable(mask_BT)
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD, *beside)
        normalised_BTD: Tensor = self.norm(hidden_BTD)
        return normalised_BTD

    def _embedded(self, tokens_BT: Tensor) -> Tensor:
        hidden_BTD = self.tokens(tokens_BT.long())
        if self.places is not None:
            at = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
            hidden_BTD = hidden_BTD + self.places(at)
        dropped_BTD: Tensor = self.drop(hidden_BTD)
        return dropped_BTD

    def _rotation(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.places is not None:
            return None
        return rotation_at(0, tokens_BT.shape[1], self.width // self.heads, tokens_BT.device)

    def _readable(self, mask_BT: Tensor) -> Tensor:
        """By whom which token is read, [B, 1, 1, T]."""
        readable = mask_BT[:, None, None, :]
        if mask_BT.shape[1]:
            # A sequence of nothing but padding reads itself: of nothing, there would be no mean.
            readable = readable | ~mask_BT.any(1)[:, None, None, None]
        return readable

    def pair(self, batch: Any, rng: "Generator | None" = None) -> tuple[Any, Any]:
        """Without classes and targets, tokens are hidden in part, and to be found."""
        if self.num_classes is not None or (isinstance(batch, tuple | list) and len(batch) == 2):
            return super().pair(batch)
        return self.hide(np.asarray(self.inputs_of(batch)), rng or np.random.default_rng(0))

    def hide(
        self, tokens_BT: "NDArray[Any]", rng: "Generator"
    ) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
        """Tokens with some hidden, and what is to be found: -100 where nothing is. One at least of
        each sequence, so that no batch teaches nothing."""
        tokens_BT = tokens_BT.astype(np.int64)
        is_token_BT = tokens_BT != self.padding
        draw_BT = np.where(is_token_BT, rng.random(tokens_BT.shape), 2.0)
        fate_BT = rng.random(tokens_BT.shape)
        others_BT = rng.integers(self.vocabulary, size=tokens_BT.shape)
        found_BT = (draw_BT < MASKED_SHARE) | (draw_BT == draw_BT.min(1, keepdims=True))
        found_BT &= is_token_BT
        masked_BT = found_BT & (fate_BT < BECOME_MASK)
        other_BT = found_BT & ~masked_BT & (fate_BT < BECOME_MASK + BECOME_OTHER)
        seen_BT = np.where(masked_BT, self.mask, np.where(other_BT, others_BT, tokens_BT))
        return seen_BT, np.where(found_BT, tokens_BT, IGNORED)

    def check_inputs(self, inputs: Any) -> None:
        super().check_inputs(inputs)
        if self.num_classes is not None and not bool((inputs != self.padding).any(1).all()):
            raise InvalidRequest(
                f"a sequence holds nothing but the padding, {self.padding}",
                hint="take it out; or make the model with another padding",
            )

    def plan(self) -> Plan:
        """Tensors are cut by heads and, without classes, by the vocabulary: `heads` is to be a
        multiple of the devices. A pipeline is cut between blocks."""
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor.parallel import RowwiseParallel

        tokens = (
            {"tokens": RowwiseParallel(input_layouts=Replicate())}
            if self.num_classes is not None
            else tensor_parallel_tokens("tokens", "head")
        )
        return Plan(
            blocks=[*self.blocks],
            tensor={**tokens, **tensor_parallel_blocks("blocks", self.layers)},
            pipeline=self._sections(),
        )

    def _sections(self) -> list[Section]:
        def first(_: None, tokens_BT: Tensor) -> Tensor:
            self.check_shape(tokens_BT, 0)
            return self._embedded(tokens_BT)

        def through(block: nn.Module) -> Section:
            def run(hidden_BTD: Tensor, tokens_BT: Tensor) -> Any:
                readable = self._readable(tokens_BT != self.padding)
                return block(hidden_BTD, self._rotation(tokens_BT), readable)

            return Section(run, (block,))

        def last(hidden_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
            return self._scores(self.norm(hidden_BTD), tokens_BT != self.padding)

        places = () if self.places is None else (self.places,)
        ends: tuple[nn.Module | nn.Parameter, ...] = (self.norm, self.head)
        if self.num_classes is None:
            ends = (self.norm, self.transform, self.transform_norm, self.tokens, self.bias)
        return [
            Section(first, (self.tokens, *places)),
            *map(through, self.blocks),
            Section(last, ends),
        ]
