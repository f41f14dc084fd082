"""The flags that say what serves a registered model of language."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.spec.containers import EnvVar

F = TypeVar("F", bound=Callable[..., Any])


class Engine(NamedTuple):
    """What was asked for, as an endpoint is told it."""

    variables: list[EnvVar]
    health_path: str | None  # that answers when it is ready


def engine_options(function: F) -> F:
    function = click.option(
        "--engine-option",
        "engine_options",
        multiple=True,
        metavar="OPTION",
        help="One word more for the engine's command line: --engine-option=--max-model-len=4096.",
    )(function)
    return click.option(
        "--engine",
        type=click.Choice(("auto", "transformers", "vllm", "sglang")),
        help="What serves a model of language. auto, if not given: vLLM or SGLang where one of "
        "them is installed and the replica has a GPU, else transformers.",
    )(function)


def asked_engine(engine: str | None, options: Sequence[str], model: str | None) -> Engine:
    """
    Raises:
        InvalidRequest: there is no model that it is for, or the engine has no such options.
    """
    from leptonai.serving import engines
    from leptonai.spec.containers import EnvVar

    if engine is None and not options:
        return Engine([], None)
    if model is None:
        raise InvalidRequest("--engine is for registered models", hint="add --model NAME")
    if engine not in ("vllm", "sglang"):
        if options:
            raise InvalidRequest(
                "--engine-option is for vLLM and SGLang", hint="add --engine vllm or sglang"
            )
        return Engine([EnvVar(name=engines.VARIABLE, value=engine)], None)
    engines.check_options(options)
    variables = [EnvVar(name=engines.VARIABLE, value=engine)]
    if options:
        variables.append(EnvVar(name=engines.OPTIONS_VARIABLE, value=json.dumps([*options])))
    return Engine(variables, engines.HEALTH_PATH)
