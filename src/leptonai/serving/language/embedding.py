"""Embeddings of texts, as the directory of a model says: what sentence-transformers computes.

Shape letters: B texts, T tokens, D numbers of an embedding.
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from leptonai.errors import InvalidRequest
from leptonai.serving.kinds.pretrained import (
    MODULES_FILE,
    check_length,
    load,
    load_tokenizer,
    longest_input,
)
from leptonai.serving.kinds.recognising import check_safetensors, read_json

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MAX_TOKENS_OF_A_PASS = 8_192

Pool = Callable[["Tensor", "Tensor"], "Tensor"]  # numbers_BTD and mask_BT to [B, D]
Step = Callable[["Tensor"], "Tensor"]  # [B, D] to [B, D]


class Embedder:
    """
    Args:
        steps: what is done to an embedding after its tokens became one.
        prefix: put before every text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        longest: int,
        pool: Pool,
        steps: Sequence[Step] = (),
        prefix: str = "",
        lower_case: bool = False,
    ) -> None:
        self.longest = longest
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self.normalises = _normalised in steps
        self._model = model
        self._tokenizer = tokenizer
        self._pool = pool
        self._steps = steps
        self._prefix = prefix
        self._lower_case = lower_case

    @cached_property
    def size(self) -> int:
        """D"""
        return int(self.of_tokens([self.tokens_of("a")]).shape[1])

    def tokens_of(self, text: str) -> list[int]:
        """With those that the model wants around a text. They may be more than it can read."""
        check_length(text, self.longest)
        text = self._prefix + text
        tokens: list[int] = self._tokenizer(
            text.lower() if self._lower_case else text, truncation=False
        )["input_ids"]
        return tokens

    def of_texts(self, texts: Sequence[str]) -> "NDArray[Any]":
        """[B, D]

        Raises:
            InvalidRequest: one is longer than the model can read.
        """
        tokens = [self.tokens_of(text) for text in texts]
        for at, each in enumerate(tokens):
            if len(each) > self.longest:
                raise InvalidRequest(
                    f"inputs: text {at} has {len(each)} tokens, and the model reads "
                    f"{self.longest} at most",
                    hint="cut it into several",
                )
        return self.of_tokens(tokens)

    def of_tokens(self, texts: Sequence[Sequence[int]]) -> "NDArray[Any]":
        """[B, D]. Texts of like lengths are read together."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        made: list[Tensor] = []
        group: list[Sequence[int]] = []
        for at in order:
            if group and (len(group) + 1) * len(texts[at]) > MAX_TOKENS_OF_A_PASS:
                made.append(self._read(group))
                group = []
            group.append(texts[at])
        made.append(self._read(group))
        found: NDArray[Any] = torch.cat(made).numpy(force=True)
        back = [0] * len(order)
        for place, at in enumerate(order):
            back[at] = place
        return found[back]

    def _read(self, texts: Sequence[Sequence[int]]) -> "Tensor":
        columns = max(map(len, texts))
        padding = self._tokenizer.pad_token_id or 0
        device = self._model.device
        tokens_BT = torch.tensor(
            [[*text, *[padding] * (columns - len(text))] for text in texts], device=device
        )
        mask_BT = torch.tensor(
            [[1] * len(text) + [0] * (columns - len(text)) for text in texts], device=device
        )
        with torch.inference_mode():
            numbers_BTD = self._model(input_ids=tokens_BT, attention_mask=mask_BT)[0].float()
            found_BD = self._pool(numbers_BTD, mask_BT)
            for step in self._steps:
                found_BD = step(found_BD)
        return found_BD


def open_embedder(directory: Path) -> Embedder:
    """
    Raises:
        InvalidRequest: it cannot be loaded, or asks for a step that is not known.
    """
    pool: Pool | None = None
    steps: list[Step] = []
    settings: dict[str, Any] = {}
    inside = directory
    for kind, folder in _modules(directory):
        if kind == "Transformer":
            inside = folder
            settings = _optional(folder / "sentence_bert_config.json")
        elif kind == "Pooling":
            pool = _pooling(_optional(folder / "config.json"), folder)
        elif kind == "Dense":
            steps.append(_dense(folder))
        elif kind == "Normalize":
            steps.append(_normalised)
        elif kind != "Dropout":
            raise InvalidRequest(
                f"{directory / MODULES_FILE} asks for a {kind}, which is not known here",
                hint="known are Transformer, Pooling, Dense and Normalize; else write a Photon",
            )
    told = _optional(directory / "config_sentence_transformers.json")
    prompts = told.get("prompts") or {}
    model, tokenizer = load(inside, "embedding"), load_tokenizer(inside)
    said = settings.get("max_seq_length")
    longest = longest_input(model, tokenizer)
    return Embedder(
        model,
        tokenizer,
        longest=min(longest, said) if isinstance(said, int) else longest,
        pool=pool or _mean,
        steps=steps,
        prefix=str(prompts.get(told.get("default_prompt_name"), "") or ""),
        lower_case=bool(settings.get("do_lower_case")),
    )


def _modules(directory: Path) -> list[tuple[str, Path]]:
    """Kind and folder of each step; none where the directory is a model alone."""
    file = directory / MODULES_FILE
    if not file.is_file():
        return []
    found = []
    for each in _json(file):
        kind = str(each.get("type", "")).rpartition(".")[2] if isinstance(each, dict) else ""
        path = PurePosixPath(str(each.get("path", "")) if kind else "..")
        if not kind or path.is_absolute() or ".." in path.parts:
            raise InvalidRequest(f"{file} names a step that is none: {each}", hint="save it again")
        found.append((kind, directory / path))
    return found


def _json(file: Path) -> list[Any]:
    try:
        found = json.loads(file.read_bytes())
        if not isinstance(found, list):
            raise ValueError("it is no list")
    except (OSError, ValueError, RecursionError) as wrong:
        raise InvalidRequest(f"{file} cannot be read: {wrong}", hint="save it again") from None
    return found


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _pooling(config: dict[str, Any], folder: Path) -> Pool:
    wanted = [name for name in _POOLS if config.get(name) or config.get("pooling_mode") == name]
    unknown = [
        name
        for name, value in config.items()
        if name.startswith("pooling_mode_") and value is True and name not in _OLD_NAMES
    ]
    wanted += [new for old, new in _OLD_NAMES.items() if config.get(old)]
    if unknown or not wanted:
        raise InvalidRequest(
            f"{folder / 'config.json'} asks for {', '.join(unknown) or 'no pooling'}",
            hint=f"known are {', '.join(_POOLS)}",
        )
    pools = [_POOLS[name] for name in dict.fromkeys(wanted)]
    if len(pools) == 1:
        return pools[0]
    return lambda numbers, mask: torch.cat([pool(numbers, mask) for pool in pools], dim=1)


def _mean(numbers_BTD: "Tensor", mask_BT: "Tensor") -> "Tensor":
    return (numbers_BTD * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)


def _mean_by_root(numbers_BTD: "Tensor", mask_BT: "Tensor") -> "Tensor":
    return (numbers_BTD * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True).sqrt()


def _weighted_mean(numbers_BTD: "Tensor", mask_BT: "Tensor") -> "Tensor":
    """Later tokens count for more, as those of a decoder know more of the text."""
    weights_BT = mask_BT * torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    return (numbers_BTD * weights_BT[..., None]).sum(1) / weights_BT.sum(1, keepdim=True)


def _most(numbers_BTD: "Tensor", mask_BT: "Tensor") -> "Tensor":
    return numbers_BTD.masked_fill(mask_BT[..., None] == 0, -torch.inf).amax(1)


def _first(numbers_BTD: "Tensor", mask_BT: "Tensor") -> "Tensor":
    return numbers_BTD[:, 0]


def _last(numbers_BTD: "Tensor", mask_BT: "Tensor") -> "Tensor":
    rows = torch.arange(len(mask_BT), device=mask_BT.device)
    return numbers_BTD[rows, mask_BT.sum(1) - 1]


_POOLS: dict[str, Pool] = {
    "cls": _first,
    "mean": _mean,
    "max": _most,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
_OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _normalised(found_BD: "Tensor") -> "Tensor":
    return torch.nn.functional.normalize(found_BD, dim=1)


def _dense(folder: Path) -> Step:
    from safetensors.torch import load_file

    config = read_json(folder / "config.json")
    check_safetensors(folder / "model.safetensors")
    weights = load_file(folder / "model.safetensors")
    named = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    activation = {"Identity": torch.nn.Identity(), "Tanh": torch.nn.Tanh()}.get(named)
    if activation is None or "linear.weight" not in weights:
        raise InvalidRequest(
            f"{folder} is a Dense of {named}", hint="known are those of Identity and Tanh"
        )
    weight, bias = weights["linear.weight"].float(), weights.get("linear.bias")

    def step(found_BD: "Tensor") -> "Tensor":
        device = found_BD.device
        at = None if bias is None else bias.float().to(device)
        made: Tensor = activation(torch.nn.functional.linear(found_BD, weight.to(device), at))
        return made

    return step
