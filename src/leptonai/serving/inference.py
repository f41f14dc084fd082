"""The Open Inference Protocol over HTTP, version 2 (KServe's and Triton's), for handlers of arrays.

A handler whose arguments are all arrays is a model of its path's name: ``POST /predict`` is also
``POST /v2/models/predict/infer``. Where there is one alone, the name of the endpoint names it too.
Tensors come and go as JSON, or as bytes behind it (the binary-data extension).

Source: https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.md.
"""

import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.errors import InvalidRequest, TooLarge
from leptonai.serving.answers import JSON, NOTHING, Answer
from leptonai.serving.arrays import as_array, dtype_of, is_array
from leptonai.serving.handlers import Route

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER_LENGTH = b"inference-header-content-length"

_PATH = re.compile(
    r"/v2(?:/health/(?P<health>live|ready)|/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
    r"(?:/(?P<what>ready|infer))?)?/?"
)
Tensor = tuple[str | None, tuple[int, ...]]  # numpy's name of its type, and its shape
Tensors = Mapping[str, Mapping[str, Tensor]]  # of a photon's models: "inputs" and "outputs"

MAX_UNPACKED_BYTES = 64 << 20  # of a compressed body
MAX_LENGTH_DIGITS = 18
_MAX_DIMENSIONS = 32  # numpy's

# Their names of numpy's types; BYTES are texts or bytes of any length.
_TYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
_NAMES = {numpys: name for name, numpys in _TYPES.items()}


class InputTensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = {}


