"""From the inputs of a request, as JSON has them, to what a model takes: through the very pipeline
that it learnt with.

Shape letters: B inputs of a request; H, W, C of an image; K numbers of a row.
"""

import base64
import binascii
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.data.pipeline import Pipeline
    from leptonai.training.models.signature import Signature

MAX_BATCH = 1_024  # inputs of one request

# What the model takes, of the inputs of a request; raises InvalidRequest: says which is wrong.
Read = Callable[[Any], Any]


def reader_of(signature: "Signature", pipeline: "Pipeline | None") -> Read:
    """
    Args:
        pipeline: what the model learnt with; without one it gets rows and texts as they come.
    """
    if signature.inputs == "rows":
        return lambda inputs: _rows(signature, pipeline, inputs)
    if signature.inputs == "texts":
        return lambda inputs: _texts(pipeline, inputs)
    if signature.inputs == "images":
        return Images(signature, pipeline)
    return Arrays(signature, pipeline)


def warm_up(signature: "Signature", read: Read, predict: Callable[[Any], NDArray[Any]]) -> None:
    """What is imported at the first use is imported now."""
    one: Any = dict.fromkeys(signature.columns) if signature.inputs == "rows" else "a"
    if signature.inputs in ("rows", "texts"):
        with contextlib.suppress(Exception):  # it may well want what is missing here
            predict(read(one))


def _rows(signature: "Signature", pipeline: "Pipeline | None", inputs: Any) -> Any:
    """[B, K]. A row is an object: the value of each column by its name."""
    rows = [inputs] if isinstance(inputs, Mapping) else inputs
    check_count(rows, "rows: {column: value}")
    for at, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidRequest(
                f"inputs: row {at} is {_told(row)}, not an object of its columns",
                hint=f"its columns are {_listed([*signature.columns])}",
            )
    if pipeline is None:
        return [_whole_row(signature, row, at) for at, row in enumerate(rows)]
    target = pipeline.target
    if target is not None:  # what is to be found out is not looked at
        rows = [{name: row[name] for name in row if name != target} for row in rows]
    found: NDArray[Any] = pipeline.transform(rows)
    if len(found) != len(rows):
        for at, row in enumerate(rows):  # a step that drops rows says why when it has one alone
            try:
                pipeline.transform(row)
            except InvalidRequest as wrong:
                raise InvalidRequest(f"row {at}: {wrong.message}", hint=wrong.hint) from None
        raise InvalidRequest("the pipeline drops some of these rows")
    return found


def _whole_row(signature: "Signature", row: Mapping[str, Any], at: int) -> Mapping[str, Any]:
    for name in signature.columns:
        if name not in row:
            raise InvalidRequest(f"row {at}: the column {name!r} is not there")
    return row


def _texts(pipeline: "Pipeline | None", inputs: Any) -> Any:
    texts = [inputs] if isinstance(inputs, str) else inputs
    check_count(texts, "texts")
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequest(f"inputs: text {at} is {_told(text)}")
    if pipeline is None:
        return texts
    found: NDArray[Any] = pipeline.transform(texts)
    return found


class Images:
    """An image is a file in base64, or nested lists of its pixels."""

    def __init__(self, signature: "Signature", pipeline: "Pipeline | None") -> None:
        self._shape = signature.shape
        self._pipeline = pipeline
        self._arrays = _Numbers("images", signature.shape, signature.dtype or "float32")
        self._decoder: Any = None

    def __call__(self, inputs: Any) -> NDArray[Any]:
        images = [inputs] if isinstance(inputs, str) else inputs
        check_count(images, self._arrays.expected)
        if any(isinstance(image, str) for image in images):
            files = [from_base64(image, at) for at, image in enumerate(images)]
            return self._through(self.decoded(files))
        return self._through(self._arrays(images))

    def of_files(self, files: Sequence[bytes]) -> NDArray[Any]:
        return self._through(self.decoded(files))

    def decoded(self, files: Sequence[bytes]) -> NDArray[np.uint8]:
        """[B, H, W, C], as the DataLoader decodes them."""
        if self._decoder is None:
            from leptonai.data.decoding import Decoder

            self._decoder = Decoder()
        height, width, channels = self._shape
        images = np.empty((len(files), height, width, 3), np.uint8)
        for at, file in enumerate(files):
            try:
                self._decoder.decode_into(file, images[at])
            except InvalidRequest as wrong:
                raise InvalidRequest(
                    f"inputs: image {at} is {wrong.message}", hint=wrong.hint
                ) from None
        if channels == 1:
            from leptonai.data.pipeline.images.colour import Greyscale
            from leptonai.data.pipeline.step import Learnt

            return Greyscale().transform(images, Learnt())
        return images

    def _through(self, images: NDArray[Any]) -> NDArray[Any]:
        if self._pipeline is None:
            return images
        found: NDArray[Any] = self._pipeline.transform(images)
        return found


