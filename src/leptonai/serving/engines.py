"""vLLM and SGLang in the place of our own server of language models: their command lines.

They answer on the same routes, and ``GET /health`` when they are ready.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NoReturn, get_args

import msgspec

from leptonai.errors import InvalidRequest

Engine = Literal["auto", "transformers", "vllm", "sglang"]

ENGINES: tuple[Engine, ...] = get_args(Engine)
VARIABLE = "LEPTON_ENGINE"  # that says which
OPTIONS_VARIABLE = "LEPTON_ENGINE_OPTIONS"  # more of its command line, as a list in JSON
HEALTH_PATH = "/health"
DEFAULT_PORT = 8080
# Pickles are not read, and code that lies beside a model is not run, whoever asks for it.
_NEVER = ("--trust-remote-code", "--load-format", "--config")


def engine_argv(
    engine: Literal["vllm", "sglang"],
    directory: str | Path,
    *,
    name: str,
    host: str,
    port: int,
    gpus: int = 1,
    embeds: bool = False,
    options: Sequence[str] = (),
) -> list[str]:
    """The command line that serves a directory in Hugging Face's layout.

    Args:
        name: by which clients ask for the model.
        gpus: that it is cut over.
        embeds: it is to embed texts, not to write them.
        options: more of the engine's own; they win.

    Raises:
        InvalidRequest: an option would have code of the model's run, or pickles read.
    """
    check_options(options)
    if engine == "vllm":
        return [
            "vllm", "serve", str(directory),
            "--served-model-name", name,
            "--host", host,
            "--port", str(port),
            "--tensor-parallel-size", str(gpus),
            "--load-format", "safetensors",
            *(("--runner", "pooling") if embeds else ()),
            *options,
        ]  # fmt: skip
    return [
        sys.executable, "-m", "sglang.launch_server",
        "--model-path", str(directory),
        "--served-model-name", name,
        "--host", host,
        "--port", str(port),
        "--tp-size", str(gpus),
        "--load-format", "safetensors",
        *(("--is-embedding",) if embeds else ()),
        *options,
    ]  # fmt: skip


def check_options(options: Sequence[str]) -> None:
    """
    Raises:
        InvalidRequest: one would have code of the model's run, or pickles read.
    """
    for option in options:
        name = option.partition("=")[0].replace("_", "-").lower()
        # Their parsers take beginnings of names, too.
        if len(name) > 2 and any(never.startswith(name) for never in _NEVER):
            raise InvalidRequest(
                f"{option} is not passed on: code that lies with a model is never run, and weights "
                "are safetensors",
                hint="write a Photon, or an endpoint with a command of your own",
            )


def chosen(engine: str, *, installed: "Sequence[Engine]", gpus: int) -> Engine:
    """Which one serves: what was asked for, or the first that is installed, where there is a GPU.

    Raises:
        InvalidRequest: the one that was asked for is not installed, or is none.
    """
    if engine == "auto":
        return installed[0] if gpus and installed else "transformers"
    named = next((each for each in ENGINES if each == engine), None)
    if named is None:
        raise InvalidRequest(f"{engine!r} is no engine", hint=f"it is one of {', '.join(ENGINES)}")
    if named != "transformers" and named not in installed:
        raise InvalidRequest(
            f"the engine {named} is not installed here",
            hint=f"pip install {named} where the model is served, or name an image that has it",
        )
    return named


def become(engine: str, directory: Path, *, embeds: bool) -> None:
    """Returns where our own server is to serve; else this process is the engine's from now on."""
    gpus = _gpus()
    # By itself only to write: ours embeds all that it can open, and answers /predict as well.
    found = chosen(engine, installed=_installed(), gpus=0 if embeds else gpus)
    if found == "auto" or found == "transformers":
        return
    argv = engine_argv(
        found,
        directory,
        name=os.environ.get("LEPTON_DEPLOYMENT_NAME") or directory.resolve().name,
        host=os.environ.get("LEPTON_BIND") or "127.0.0.1",
        port=int(os.environ.get("PORT") or DEFAULT_PORT),
        gpus=max(1, gpus),
        embeds=embeds,
        options=_options(),
    )
    _execute(argv)


def check_not_asked_for(engine: str, directory: Path) -> None:
    """
    Raises:
        InvalidRequest: it is to serve what it does not.
    """
    if engine not in ("auto", "transformers"):
        raise InvalidRequest(
            f"{directory} holds no model that {engine} serves",
            hint="it takes models in the layout of Hugging Face that write or embed texts",
        )


def _installed() -> list[Engine]:
    """In the order in which they are preferred."""
    found: list[Engine] = []
    if shutil.which("vllm"):
        found.append("vllm")
    if find_spec("sglang") is not None:
        found.append("sglang")
    return found


def _gpus() -> int:
    """That the platform gave this replica."""
    said = os.environ.get("LEPTON_RESOURCE_ACCELERATOR_NUM", "")
    if said.isdecimal():
        return int(said)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return len([each for each in visible.split(",") if each.strip() not in ("", "-1")])


def _options() -> list[str]:
    said = os.environ.get(OPTIONS_VARIABLE, "")
    if not said:
        return []
    try:
        return msgspec.json.decode(said, type=list[str])
    except msgspec.DecodeError:
        raise InvalidRequest(
            f"{OPTIONS_VARIABLE} is no list of texts in JSON: {said}",
            hint='for example ["--max-model-len", "4096"]',
        ) from None


def _execute(argv: Sequence[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(argv[0], [*argv])  # noqa: S606  # no shell is what we want
