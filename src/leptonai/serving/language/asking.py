"""From a request to the texts that it asks for. What is wrong is told before any is begun."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from leptonai.serving.language.drawing import Sampling
from leptonai.serving.language.generating import Wish
from leptonai.serving.language.refusals import Refused
from leptonai.serving.language.wire import ChatRequest, CompletionRequest
from leptonai.serving.language.writer import Writer

MAX_TEXTS = 128  # that one request may ask for
MAX_INPUTS = 2_048  # embeddings that one request may ask for
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's


def wishes_of_completion(request: CompletionRequest, writer: Writer) -> list[Wish]:
    """In the order of the choices.

    Raises:
        Refused: names the field.
    """
    _refuse(request, {"echo": False, "suffix": ""})
    count = request.n or 1
    if request.best_of not in (None, count):
        raise Refused("best_of is not supported, but as n says", param="best_of")
    prompts = inputs_of(request.prompt, writer.tokens_of, "prompt", writer.vocabulary)
    if len(prompts) * count > MAX_TEXTS:
        raise Refused(f"one request asks for {MAX_TEXTS} texts at most", param="prompt")
    default = DEFAULT_COMPLETION_TOKENS
    return [
        wish
        for prompt in prompts
        for wish in _wishes(request, writer, prompt, "prompt", request.logprobs, default)
    ]


def wishes_of_chat(request: ChatRequest, writer: Writer) -> list[Wish]:
    """In the order of the choices.

    Raises:
        Refused: names the field.
    """
    _refuse(request, {"tools": [], "tool_choice": "none"})
    if (request.response_format or {}).get("type", "text") != "text":
        raise Refused("only response_format.type text is supported", param="response_format")
    if request.top_logprobs is not None and not request.logprobs:
        raise Refused("top_logprobs goes with logprobs: true", param="top_logprobs")
    if request.max_completion_tokens is not None:
        request.max_tokens = request.max_completion_tokens
    messages = [_message(each, at) for at, each in enumerate(request.messages)]
    options = request.chat_template_kwargs or {}
    for name in options.keys() & _OURS:
        raise Refused(f"chat_template_kwargs cannot set {name}", param="chat_template_kwargs")
    prompt = writer.tokens_of_chat(messages, options)
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return _wishes(request, writer, prompt, "messages", logprobs, writer.context)


# What a template's caller decides, and the client does not.
_OURS = {"chat_template", "tokenize", "conversation", "return_dict", "return_tensors", "padding",
         "truncation", "max_length", "tokenizer_kwargs", "tools", "documents"}  # fmt: skip


def inputs_of(given: Any, tokens_of: Any, param: str, vocabulary: int) -> list[list[int]]:
    """Of a text, several, the tokens of one, or those of several.

    Raises:
        Refused: it is something else, or empty.
    """
    several = [given] if isinstance(given, str) or _are_tokens(given) else given
    if not several:
        raise Refused(f"{param} is empty", param=param)
    if len(several) > MAX_INPUTS:
        raise Refused(f"{param} has {len(several)}, and {MAX_INPUTS} at most", param=param)
    found = []
    for at, each in enumerate(several):
        if isinstance(each, str):
            tokens = tokens_of(each)
        elif isinstance(each, list) and _are_tokens(each):
            tokens = each
        else:
            raise Refused(f"{param}[{at}] is neither a text nor a list of tokens", param=param)
        if not tokens:
            raise Refused(f"{param}[{at}] is empty", param=param)
        wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise Refused(f"{param}[{at}] has the token {wrong}, which is none", param=param)
        found.append(tokens)
    return found


def _are_tokens(given: Any) -> bool:
    return bool(given) and all(type(each) is int for each in given)


def _wishes(
    request: CompletionRequest | ChatRequest,
    writer: Writer,
    prompt: Sequence[int],
    param: str,
    logprobs: int | None,
    default: int,
) -> list[Wish]:
    if request.stream_options is not None and not request.stream:
        raise Refused("stream_options goes with stream: true", param="stream_options")
    left = writer.context - len(prompt)
    asked = request.max_tokens
    if left < 1 or (asked is not None and asked > left):
        raise Refused(
            f"This model's maximum context length is {writer.context} tokens. However, you "
            f"requested {len(prompt) + (asked or 1)} tokens ({len(prompt)} in the {param}, "
            f"{asked or 1} in the completion).",
            param=param,
            code="context_length_exceeded",
        )
    sampling = _sampling(request, writer, logprobs)
    # What anybody may foretell is no chance; but who gives a seed gets the same again.
    seed = secrets.randbits(63) if request.seed is None else request.seed
    return [
        Wish(
            prompt=prompt,
            max_tokens=min(asked or default, left),
            sampling=sampling,
            seed=seed + at,
            stops=request.stops,
            ends=frozenset() if request.ignore_eos else writer.ends,
        )
        for at in range(request.n or 1)
    ]


def _sampling(
    request: CompletionRequest | ChatRequest, writer: Writer, logprobs: int | None
) -> Sampling:
    asked = {
        name: value
        for name in ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty")
        if (value := getattr(request, name)) is not None
    }
    sampling = Sampling(**{**writer.defaults, **asked}, logprobs=logprobs)
    if sampling.top_k < 0:  # as vLLM says: all
        sampling = replace(sampling, top_k=0)
    if request.logit_bias:
        for token in request.logit_bias:
            if not 0 <= token < writer.vocabulary:
                raise Refused(
                    f"logit_bias names the token {token}, which is none", param="logit_bias"
                )
        sampling = replace(sampling, logit_bias=request.logit_bias)
    return sampling


def _message(message: dict[str, Any], at: int) -> dict[str, Any]:
    """Parts of a text are joined: templates take texts."""
    if not isinstance(message.get("role"), str):
        raise Refused(f"messages[{at}].role is missing, or no text", param="messages")
    content = message.get("content")
    if isinstance(content, list):
        parts = []
        for part in content:
            text = part.get("text") if isinstance(part, dict) else None
            if not isinstance(text, str) or part.get("type") != "text":
                raise Refused(
                    f"messages[{at}].content has a part that is no text; this model reads texts",
                    param="messages",
                )
            parts.append(text)
        content = "\n".join(parts)
    if not isinstance(content, str):
        raise Refused(f"messages[{at}].content is missing, or no text", param="messages")
    return {**message, "content": content}


def _refuse(request: CompletionRequest | ChatRequest, harmless: dict[str, Any]) -> None:
    """Fields that nothing here can do."""
    for name, value in harmless.items():
        said = getattr(request, name)
        if said is not None and said != value:
            raise Refused(f"{name} is not supported by this server", param=name)