class Arrays:
    """[B, …]. An input is nested lists of numbers: a row, a series, the tokens of a text."""

    def __init__(self, signature: "Signature", pipeline: "Pipeline | None") -> None:
        self._numbers = _Numbers("arrays", signature.shape, signature.dtype or "float32")
        self._pipeline = pipeline

    def __call__(self, inputs: Any) -> NDArray[Any]:
        check_count(inputs, self._numbers.expected)
        numbers = self._numbers(inputs)
        if self._pipeline is None:
            return numbers
        found: NDArray[Any] = self._pipeline.transform(numbers)
        return found


class _Numbers:
    """Nested lists as one array, of a shape if one is given."""

    def __init__(self, what: str, shape: tuple[int, ...], dtype: str = "float32") -> None:
        self.expected = f"{what} of shape {list(shape)}" if shape else what
        self._shape = shape
        self._dtype = np.dtype(dtype)

    def __call__(self, inputs: Sequence[Any]) -> NDArray[Any]:
        expected = f"inputs: expected a list of {self.expected}"
        try:
            found = np.asarray(inputs)
        except ValueError:
            raise InvalidRequest(f"{expected}, got some of differing shapes") from None
        if found.dtype.kind not in "iuf":  # texts, nulls, numbers too large
            raise InvalidRequest(f"{expected}, got some that are not numbers")
        shape = self._shape
        if shape and shape[-1] == 1 and found.shape[1:] == shape[:-1]:
            found = found[..., None]
        if shape and found.shape[1:] != shape:
            raise InvalidRequest(f"{expected}, got {list(found.shape[1:])}")
        if self._dtype.kind in "iu":
            self._check_whole(found, expected)
        with np.errstate(over="ignore"):
            numbers = found.astype(self._dtype)
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise InvalidRequest(f"{expected}, got some with numbers too large")
        return numbers

    def _check_whole(self, found: NDArray[Any], expected: str) -> None:
        least, most = np.iinfo(self._dtype).min, np.iinfo(self._dtype).max
        if found.dtype.kind == "f" and (found != np.floor(found)).any():
            raise InvalidRequest(f"{expected} of whole numbers, got some with a fraction")
        if found.size and not (least <= found.min() and found.max() <= most):
            raise InvalidRequest(f"{expected} of numbers from {least} to {most}, got others")


def check_count(inputs: Any, expected: str) -> None:
    if not isinstance(inputs, list):
        raise InvalidRequest(f"inputs: expected a list of {expected}, got {_told(inputs)}")
    if not inputs:
        raise InvalidRequest(f"inputs: expected a list of {expected}, got an empty list")
    if len(inputs) > MAX_BATCH:
        raise InvalidRequest(
            f"inputs: expected at most {MAX_BATCH} in a request, got {len(inputs)}"
        )


def from_base64(image: Any, at: int) -> bytes:
    if not isinstance(image, str):
        raise InvalidRequest(
            f"inputs: image {at} is {_told(image)}, and others are files in base64",
            hint="send all in one way",
        )
    try:
        # Of a browser's data:image/png;base64,… what follows the comma.
        return base64.b64decode(image.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"inputs: image {at} is a text, and no base64") from None


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    return "a list" if isinstance(value, list) else f"the number {value}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)[:200]
