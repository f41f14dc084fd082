"""Bodies that are not JSON: msgpack, and arrays as they lie in memory (npy, safetensors)."""

import io
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from leptonai.errors import InvalidRequest
from leptonai.serving.answers import NOTHING, Answer, as_plain, in_json, is_value
from leptonai.serving.responses import HTTPException

MSGPACK = "application/msgpack"
NPY = "application/x-npy"
SAFETENSORS = "application/x-safetensors"

_OTHER_NAMES = {
    "application/x-msgpack": MSGPACK,
    "application/vnd.msgpack": MSGPACK,
    "application/npy": NPY,
    "application/safetensors": SAFETENSORS,
    "application/vnd.safetensors": SAFETENSORS,
}


@lru_cache(maxsize=256)  # clients choose what comes here
def format_of(media_type: bytes) -> str | None:
    """One of ours, of a Content-Type; None is JSON, or is taken for it."""
    name = media_type.partition(b";")[0].strip().lower().decode("latin-1")
    name = _OTHER_NAMES.get(name, name)
    return name if name in _DECODE else None


@lru_cache(maxsize=256)  # clients choose what comes here
def wanted_format(accept: bytes) -> str | None:
    """The first of ours that an Accept names; None where JSON does."""
    for media_type in accept.split(b","):
        found = format_of(media_type)
        if found is not None:
            return found
        if media_type.partition(b";")[0].strip() in (b"application/json", b"*/*"):
            return None
    return None


def decoded(body: bytes, format: str, field_names: tuple[str, ...]) -> dict[str, Any]:
    """The arguments that a body holds, by name, still to be checked.

    Raises:
        InvalidRequest: it is not of this format.
    """
    try:
        found = _DECODE[format](body)
    except InvalidRequest:
        raise
    except Exception as error:
        raise InvalidRequest(f"the body is not {format}: {error}") from None
    if isinstance(found, dict):
        return found
    if format == NPY and len(field_names) == 1:
        return {field_names[0]: found}
    raise InvalidRequest(
        f"one array in {format} fills one argument, and there are {len(field_names)}"
        if format == NPY
        else "Expected `object`",
        hint=f"send {SAFETENSORS}: an array for each name",
    )


def encoder_for(accept: bytes) -> Callable[[Any], Any]:
    """As `in_json`, in what the client asked for."""
    format = wanted_format(accept)
    return in_json if format is None else _encoder(format)


@lru_cache(maxsize=256)  # clients choose what comes here
def _encoder(format: str) -> Callable[[Any], Any]:
    encode, content_type = _ENCODE[format], format.encode()

    def encoded(result: Any) -> Any:
        if result is None:
            return NOTHING
        if not is_value(type(result)):
            return result
        try:
            return Answer(200, encode(result), content_type)
        except (TypeError, ValueError) as error:
            raise HTTPException(406, f"this result cannot be sent as {format}: {error}") from None

    return encoded


def _from_npy(body: bytes) -> Any:
    import numpy as np

    return np.load(io.BytesIO(body), allow_pickle=False)


def _to_npy(result: Any) -> bytes:
    import numpy as np

    array = np.asarray(result)
    if array.dtype.hasobject:
        raise TypeError("it is no array of numbers")
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _from_safetensors(body: bytes) -> Any:
    from safetensors.numpy import load

    return load(body)


def _to_safetensors(result: Any) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    if not isinstance(result, Mapping):
        result = {"output": result}
    arrays = {str(name): np.ascontiguousarray(value) for name, value in result.items()}
    if any(array.dtype.kind not in "biuf" for array in arrays.values()):
        raise TypeError("it has others than arrays of numbers")
    encoded: bytes = save(arrays)
    return encoded


_DECODE: dict[str, Callable[[bytes], Any]] = {
    MSGPACK: msgspec.msgpack.Decoder().decode,
    NPY: _from_npy,
    SAFETENSORS: _from_safetensors,
}
_ENCODE: dict[str, Callable[[Any], bytes]] = {
    MSGPACK: msgspec.msgpack.Encoder(enc_hook=as_plain).encode,
    NPY: _to_npy,
    SAFETENSORS: _to_safetensors,
}
