"""A call as a directory: what to do, the model, the arrays. Nothing in it is pickled.

::

    task.json       what to do, and how the arrays belong together
    model.keras     Keras's own archive: configuration, weights, optimizer
    arrays/0.npy …
    sources/        the modules that define the model's own classes, where they are not installed
"""

import json
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from leptonai.errors import InvalidRequest, first_line
from leptonai.training.keras.dealing import Nest

MODEL, TASK, ARRAYS, CODE = "model.keras", "task.json", "arrays", "sources"
MAX_CODE_BYTES = 16 << 20
REDUCTIONS = ("sum_over_batch_size", "mean", "auto", "none", None)  # add up over workers, or unused
_REGISTER = "@keras.saving.register_keras_serializable()"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What the job's program is to do. Nests of arrays are JSON: see `pack`."""

    action: Literal["fit", "evaluate", "predict"]
    keras: str  # the version that wrote the model
    floatx: str
    image_data_format: str
    modules: list[str]  # to import before the model is read: they register its own classes
    data: Any  # (x,), (x, y) or (x, y, sample_weight)
    size: int  # samples in it
    batch_size: int
    steps: int
    seed: int
    verbose: int
    name: str  # of the model in the registry
    # of fit alone
    validation: Any = None
    validation_size: int = 0
    validation_batch_size: int = 0
    validation_steps: int = 0
    validation_freq: Any = 1
    epochs: int = 1
    initial_epoch: int = 0
    shuffle: bool = True
    class_weight: dict[int, float] | None = None
    callbacks: list[dict[str, Any]] = msgspec.field(default_factory=list)


# --- arrays --------------------------------------------------------------------------------------


def pack(nest: Nest, folder: Path) -> Any:
    """Write its arrays; returns as JSON how they belong together."""
    if nest is None:
        return None
    if isinstance(nest, Mapping):
        return {"dict": {name: pack(each, folder) for name, each in nest.items()}}
    if isinstance(nest, list | tuple):
        return {type(nest).__name__: [pack(each, folder) for each in nest]}
    folder.mkdir(parents=True, exist_ok=True)
    number = len([*folder.iterdir()])
    with (folder / f"{number}.npy").open("xb") as file:
        np.save(file, nest, allow_pickle=False)
    return {"array": number}


def unpack(packed: Any, folder: Path) -> Nest:
    """Its arrays are mapped, and read when they are looked at."""
    if packed is None:
        return None
    ((kind, held),) = packed.items()
    if kind == "dict":
        return {name: unpack(each, folder) for name, each in held.items()}
    if kind in ("list", "tuple"):
        nests = [unpack(each, folder) for each in held]
        return tuple(nests) if kind == "tuple" else nests
    return np.load(folder / f"{int(held)}.npy", mmap_mode="r", allow_pickle=False)


