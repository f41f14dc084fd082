"""A causal model with its tokenizer: from what is asked to texts that are to be written."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leptonai.errors import InvalidRequest, first_line
from leptonai.serving.kinds.pretrained import (
    check_length,
    load,
    load_tokenizer,
    longest_input,
)

# Layers whose memory is keys and values by token, which is what is kept of a text.
_KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


class Writer:
    """Shared by the thread that computes, which decodes, and the one that reads requests."""

    def __init__(self, directory: Path) -> None:
        self.model = load(directory, "generation")
        _check_can_be_batched(self.model, directory)
        self._tokenizer = load_tokenizer(directory)
        self._decoder = copy.deepcopy(self._tokenizer)  # one is not for two threads at once
        self.context = longest_input(self.model, self._tokenizer)
        self.vocabulary = int(self.model.config.get_text_config().vocab_size)
        self.ends = _ends(self.model, self._tokenizer)
        self.defaults = _defaults(self.model.generation_config)

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._decoder.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def token_text(self, token: int) -> str:
        """Of one alone, whichever it is."""
        text: str = self._decoder.decode([token], clean_up_tokenization_spaces=False)
        return text

    def tokens_of(self, text: str) -> list[int]:
        """With those that the model wants before a text."""
        check_length(text, self.context)
        tokens: list[int] = self._tokenizer(text, truncation=False)["input_ids"]
        first = self._tokenizer.bos_token_id
        return tokens or ([] if first is None else [first])

    def tokens_of_chat(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> list[int]:
        """By the template that lies with the tokenizer, which runs in Jinja's sandbox.

        Raises:
            InvalidRequest: there is none, or it refuses the messages.
        """
        if not self._tokenizer.chat_template:
            raise InvalidRequest(
                "this model has no chat template, so it does not chat: ask it at /v1/completions"
            )
        try:
            text = self._tokenizer.apply_chat_template(
                [*messages], tokenize=False, **{"add_generation_prompt": True, **options}
            )
        except Exception as wrong:  # whatever a template raises
            raise InvalidRequest(
                f"messages: the model's chat template refuses them: {first_line(wrong)}"
            ) from None
        check_length(text, self.context)
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False, truncation=False)[
            "input_ids"
        ]
        return tokens


def _check_can_be_batched(model: Any, directory: Path) -> None:
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    if model.config.is_encoder_decoder or getattr(model, "_is_stateful", False):
        layers.add(config.model_type)
    if layers - _KNOWN_LAYERS:
        raise InvalidRequest(
            f"the model in {directory} remembers otherwise than by attention "
            f"({', '.join(sorted(layers - _KNOWN_LAYERS))})",
            hint="serve it with --engine vllm or sglang",
        )


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    said = model.generation_config.eos_token_id
    found = {*said} if isinstance(said, list) else {said}
    if found <= {None}:
        found = {tokenizer.eos_token_id}
    return frozenset(token for token in found if token is not None)


def _defaults(config: Any) -> dict[str, Any]:
    """How its makers would have tokens drawn, as generation_config.json says."""
    names = ("temperature", "top_p", "top_k")
    found = {name: getattr(config, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}