class WantedTensor(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    inputs: list[InputTensor]
    id: str = ""
    outputs: list[WantedTensor] = []
    parameters: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Inference:
    """What a path of the protocol asks for: to infer with `route`, or else to be `told`."""

    model: str
    version: str
    route: Route | None = None
    told: Answer = NOTHING

    def read(self, body: bytes, fields: Mapping[bytes, bytes]) -> "Asked":
        assert self.route is not None
        body = _unpacked(body, fields.get(b"content-encoding", b"identity"))
        header_length = _header_length(fields, len(body))
        try:
            request = _DECODER.decode(body[:header_length])
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(f"the body is no inference request: {error}") from None
        arrays = _arrays(request.inputs, memoryview(body)[header_length:])
        known = self.route.input_type.__struct_fields__
        for name in arrays.keys() - set(known):
            raise InvalidRequest(f"{self.model} has no input {name}; it has {', '.join(known)}")
        defaults = _defaults(self.route)
        for name in set(known) - arrays.keys() - defaults.keys():
            raise InvalidRequest(f"the input {name} is missing")
        arguments = {
            name: as_array(arrays[name], self.route.arrays[name], name)
            if name in arrays
            else defaults[name]
            for name in known
        }
        return Asked(self, request, arguments)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to infer, read and checked."""

    call: Inference
    request: InferRequest
    arguments: dict[str, Any]

    def encode(self, result: Any) -> Answer:
        found = result if isinstance(result, Mapping) else {"output": result}
        wanted = {each.name: each.parameters for each in self.request.outputs}
        unknown = sorted(wanted.keys() - found.keys())
        if unknown:
            raise InvalidRequest(
                f"{self.call.model} has no output {unknown[0]}; it has {', '.join(found)}"
            )
        binary = bool(self.request.parameters.get("binary_data_output"))
        outputs: list[dict[str, Any]] = []
        behind: list[bytes] = []
        for name, value in found.items():
            if wanted and name not in wanted:
                continue
            parameters = wanted.get(name, {})
            as_bytes = bool(parameters.get("binary_data", binary))
            output, raw = _output(str(name), value, as_bytes)
            outputs.append(output)
            behind.append(raw)
        head: dict[str, Any] = {"model_name": self.call.model, "model_version": self.call.version}
        if self.request.id:
            head["id"] = self.request.id
        encoded = JSON.encode({**head, "outputs": outputs})
        if not any(behind):
            return Answer(200, encoded)
        length = (HEADER_LENGTH, b"%d" % len(encoded))
        body = b"".join((encoded, *behind))
        return Answer(200, body, b"application/octet-stream", (length,))


class InferenceRoutes:
    """The models of one photon, by name."""

    def __init__(self, server: str, routes: list[Route], tensors: Callable[[], Tensors]) -> None:
        """
        Args:
            tensors: what is known of them beyond the handlers' types, once there is a model.
        """
        self._server = server
        self._tensors = tensors
        self._models = {
            route.path[1:].replace("/", "."): route
            for route in routes
            if route.method == "POST"
            and route.pattern is None
            and route.arrays
            and route.arrays.keys() == set(route.input_type.__struct_fields__)
        }
        endpoint = os.environ.get("LEPTON_DEPLOYMENT_NAME")
        if endpoint and len(self._models) == 1:
            self._models.setdefault(endpoint, next(iter(self._models.values())))

    def find(self, method: str, path: str) -> Inference | None:
        """None where the path is none of the protocol's, or the photon has no model."""
        match = _PATH.fullmatch(path) if self._models else None
        if match is None:
            return None
        model, version = match["model"], match["version"] or "1"
        if match["health"]:
            return _told({match["health"]: True}) if method == "GET" else None
        if model is None:
            return _told(self._metadata()) if method == "GET" else None
        route = self._models.get(model)
        if route is None or version != "1":
            known = ", ".join(sorted(self._models))
            return _told({"error": f"there is no model {model} {version}; there is {known}"}, 404)
        if match["what"] == "infer":
            return Inference(model, version, route) if method == "POST" else None
        if method != "GET":
            return None
        if match["what"] == "ready":
            return _told({"name": model, "ready": True})
        return _told(_model_metadata(model, route, self._tensors()))

    def _metadata(self) -> dict[str, Any]:
        return {"name": self._server, "version": "1", "extensions": ["binary_tensor_data"]}


_DECODER = msgspec.json.Decoder(InferRequest)


def _told(what: dict[str, Any], status: int = 200) -> Inference:
    return Inference("", "", told=Answer(status, JSON.encode(what)))


def _model_metadata(model: str, route: Route, known: Tensors) -> dict[str, Any]:
    """A handler's types say of what kind its arrays are; -1 is what nobody knows."""
    outputs = known.get("outputs", {})
    if not outputs and is_array(route.returns):
        outputs = {"output": (dtype_of(route.returns), (-1,))}
    given = known.get("inputs", {})
    inputs = {name: given.get(name, (dtype, (-1,))) for name, dtype in route.arrays.items()}
    return {
        "name": model,
        "versions": ["1"],
        "platform": "lepton_photon",
        "inputs": _described(inputs),
        "outputs": _described(outputs),
    }


def _described(tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": _NAMES.get(dtype or "float32", "BYTES"), "shape": [*shape]}
        for name, (dtype, shape) in tensors.items()
    ]


def _defaults(route: Route) -> dict[str, Any]:
    fields = msgspec.structs.fields(route.input_type)
    return {field.name: field.default for field in fields if not field.required}


def _unpacked(body: bytes, encoding: bytes) -> bytes:
    if encoding == b"identity":
        return body
    if encoding not in (b"gzip", b"deflate"):
        raise InvalidRequest(
            f"bodies in {encoding.decode('latin-1')} are not read", hint="send gzip, or as it is"
        )
    reader = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of either header
    try:
        unpacked = reader.decompress(body, MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise InvalidRequest(f"the body cannot be unpacked: {error}") from None
    if reader.unconsumed_tail:
        raise TooLarge(f"unpacked, the body is larger than {MAX_UNPACKED_BYTES} bytes")
    return unpacked


def _header_length(fields: Mapping[bytes, bytes], size: int) -> int:
    text = fields.get(HEADER_LENGTH)
    if text is None:
        return size
    if not text.isdigit() or len(text) > MAX_LENGTH_DIGITS or int(text) > size:
        raise InvalidRequest("Inference-Header-Content-Length is longer than the body")
    return int(text)


def _arrays(inputs: list[InputTensor], behind: memoryview) -> dict[str, "NDArray[Any]"]:
    arrays: dict[str, NDArray[Any]] = {}
    at = 0
    for tensor in inputs:
        size = tensor.parameters.get("binary_data_size")
        raw: memoryview | None = None
        if size is not None:
            if not isinstance(size, int) or not 0 <= size <= len(behind) - at:
                raise InvalidRequest(f"{tensor.name}: binary_data_size is not what follows")
            raw = behind[at : at + size]
            at += size
        arrays[tensor.name] = _array(tensor, raw)
    return arrays


def _array(tensor: InputTensor, raw: memoryview | None) -> "NDArray[Any]":
    import numpy as np

    if len(tensor.shape) > _MAX_DIMENSIONS or any(length < 0 for length in tensor.shape):
        raise InvalidRequest(f"{tensor.name}: its shape is not one")
    try:
        if tensor.datatype == "BYTES":
            flat = np.array(
                _texts(raw) if raw is not None else _flat(tensor.data), dtype=np.object_
            )
        elif tensor.datatype in _TYPES:
            dtype = np.dtype(_TYPES[tensor.datatype])
            flat = (
                np.frombuffer(raw, dtype.newbyteorder("<"))
                if raw is not None
                else np.asarray(tensor.data, dtype).reshape(-1)
            )
        else:
            raise InvalidRequest(
                f"{tensor.name}: {tensor.datatype} is not read; {', '.join(_TYPES)} and BYTES are"
            )
        return flat.reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(f"{tensor.name}: {error}") from None


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    return [each for inner in data for each in _flat(inner)]


def _texts(raw: memoryview) -> list[bytes]:
    """Each is its length in 4 bytes, and itself."""
    texts: list[bytes] = []
    at = 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        at += 4
        if at + length > len(raw):
            raise ValueError("its bytes end within an element")
        texts.append(bytes(raw[at : at + length]))
        at += length
    return texts


def _output(name: str, value: Any, as_bytes: bool) -> tuple[dict[str, Any], bytes]:
    import numpy as np

    array = np.asarray(value)
    output: dict[str, Any] = {"name": name, "shape": list(array.shape)}
    datatype = _NAMES.get(array.dtype.name)
    if datatype is None:
        if array.dtype.kind not in "USO":
            raise TypeError(f"the output {name} is of {array.dtype}, which the protocol has not")
        datatype = "BYTES"
    output["datatype"] = datatype
    if not as_bytes:
        if datatype == "BYTES":
            output["data"] = [_text(each) for each in array.reshape(-1).tolist()]
        else:
            output["data"] = array.reshape(-1).tolist()
        return output, b""
    if datatype == "BYTES":
        texts = [_text(each).encode() for each in array.reshape(-1).tolist()]
        raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    else:
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    output["parameters"] = {"binary_data_size": len(raw)}
    return output, raw


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