def as_arrays(value: Any, where: str) -> Nest:
    """What Keras takes as arrays, as numpy's.

    Raises:
        InvalidRequest: it is something that runs, not something that lies there.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {str(name): as_arrays(each, f"{where}[{name!r}]") for name, each in value.items()}
    if isinstance(value, list | tuple):
        nests = [as_arrays(each, f"{where}[{at}]") for at, each in enumerate(value)]
        return tuple(nests) if isinstance(value, tuple) else nests
    if hasattr(value, "detach"):  # of torch
        value = value.detach().cpu()
    if not hasattr(value, "__array__"):
        raise InvalidRequest(
            f"{where} is a {_kind(value)}: only arrays can be shipped to a job",
            hint="pass numpy arrays or tensors; or put the call into a script that makes its own "
            "data, and run that: leptonai train SCRIPT",
        )
    array = np.asarray(value)
    if array.dtype.hasobject or not array.ndim:
        found = "holds Python objects" if array.dtype.hasobject else "is a single number"
        raise InvalidRequest(
            f"{where} {found}: only arrays of numbers or strings, a sample a row, can be shipped",
            hint=f"convert it first, for example {where.split('[')[0]}.astype('float32')",
        )
    if array.dtype.kind == "V":  # bfloat16 and its like, which a .npy does not know
        array = array.astype(np.float32)
    return array


def leaves(nest: Nest) -> Iterator[Any]:
    if isinstance(nest, Mapping):
        nest = list(nest.values())
    if isinstance(nest, list | tuple):
        for each in nest:
            yield from leaves(each)
    elif nest is not None:
        yield nest


def size_of(nest: Nest, what: str) -> int:
    """How many samples there are.

    Raises:
        InvalidRequest: none; or not as many in each array.
    """
    sizes = sorted({len(each) for each in leaves(nest)})
    if len(sizes) != 1 or not sizes[0]:
        told = " and ".join(map(str, sizes)) or "no"
        raise InvalidRequest(
            f"{what} has {told} samples", hint="every array must have as many, and at least one"
        )
    return sizes[0]


# --- the model -----------------------------------------------------------------------------------


def ship_model(
    model: Any, folder: Path, *, sample: Nest, training: bool, workers: int
) -> list[str]:
    """Write the model, and the code it needs; returns the modules to import before it is read.

    Args:
        sample: for a model that has not seen any yet: it gets its weights by it.

    Raises:
        InvalidRequest: some part of it cannot be written down, or not be read elsewhere; or
            several workers cannot train it as one.
    """
    if not model.built:
        model(sample)
    if training and not model.optimizer.built:  # or its learning rate would stay here
        model.optimizer.build(model.trainable_variables)
    try:
        model.save(folder / MODEL)
    except Exception as error:  # what a layer's get_config raises can be anything
        raise InvalidRequest(
            f"the model {model.name!r} cannot be shipped: {first_line(error)}",
            hint="each class of its own needs a get_config() that gives its arguments back",
        ) from error
    with zipfile.ZipFile(folder / MODEL) as archive:
        config = json.loads(archive.read("config.json"))
    modules = modules_of(config)
    if workers > 1:
        _check_reductions(config)
    for module in modules:
        _ship_code(module, folder / CODE)
    return modules


def modules_of(config: Any) -> list[str]:
    """The modules that register the classes and functions of this configuration which are not
    Keras's own.

    Raises:
        InvalidRequest: one of them can only be found here; all such are named.
    """
    from keras.saving import get_registered_object

    modules: set[str] = set()
    wrong: dict[str, None] = {}
    for holder, each in _objects(config, "the model"):
        kind = each["class_name"]
        if kind == "__lambda__":
            wrong[f"a lambda in {holder}"] = None
            continue
        name = each["config"] if kind == "function" else each.get("registered_name")
        if not isinstance(name, str) or str(each.get("module")).partition(".")[0] == "keras":
            continue
        found = get_registered_object(name)
        if found is None and kind == "function" and _is_builtin(each):
            continue
        if found is None:
            wrong[f"{name} (not registered)"] = None
        elif found.__module__ == "__main__":
            wrong[f"{name} (defined in the script itself)"] = None
        elif not found.__module__.startswith("keras."):
            modules.add(found.__module__)
    if wrong:
        raise InvalidRequest(
            f"the model cannot be shipped, because of {', '.join(wrong)}",
            hint=f"define them in a module of their own, and put {_REGISTER} before each",
        )
    return sorted(modules)


def _objects(config: Any, holder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every serialised object in it, with the name of the layer it is in."""
    if isinstance(config, Mapping):
        inner = config.get("config")
        if "class_name" in config and "config" in config:
            yield holder, dict(config)
            if isinstance(inner, Mapping) and isinstance(inner.get("name"), str):
                holder = f"{config['class_name']} {inner['name']!r}"
        config = list(config.values())
    if isinstance(config, Sequence) and not isinstance(config, str):
        for each in config:
            yield from _objects(each, holder)


def _is_builtin(function: dict[str, Any]) -> bool:
    from keras.saving import deserialize_keras_object

    try:
        return bool(deserialize_keras_object(function) is not None)
    except (TypeError, ValueError):
        return False


def _check_reductions(config: Any) -> None:
    for _, each in _objects(config.get("compile_config") or {}, "the model"):
        inner = each["config"]
        if isinstance(inner, Mapping) and inner.get("reduction") not in REDUCTIONS:
            raise InvalidRequest(
                f"the loss {each['class_name']} has reduction={inner['reduction']!r}, which "
                "several workers cannot share out",
                hint='use reduction="sum_over_batch_size", or num_workers=1',
            )


def _ship_code(module: str, folder: Path) -> None:
    """Copy the file that a module is, or the package that it is in, unless it is installed: then
    it is on the worker, too, or an error there names it.

    Raises:
        InvalidRequest: it is too much.
    """
    file = Path(getattr(sys.modules[module], "__file__", None) or sys.executable)
    if file.suffix != ".py" or _is_installed(file):
        return
    base = file.parents[module.count(".") + (file.name == "__init__.py")]
    package = base / module.partition(".")[0]
    whole = (package / "__init__.py").exists()
    sources = [each for each in package.rglob("*.py") if each.is_file()] if whole else [file]
    if sum(each.stat().st_size for each in sources) > MAX_CODE_BYTES:
        raise InvalidRequest(
            f"{package} has more than {MAX_CODE_BYTES} bytes of code, and the model needs {module}",
            hint="install it where the workers run, or define the classes in a smaller module",
        )
    for each in sources:
        target = folder / each.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(each, target)


def _is_installed(file: Path) -> bool:
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(file.is_relative_to(place) for place in places)


def _kind(value: Any) -> str:
    return f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
