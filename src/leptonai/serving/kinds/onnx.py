"""Graphs in ONNX, run by the ONNX runtime. They compute, and can do nothing else."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest
from leptonai.serving.inputs import reader_of
from leptonai.serving.kinds.arrays import signature_for
from leptonai.serving.kinds.opening import Opened, not_installed, pipeline_in
from leptonai.training.models.signature import Signature

_TYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16",
    "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(string)": "str",
}  # fmt: skip
_PREFERRED = ("CUDAExecutionProvider", "CPUExecutionProvider")
_SUMS_TO_ONE = 1e-3


def open_model(directory: Path, file: Path) -> Opened:
    session = _session(file)
    taken = session.get_inputs()
    if len(taken) != 1 or taken[0].type not in _TYPES:
        told = ", ".join(f"{each.name}: {each.type}" for each in taken)
        raise InvalidRequest(
            f"the model in {directory} takes {told}; one tensor is served without code",
            hint="write a Photon that makes its inputs",
        )
    pipeline = pipeline_in(directory)
    outputs = session.get_outputs()
    wanted = _probabilities(outputs)
    known = _signature(taken[0], labels=wanted is not None)
    width = _width(wanted or outputs[0])
    signature = signature_for(directory, pipeline, known, width)
    if signature.outputs == "labels" and not signature.classes:
        classes = _classes(session, taken[0], wanted or outputs[0], directory)
        signature = msgspec.structs.replace(signature, classes=classes)
    name, wanted_name = taken[0].name, (wanted or outputs[0]).name
    dtype = _TYPES[taken[0].type]
    one_by_one = taken[0].shape[:1] == [1]  # as it was exported; it takes no more at once

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        (found,) = session.run([wanted_name], {name: inputs})
        if isinstance(found, list):  # of maps from classes to probabilities
            found = np.array([[each[key] for key in sorted(each)] for each in found])
        return np.asarray(found)

    def predict(inputs: Any) -> NDArray[Any]:
        given = np.asarray(inputs, object if dtype == "str" else dtype)
        try:
            found = (
                np.concatenate([run(each[None]) for each in given]) if one_by_one else run(given)
            )
        except Exception as wrong:  # its own types of errors cannot be imported by name
            raise InvalidRequest(f"the model refuses these inputs: {wrong}") from None
        if len(found) != len(given):
            raise InvalidRequest(
                f"the model gave {len(found)} answers to {len(given)} inputs: it was exported for "
                "batches of one size",
                hint="export it with a dynamic first axis",
            )
        return _shares(found) if signature.outputs == "labels" else found

    return Opened(signature, reader_of(signature, pipeline), predict)


def _session(file: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        not_installed("onnxruntime", "serve-models", file.parent)
    options = onnxruntime.SessionOptions()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) > 0:
        options.intra_op_num_threads = int(threads)
    options.log_severity_level = 3  # errors
    there = onnxruntime.get_available_providers()
    providers = [each for each in _PREFERRED if each in there]
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as wrong:  # its own types of errors cannot be imported by name
        raise InvalidRequest(f"{file} cannot be loaded: {wrong}", hint="export it again") from None


def _probabilities(outputs: Sequence[Any]) -> Any:
    """As converters of scikit-learn's classifiers call it."""
    return next((each for each in outputs if "probabilit" in each.name.lower()), None)


def _signature(taken: Any, *, labels: bool) -> Signature:
    dtype = _TYPES[taken.type]
    dimensions = taken.shape[1:]
    fixed = all(isinstance(each, int) for each in dimensions)
    return Signature(
        inputs="texts" if dtype == "str" else "arrays",
        shape=tuple(dimensions) if fixed and dtype != "str" else (),
        dtype=dtype,
        outputs="labels" if labels else "values",
    )


def _width(output: Any) -> int | None:
    """Numbers that come out for an input, where that is fixed."""
    shape = output.shape
    return shape[1] if shape and len(shape) == 2 and isinstance(shape[1], int) else None


def _classes(session: Any, taken: Any, wanted: Any, directory: Path) -> tuple[str, ...]:
    """Of a graph that says them, or how many they are, only with an answer."""
    shape = [each if isinstance(each, int) else 1 for each in taken.shape]
    kind = _TYPES[taken.type]
    blank = np.full(shape, "", object) if kind == "str" else np.zeros(shape, kind)
    try:
        (found,) = session.run([wanted.name], {taken.name: blank})
        return tuple(
            map(str, sorted(found[0]) if isinstance(found, list) else range(found.shape[1]))
        )
    except Exception as wrong:  # its own types of errors cannot be imported by name
        raise InvalidRequest(
            f"the model in {directory} does not say which classes it tells apart: {wrong}",
            hint='name them in its signature.json: "classes": ["cat", "dog"]',
        ) from None


def _shares(found: NDArray[Any]) -> NDArray[Any]:
    """Probabilities, whether the graph ends with them or with scores."""
    scores = found.astype(np.float64)
    if (scores >= 0).all() and (abs(scores.sum(axis=1) - 1) < _SUMS_TO_ONE).all():
        return found
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: NDArray[Any] = shifted / shifted.sum(axis=1, keepdims=True)
    return shares
