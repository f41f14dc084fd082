"""A model on disk: how it is built, and its weights. Nothing in it can run anything.

As one file, whatever its name ends in: safetensors, with the configuration in its `__metadata__`.
As a directory::

    config.json           how to build it: format, version of the format, arguments
    model.safetensors     its weights
    pipeline.safetensors  what was done to its data, where something was
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leptonai.durable import replacing
from leptonai.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from leptonai.training.models.base import Model

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PIPELINE_FILE = "pipeline.safetensors"
METADATA = "leptonai"  # the entry of a file's metadata that says what config.json says
MAX_CONFIG_BYTES = 16 << 20

_classes: dict[str, "type[Model]"] = {}  # by format: what a class statement has registered


class Saved(NamedTuple):
    """What a file or a directory says of the model in it."""

    format: str
    format_version: int
    config: dict[str, Any]
    weights: dict[str, Tensor]


def register(format: str, model_class: "type[Model]") -> None:
    known = _classes.get(format)
    # The same class statement may run again, in a notebook say.
    if known and (known.__module__, known.__qualname__) != (
        model_class.__module__,
        model_class.__qualname__,
    ):
        raise InvalidRequest(
            f"the format {format!r} is that of {known.__module__}.{known.__qualname__}",
            hint="give your class a format of its own",
        )
    _classes[format] = model_class


def save_model(model: "Model", path: str | Path, pipeline: Any = None) -> None:
    """Write one file, if the path has an ending and is no directory; else a directory.

    Whoever reads it meanwhile, or pulls the plug, finds the old model or the new one; or, between
    the two files of a directory, one that is refused because they are not of one model.

    A model that is spread over ranks is gathered: all of them call this, and rank 0 writes.

    Args:
        pipeline: what was done to the data, with ``save(path)``. In a directory only.
    """
    if _classes.get(model.format) is not _own_class(model):
        name = type(model).__name__
        raise InvalidRequest(
            f"the class {name} has no format of its own, so what is saved would not be found again",
            hint=f'class {name}(Model, format="my-{name.lower()}")',
        )
    root = Path(path)
    written = {
        "format": model.format,
        "format_version": model.format_version,
        "model": model.config(),
    }
    # One entry: of several, safetensors shuffles the order, and equal models shall be equal files.
    metadata = {METADATA: json.dumps(written)}
    weights = {name: _whole(weight).contiguous().cpu() for name, weight in _distinct(model)}
    if _is_spread(model) and torch.distributed.get_rank():
        return
    if root.suffix and not root.is_dir() and not str(path).endswith("/"):
        if pipeline is not None:
            raise InvalidRequest(
                f"{root} would be one file, which has no place for a pipeline",
                hint="save to a directory: a path without an ending",
            )
        root.parent.mkdir(parents=True, exist_ok=True)
        with replacing(root) as file:
            save_file(weights, file, metadata)
        return
    root.mkdir(parents=True, exist_ok=True)
    with replacing(root / WEIGHTS_FILE) as file:
        save_file(weights, file, metadata)
    if pipeline is not None:
        with replacing(root / PIPELINE_FILE) as file:
            pipeline.save(file)
    with replacing(root / CONFIG_FILE) as file:
        file.write_text(json.dumps(written, indent=2) + "\n")


def load_model(path: str | Path) -> "Model":
    """The model that `save_model` wrote, in evaluation mode. No code of the file's is run, and the
    global random numbers stay as they were.

    Raises:
        NotFound, InvalidRequest: there is no such model, or a damaged, a foreign or a newer one.
    """
    root = Path(path)
    try:
        saved = _read_directory(root) if root.is_dir() else _read_file(root)
        model_class = _class_of(saved, root)
        return _built(model_class, saved).eval()
    except FileNotFoundError:
        raise NotFound(
            f"{root} holds no model: it needs {CONFIG_FILE} and {WEIGHTS_FILE}"
            if root.is_dir()
            else f"there is no model at {root}",
            hint="make one with model.save(PATH)",
        ) from None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InvalidRequest(
            f"the model in {root} cannot be loaded: {error}", hint="download it again"
        ) from error
    except InvalidRequest as error:
        if str(root) in error.message:
            raise
        raise InvalidRequest(
            f"the model in {root} cannot be loaded: {error.message}", hint="download it again"
        ) from error


def _read_directory(root: Path) -> Saved:
    if (root / CONFIG_FILE).stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{CONFIG_FILE} has more than {MAX_CONFIG_BYTES} bytes")
    written = json.loads((root / CONFIG_FILE).read_text())
    if not _describes(written):
        raise InvalidRequest(
            f"{root / CONFIG_FILE} is not the configuration of a model of Lepton",
            hint="Hugging Face models are opened with HFModel(DIRECTORY, task=…)",
        )
    metadata, weights = _weights(root / WEIGHTS_FILE)
    # Absent in models of before there was one.
    if METADATA in metadata and json.loads(metadata[METADATA])["model"] != written["model"]:
        raise ValueError(
            f"{CONFIG_FILE} is not that of the {WEIGHTS_FILE} beside it: saving was interrupted, "
            "or one of them was changed"
        )
    return _saved(written, weights)


def _read_file(root: Path) -> Saved:
    with root.open("rb") as opened:
        head = opened.read(2)
    if head in (b"PK", b"\x80\x02"):  # as torch.save writes them
        raise InvalidRequest(
            f"{root} is a pickle, which could run anything when it is loaded",
            hint="save the model with model.save(PATH)",
        )
    metadata, weights = _weights(root)
    if METADATA not in metadata:
        raise InvalidRequest(
            f"{root} holds weights, but not how to build a model for them",
            hint="build the model, and then model.load_state_dict(safetensors.torch.load_file(…))",
        )
    written = json.loads(metadata[METADATA])
    if not _describes(written):
        raise ValueError("its metadata do not describe a model")
    return _saved(written, weights)


def _describes(written: Any) -> bool:
    return isinstance(written, dict) and {"format", "format_version", "model"} <= {*written}


def _saved(written: dict[str, Any], weights: dict[str, Tensor]) -> Saved:
    return Saved(
        str(written["format"]), int(written["format_version"]), dict(written["model"]), weights
    )


def _weights(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What the file says of itself, and its tensors: copies, for a mapped file that somebody
    overwrites would end the process."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return file.metadata() or {}, tensors


def _class_of(saved: Saved, root: Path) -> "type[Model]":
    if saved.format not in _classes:
        from leptonai.training import models

        for module in {*models.HOME_OF.values()}:
            import_module(module)
    if saved.format not in _classes:
        raise InvalidRequest(
            f"{root} holds a model of format {saved.format} {saved.format_version}, which nobody "
            f"has registered; known are {', '.join(sorted(_classes))}",
            hint="import the module of its class first, or load it with a newer Lepton",
        )
    model_class = _classes[saved.format]
    if saved.format_version != model_class.format_version:
        raise InvalidRequest(
            f"{root} holds a model of format {saved.format} {saved.format_version}; "
            f"this reads {saved.format} {model_class.format_version}",
            hint="load it with the version of Lepton that saved it",
        )
    return model_class


def _built(model_class: "type[Model]", saved: Saved) -> "Model":
    """Without making weights first that are then thrown away."""
    with torch.random.fork_rng(devices=[]), torch.device(model_class.built_on), _Undrawn():
        model = model_class(**saved.config)
    weights: Mapping[str, Tensor] = saved.weights
    for names in _shared(model):
        if names[0] in weights:  # one parameter under several names stays one
            one = nn.Parameter(weights[names[0]])
            weights = {**weights, **dict.fromkeys(names, one)}
    model.load_state_dict(weights, assign=True)
    return model


_DRAWING = (torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.normal_, nn.init.uniform_)


class _Undrawn(TorchFunctionMode):
    """First weights are not drawn: on "meta", that alone would import seconds of torch."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function in _DRAWING:
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def _distinct(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What the model keeps, each tensor under the first of its names."""
    again = {name for names in _shared(model) for name in names[1:]}
    return ((name, weight) for name, weight in model.state_dict().items() if name not in again)


def _own_class(model: nn.Module) -> type[nn.Module]:
    """As it was before FSDP put a class of its own over it."""
    bases = type(model).__mro__
    if not _is_spread(model):
        return bases[0]
    from torch.distributed.fsdp import FSDPModule  # seconds to import

    return bases[bases.index(FSDPModule) + 1] if FSDPModule in bases else bases[0]


def _is_spread(model: nn.Module) -> bool:
    return any(hasattr(weight, "full_tensor") for weight in model.parameters())


def _whole(weight: Tensor) -> Tensor:
    detached = weight.detach()
    gathered: Tensor = detached.full_tensor() if hasattr(detached, "full_tensor") else detached
    return gathered


def _shared(model: nn.Module) -> Iterable[list[str]]:
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return [each for each in names.values() if len(each) > 1]
