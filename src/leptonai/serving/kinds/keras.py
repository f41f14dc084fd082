"""Models of Keras, as ``model.save("model.keras")`` writes them, of Keras's own layers alone."""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest
from leptonai.serving.inputs import reader_of
from leptonai.serving.kinds.arrays import signature_for
from leptonai.serving.kinds.opening import Opened, not_installed, pipeline_in
from leptonai.serving.kinds.recognising import MAX_JSON_BYTES
from leptonai.training.models.signature import Signature

_NEVER = ("Lambda", "__lambda__")  # hold code


def open_model(directory: Path, file: Path) -> Opened:
    _check_harmless(file)
    model = _load(file)
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(model.outputs) != 1:
        raise InvalidRequest(
            f"the model in {directory} has several inputs or outputs; one of each is served "
            "without code",
            hint="write a Photon that loads it",
        )
    pipeline = pipeline_in(directory)
    fixed = shape[1:] if all(isinstance(each, int) for each in shape[1:]) else ()
    dtype = str(model.inputs[0].dtype)
    last = getattr(getattr(model.layers[-1], "activation", None), "__name__", "")
    width = model.output_shape[-1]
    is_binary = last == "sigmoid" and width == 1
    known = Signature(
        inputs="arrays",
        shape=tuple(fixed),
        dtype=dtype,
        outputs="labels" if last == "softmax" or is_binary else "values",
    )
    signature = signature_for(directory, pipeline, known, 2 if is_binary else width)

    def predict(inputs: Any) -> NDArray[Any]:
        try:
            found = np.asarray(model.predict_on_batch(inputs))
        except (ValueError, TypeError) as wrong:
            raise InvalidRequest(f"the model refuses these inputs: {wrong}") from None
        return np.concatenate([1 - found, found], axis=1) if is_binary else found

    return Opened(signature, reader_of(signature, pipeline), predict)


def _load(file: Path) -> Any:
    if find_spec("tensorflow") is None and find_spec("torch") is not None:
        os.environ.setdefault("KERAS_BACKEND", "torch")  # before it is imported
    try:
        import keras
    except ImportError:
        not_installed("keras", "keras", file.parent)
    try:
        return keras.saving.load_model(file, safe_mode=True, compile=False)
    except Exception as wrong:  # whatever a damaged archive makes it raise
        raise InvalidRequest(
            f"{file} cannot be loaded: {wrong or type(wrong).__name__}",
            hint="save it again, with the Keras of where it is served",
        ) from None


def _check_harmless(file: Path) -> None:
    """No layer of anybody's own: to make one, code that came along would have to be run."""
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.getinfo("config.json").file_size > MAX_JSON_BYTES:
                raise ValueError(f"its config.json has more than {MAX_JSON_BYTES} bytes")
            config = json.loads(archive.read("config.json"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, RecursionError) as wrong:
        raise InvalidRequest(f"{file} is damaged: {wrong}", hint="save it again") from None
    strange = sorted(set(_strangers(config)))
    if strange:
        raise InvalidRequest(
            f"{file.name} holds what is not Keras's own: {', '.join(strange)}",
            hint="write a Photon that imports its layers and loads it",
        )


def _strangers(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if "class_name" in config:
            name, module = str(config["class_name"]), config.get("module")
            own = module is None or str(module).partition(".")[0] == "keras"
            if name in _NEVER or not own or config.get("registered_name") not in (None, name):
                yield name if module is None else f"{module}.{name}"
        config = [*config.values()]
    if isinstance(config, Sequence) and not isinstance(config, str):
        for each in config:
            yield from _strangers(each)
