"""Many texts go on together, one token each at a step; they come and go between steps.

Shape letters: B texts, T columns, V tokens of the vocabulary.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from leptonai.serving.language.cache import Part, combined, new_cache
from leptonai.serving.language.drawing import Drawing, Drawn, draw

if TYPE_CHECKING:
    from torch import Tensor

MAX_PREFILL_TOKENS = 4_096  # that are read in one pass, unless one text alone has more
MAX_CACHE_BYTES = 4 << 30  # of keys and values, where the device does not say what it has
CACHE_SHARE = 0.5  # of the memory that is free on a GPU when the model lies there


class Row:
    """One text that is being written."""

    __slots__ = ("drawing", "tokens")

    def __init__(self, prompt: Sequence[int], drawing: Drawing) -> None:
        assert prompt
        self.tokens = [*prompt]  # the prompt, and what was written: the last is still to be read
        self.drawing = drawing


class Decoder:
    """A causal model, and the rows that it writes. One thread at a time."""

    def __init__(self, model: Any, *, max_cache_bytes: int | None = None) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._cache: Any = None
        named = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in named
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in named else {}
        self._cache_name = "cache" if "cache" in named else "past_key_values"
        budget = max_cache_bytes or _free_bytes(model)
        self._max_cells = max(1, budget // _bytes_of_a_token(model))

    def fits(self, rows: Sequence[Row]) -> bool:
        """Whether there is memory for another token of each of them. One alone always fits."""
        columns = max((len(row.tokens) for row in rows), default=0) + 1
        return len(rows) <= 1 or len(rows) * columns <= self._max_cells

    def leave(self, gone: "set[Row]") -> None:
        """Go on without these."""
        if gone:
            self._combine([at for at, row in enumerate(self.rows) if row not in gone], [])

    def join(self, rows: Sequence[Row]) -> list[tuple[Row, Drawn]]:
        """Read what these hold, and write the next token of each."""
        written: list[tuple[Row, Drawn]] = []
        for group in _groups(rows):
            cache, drawn = self._read(group)
            self._combine(range(len(self.rows)), [(cache, group)])
            written += zip(group, drawn, strict=True)
        return written

    def step(self) -> list[tuple[Row, Drawn]]:
        """The next token of each row."""
        columns = max(len(row.tokens) for row in self.rows)
        tokens_B1 = self._tensor([row.tokens[-1:] for row in self.rows])
        drawn = self._forward(self.rows, tokens_B1, self._cache, columns)
        return [*zip(self.rows, drawn, strict=True)]

    def reset(self) -> None:
        """Forget all rows: after a failure nobody knows what the cache holds."""
        self.rows = []
        self._cache = None

    def _read(self, rows: Sequence[Row]) -> tuple[Any, list[Drawn]]:
        columns = max(len(row.tokens) for row in rows)
        tokens_BT = self._tensor([[0] * (columns - len(row.tokens)) + row.tokens for row in rows])
        cache = new_cache()
        return cache, self._forward(rows, tokens_BT, cache, columns)

    def _forward(
        self, rows: Sequence[Row], tokens_BT: "Tensor", cache: Any, columns: int
    ) -> list[Drawn]:
        """
        Args:
            columns: that the cache has when this was read.
        """
        named: dict[str, Any] = {**self._last_only, self._cache_name: cache}
        before = [columns - len(row.tokens) for row in rows]  # columns that are not of the row
        if any(before):
            places_T = torch.arange(columns, device=tokens_BT.device)
            starts_B = self._tensor(before)
            named["attention_mask"] = (places_T >= starts_B[:, None]).long()
        if self._takes_positions:
            places_T = torch.arange(columns - tokens_BT.shape[1], columns, device=tokens_BT.device)
            named["position_ids"] = (places_T - self._tensor(before)[:, None]).clamp_min_(0)
        with torch.inference_mode():
            answer = self._model(input_ids=tokens_BT, use_cache=True, **named)
            drawn = draw(answer.logits[:, -1], [row.drawing for row in rows])
        for row, each in zip(rows, drawn, strict=True):
            row.tokens.append(each.token)
        return drawn

    def _combine(self, kept: Sequence[int], joining: "Sequence[tuple[Any, Sequence[Row]]]") -> None:
        rows = [self.rows[at] for at in kept]
        parts = [Part(self._cache, kept)] if kept else []
        for cache, new in joining:
            parts.append(Part(cache, range(len(new))))
            rows += new
        self.rows = rows
        if not parts:
            self._cache = None
        elif len(parts) == 1 and joining:
            self._cache = joining[0][0]
        else:
            # The token that was written last has not been read yet.
            self._cache = combined(parts, max(len(row.tokens) for row in rows) - 1)

    def _tensor(self, numbers: Any) -> "Tensor":
        return torch.tensor(numbers, device=self._model.device)


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Those of like lengths are read together: what is left of a shorter one costs as much."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.tokens)):
        if groups and (len(groups[-1]) + 1) * len(row.tokens) <= MAX_PREFILL_TOKENS:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _bytes_of_a_token(model: Any) -> int:
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)


def _free_bytes(model: Any) -> int:
    if model.device.type != "cuda":
        return MAX_CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(free * CACHE_SHARE)
