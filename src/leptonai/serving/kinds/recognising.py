"""What kind of model a directory holds, by its files' names and heads: nothing of it is loaded.

::

    config.json, model.safetensors   a model of Lepton's, or of Hugging Face's transformers
    *.skops                          an estimator of scikit-learn
    *.onnx                           a graph for the ONNX runtime
    *.keras                          a model of Keras
    photon.json                      a photon, which is served by its own code

Beside any of them may lie ``pipeline.safetensors``, the fitted pipeline that makes its inputs of
raw ones, and ``signature.json``, which says what an input is and what the answers are called.
"""

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from leptonai.errors import InvalidRequest

Kind = Literal["lepton", "transformers", "scikit-learn", "onnx", "keras", "photon"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"  # of weights in several files
MAX_FILES = 10_000
MAX_JSON_BYTES = 64 << 20
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, as the format itself has it

_BY_SUFFIX: dict[str, Kind] = {".skops": "scikit-learn", ".onnx": "onnx", ".keras": "keras"}
_PICKLED = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")
_PICKLE_HEADS = tuple(b"\x80%c" % protocol for protocol in range(2, 6))
_PICKLE_END = b"."
_PROGRAMS = (".pt2",)  # its loader unpickles what is in it

_SAVE_OTHERWISE = (
    "save it without: an estimator of scikit-learn with skops.io.dump, one of transformers with "
    "save_pretrained, a torch model with torch.onnx.export or as a Lepton Model; for code of your "
    "own `leptonai model create --format files` takes any files"
)


class Found(NamedTuple):
    kind: Kind
    format: str  # what a version of it is registered as
    file: Path  # the one that says so

    @property
    def facts(self) -> dict[str, Any]:
        """What its record says of it, for whoever has not loaded it: the fine-tuning, say.

        Raises:
            InvalidRequest: as `recognise`.
        """
        if self.kind != "transformers":
            return {}
        named = read_json(self.file).get("architectures")
        return {"architectures": [*map(str, named)]} if isinstance(named, list) and named else {}


def recognise(directory: Path) -> Found | None:
    """None where the files are no model that is served without code.

    Raises:
        InvalidRequest: a file is a pickle, there are several models, or the model is damaged.
    """
    files = [*_files(directory)]
    for file in files:
        _refuse_pickle(file, directory)
    photon = directory / "photon.json"
    if photon in files:
        return Found("photon", "photon", photon)
    found = [
        Found(_BY_SUFFIX[file.suffix], _BY_SUFFIX[file.suffix], file)
        for file in files
        if file.suffix in _BY_SUFFIX and file.parent == directory
    ]
    config = directory / CONFIG_FILE
    if config in files:
        described = read_json(config)
        if "model_type" in described or "architectures" in described:
            _check_weights(directory)
            # Beside such models often lie exports of them.
            return Found("transformers", "transformers", config)
        if {"format", "format_version", "model"} <= described.keys():
            return Found("lepton", str(described["format"]), config)
    if len(found) > 1:
        names = ", ".join(sorted(each.file.name for each in found))
        raise InvalidRequest(
            f"{directory} holds several models: {names}", hint="leave one of them in it"
        )
    return found[0] if found else None


def read_json(file: Path) -> dict[str, Any]:
    """
    Raises:
        InvalidRequest: it is missing, too large, or no object in JSON.
    """
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise InvalidRequest(f"{file} has more than {MAX_JSON_BYTES} bytes")
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise InvalidRequest(
            f"{file.parent} has no {file.name}", hint="save the model again, whole"
        ) from None
    except (OSError, ValueError, RecursionError) as wrong:
        raise InvalidRequest(f"{file} cannot be read: {wrong}", hint="save it again") from None
    if not isinstance(found, dict):
        raise InvalidRequest(f"{file} is no object", hint="save the model again")
    return found


def _files(directory: Path) -> Iterator[Path]:
    count = 0
    for file in sorted(directory.rglob("*")):
        if file.is_file():
            count += 1
            if count > MAX_FILES:
                raise InvalidRequest(f"{directory} holds more than {MAX_FILES} files")
            yield file


def _refuse_pickle(file: Path, directory: Path) -> None:
    """What would run anything where it is loaded, whatever its name."""
    if file.suffix == ".safetensors":
        return  # its first bytes are a number, which may be any
    try:
        with file.open("rb") as opened:
            head = opened.read(2)
            opened.seek(0 if not head else -1, os.SEEK_END)
            last = opened.read(1)
        is_pickle = (
            file.suffix in _PICKLED
            or file.suffix in _PROGRAMS
            or (head in _PICKLE_HEADS and last == _PICKLE_END)
            or (head == b"PK" and _holds_pickle(file))
        )
    except OSError as wrong:
        raise InvalidRequest(f"{file} cannot be read: {wrong.strerror}") from None
    if is_pickle:
        raise InvalidRequest(
            f"{file.relative_to(directory)} is, or holds, a pickle, which could run anything where "
            "it is loaded",
            hint=f"take it away if the model does without; else {_SAVE_OTHERWISE}",
        )


def _holds_pickle(file: Path) -> bool:
    """As torch.save, torch.jit.save and numpy's archives of objects do."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(PurePosixPath(name).suffix in _PICKLED for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _check_weights(directory: Path) -> None:
    names = [WEIGHTS_FILE]
    index = directory / WEIGHTS_INDEX
    if index.is_file():
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(
            isinstance(name, str) for name in places.values()
        ):
            raise InvalidRequest(f"{index} has no weight_map", hint="save the model again")
        names = sorted({*places.values()})
    for name in names:
        if PurePosixPath(name).name != name:
            raise InvalidRequest(f"{index} names {name}, which is no file beside it")
        check_safetensors(directory / name)


def check_safetensors(file: Path) -> None:
    """That it is whole, as its head says.

    Raises:
        InvalidRequest: it is missing, or not.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ValueError("its head is not that of a safetensors file")
            head = json.loads(opened.read(length))
        ends = [told["data_offsets"][1] for name, told in head.items() if name != "__metadata__"]
        if max(ends, default=0) != size - 8 - length:
            raise ValueError(f"it has {size} bytes, and its head tells of another number")
    except FileNotFoundError:
        raise InvalidRequest(
            f"{file.parent} has no {file.name}",
            hint="weights have to be safetensors: save_pretrained(DIRECTORY) writes them",
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as wrong:
        raise InvalidRequest(f"{file} is damaged: {wrong}", hint="save it again") from None
