"""What transformers are made of: attention, the block around it, positions, what is remembered.

Shape letters in this file: B sequences, T tokens, P tokens before them, D width, H heads, E width
of a head.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch.distributed.tensor.parallel import ParallelStyle

ROTARY_BASE = 10_000.0
NORM_EPSILON = 1e-5


class LayerCache:
    """Keys and values of the tokens that one layer has read, in room that is taken once."""

    def __init__(self, context: int) -> None:
        self._context = context
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self.length = 0

    def extend(self, keys_BHTE: Tensor, values_BHTE: Tensor) -> tuple[Tensor, Tensor]:
        """Those of all tokens up to now, [B, H, P + T, E]."""
        if self._keys is None or self._values is None:
            batch, heads, _, width = keys_BHTE.shape
            room = (batch, heads, self._context, width)
            self._keys, self._values = keys_BHTE.new_empty(room), values_BHTE.new_empty(room)
        end = self.length + keys_BHTE.shape[2]
        self._keys[:, :, self.length : end] = keys_BHTE
        self._values[:, :, self.length : end] = values_BHTE
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class Cache:
    """What a decoder remembers of the tokens that it has read, so that it reads each once.

    ``2 * layers * B * D * context`` numbers.
    """

    def __init__(self, layers: int, context: int) -> None:
        self.layers = tuple(LayerCache(context) for _ in range(layers))

    @property
    def length(self) -> int:
        return self.layers[0].length


class Attention(nn.Module):
    """Self-attention with all heads at once.

    The rows of `qkv` lie head by head, query, key and value of a head together, so that whoever
    cuts them into equal parts (tensor parallelism does) gets whole heads.
    """

    def __init__(self, width: int, heads: int, *, dropout: float, causal: bool) -> None:
        super().__init__()
        self.head_width = width // heads
        self.dropout = dropout
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        hidden_BTD: Tensor,
        rotation: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        batch, tokens, _ = hidden_BTD.shape
        parts = self.qkv(hidden_BTD).view(batch, tokens, -1, 3, self.head_width)
        query_BHTE, key_BHTE, value_BHTE = parts.permute(3, 0, 2, 1, 4)
        if rotation is not None:
            query_BHTE, key_BHTE = rotated(query_BHTE, rotation), rotated(key_BHTE, rotation)
        if cache is not None:
            past = cache.length
            key_BHTE, value_BHTE = cache.extend(key_BHTE, value_BHTE)
            if past and tokens > 1:  # "causal" means the upper left corner, which is then wrong
                mask = _may_read(past, tokens, hidden_BTD.device)
        read_BHTE = functional.scaled_dot_product_attention(
            query_BHTE,
            key_BHTE,
            value_BHTE,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and mask is None and tokens > 1,
        )
        mixed: Tensor = self.out(read_BHTE.transpose(1, 2).reshape(batch, tokens, -1))
        return mixed


class Feed(nn.Module):
    """Each token by itself: wider, and back."""

    def __init__(self, width: int, inside: int, *, approximate: str) -> None:
        super().__init__()
        self.up = nn.Linear(width, inside)
        self.approximate = approximate
        self.down = nn.Linear(inside, width)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        widened = functional.gelu(self.up(hidden_BTD), approximate=self.approximate)
        narrowed: Tensor = self.down(widened)
        return narrowed


class Block(nn.Module):
    """Attention, then feed; each added to what came in, which it sees normalised.

    Source: Xiong et al. 2020, arXiv:2002.04745, "On Layer Normalization in the Transformer
        Architecture".
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        feed_width: int,
        dropout: float,
        causal: bool,
        approximate: str = "tanh",
    ) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = Attention(width, heads, dropout=dropout, causal=causal)
        self.before_feed = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.feed = Feed(width, feed_width, approximate=approximate)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        hidden_BTD: Tensor,
        rotation: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        read = self.attention(self.before_attention(hidden_BTD), rotation, mask, cache)
        hidden_BTD = hidden_BTD + self.drop(read)
        fed: Tensor = self.drop(self.feed(self.before_feed(hidden_BTD)))
        return hidden_BTD + fed


class Unembedding(nn.Module):
    """Scores of all tokens, by the very weights that tokens were embedded with."""

    def forward(self, hidden_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        return functional.linear(hidden_BTD, embedding_VD)


def rotation_at(
    start: int, tokens: int, head_width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles by which the parts of a head turn at each position, [T, E/2].

    Source: Su et al. 2021, arXiv:2104.09864, "RoFormer"; halves turn together, as in GPT-NeoX.
    """
    powers = torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width
    at = torch.arange(start, start + tokens, device=device, dtype=torch.float32)
    angles = at[:, None] / ROTARY_BASE**powers
    return angles.cos(), angles.sin()


def rotated(heads_BHTE: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos_TE, sin_TE = (part.to(heads_BHTE.dtype) for part in rotation)
    first, second = heads_BHTE.chunk(2, -1)
    return torch.cat((first * cos_TE - second * sin_TE, first * sin_TE + second * cos_TE), -1)


def begin(module: nn.Module, layers: int, deviation: float = 0.02) -> None:
    """GPT-2's first weights: N(0, 0.02²), those that end in the sum over layers by 1/√(2 layers)
    smaller; biases 0."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            last = name.endswith(("attention.out", "feed.down"))
            std = deviation / (2 * layers) ** 0.5 if last else deviation
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=deviation)


def tensor_parallel_blocks(name: str, layers: int) -> Mapping[str, "ParallelStyle"]:
    """Of the blocks ``NAME.0``, …: heads and feed are cut, and summed up once each a block."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    return {
        f"{name}.{layer}.{part}": style()
        for layer in range(layers)
        for part, style in (
            ("attention.qkv", ColwiseParallel),
            ("attention.out", RowwiseParallel),
            ("feed.up", ColwiseParallel),
            ("feed.down", RowwiseParallel),
        )
    }


def tensor_parallel_tokens(embedding: str, unembedding: str) -> Mapping[str, "ParallelStyle"]:
    """The vocabulary is cut, where tokens are embedded and where they are scored."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        PrepareModuleInputOutput,
        RowwiseParallel,
    )

    return {
        embedding: RowwiseParallel(input_layouts=Replicate()),
        unembedding: PrepareModuleInputOutput(
            # The embedding's weights are cut by the line above.
            input_layouts=(Replicate(), Shard(0)),
            desired_input_layouts=(Replicate(), Shard(0)),
            output_layouts=Shard(-1),
            desired_output_layouts=Replicate(),
        ),
    }


def _may_read(past: int, tokens: int, device: torch.device) -> Tensor:
    """[T, P + T]"""
    every = torch.ones((tokens, past + tokens), dtype=torch.bool, device=device)
    return every.tril(past)
