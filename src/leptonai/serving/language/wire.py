"""What is asked, as OpenAI's clients send it. Fields that would change nothing here are taken and
not looked at; unknown ones, and those that would, are refused."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

MAX_CHOICES = 16  # texts for one prompt
MAX_TOP = 20  # likeliest tokens that are told
MAX_STOPS = 4

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Stop = str | Annotated[list[str], Meta(max_length=MAX_STOPS)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Request(Struct, forbid_unknown_fields=True, kw_only=True):
    model: str
    frequency_penalty: Penalty | None = None
    ignore_eos: bool = False  # as vLLM has it: write on until max_tokens
    logit_bias: dict[int, Bias] | None = None
    max_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    presence_penalty: Penalty | None = None
    seed: int | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None  # as vLLM has it
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    user: str | None = None

    @property
    def stops(self) -> list[str]:
        said = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [each for each in said if each]

    @property
    def tells_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    prompt: str | list[Any]  # texts, tokens or lists of tokens: `prompts_of` looks closer
    best_of: int | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP)] | None = None
    suffix: str | None = None


class ChatRequest(_Request):
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    chat_template_kwargs: dict[str, Any] | None = None  # as vLLM has it: for the template
    logprobs: bool | None = None
    max_completion_tokens: Count | None = None
    metadata: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    response_format: dict[str, Any] | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    tool_choice: Any = None
    tools: list[Any] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP)] | None = None
    verbosity: str | None = None


class EmbeddingRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    model: str
    input: str | list[Any]
    dimensions: Count | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
