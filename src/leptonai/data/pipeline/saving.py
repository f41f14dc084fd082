"""A fitted pipeline as one file: safetensors, whose metadata holds JSON. Nothing in it is run.

the metadata's "lepton.pipeline"   `Saved`: steps, what they learnt, columns in and out, …
the tensor "3.components"          the array `components` that step 3 learnt
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.data.manifest import Field
from leptonai.durable import replacing
from leptonai.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY = "lepton.pipeline"
FORMAT = 1
MAX_FILE_BYTES = 4 << 30
HEADER_BYTES = 8  # of a safetensors file: the size of its JSON
MAX_HEADER_BYTES = 100 << 20


class FittedOn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The samples that taught."""

    digest: str  # of the samples
    records: str = ""  # of all samples that they are a part of
    reference: str = ""  # NAME@VERSION, or the name of a directory
    part: str = ""  # "train", if the data was divided
    samples: int = 0


class Saved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    made_by: dict[str, str]  # package → version
    steps: list[dict[str, Any]]
    learnt: list[dict[str, Any]]
    target: str | None
    takes: list[Field]  # columns, of a table
    gives: list[str]  # columns, of a table
    classes: list[str | int | bool] | None
    fitted_on: FittedOn
    checksum: str = ""  # of all this without it, and of the arrays


def encoded(saved: Saved, arrays: "Mapping[str, NDArray[Any]]") -> bytes:
    """Equal pipelines give equal bytes."""
    from safetensors.numpy import save

    told = msgspec.structs.replace(saved, checksum=checksum(saved, arrays))
    text = msgspec.json.encode(told, order="deterministic").decode()
    found: bytes = save(dict(sorted(arrays.items())), metadata={KEY: text})
    return found


def checksum(saved: Saved, arrays: "Mapping[str, NDArray[Any]]") -> str:
    bare = msgspec.structs.replace(saved, checksum="")
    found = hashlib.sha256(msgspec.json.encode(bare, order="deterministic"))
    for name, array in sorted(arrays.items()):
        found.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def decoded(data: bytes, name: str) -> "tuple[Saved, dict[str, NDArray[Any]]]":
    """Raises:
    InvalidRequest: it is no saved pipeline, a damaged one, or one of a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: dict[str, NDArray[Any]] = load(data)
        size = int.from_bytes(data[:HEADER_BYTES], "little")
        header = msgspec.json.decode(data[HEADER_BYTES : HEADER_BYTES + size])
        text = header.get("__metadata__", {}).get(KEY)
    except (SafetensorError, msgspec.DecodeError, KeyError, ValueError) as wrong:
        raise InvalidRequest(
            f"{name} is not a pipeline, or a damaged one: {wrong}", hint="save the pipeline again"
        ) from None
    if text is None:
        raise InvalidRequest(
            f"{name} is a safetensors file, but not of a pipeline",
            hint="name the file that Pipeline.save() wrote",
        )
    try:
        told = msgspec.json.decode(text)
        form = told.get("format") if isinstance(told, dict) else None
        if isinstance(form, int) and form > FORMAT:
            raise InvalidRequest(
                f"{name} was saved by a newer Lepton: as format {form}, and this reads {FORMAT}",
                hint="upgrade: pip install -U openlepton",
            )
        saved = msgspec.convert(told, Saved)
    except (msgspec.DecodeError, msgspec.ValidationError) as wrong:
        raise InvalidRequest(
            f"{name} is a damaged pipeline: {wrong}", hint="save the pipeline again"
        ) from None
    if saved.checksum != checksum(saved, arrays):
        raise InvalidRequest(
            f"{name} is a damaged pipeline: its checksum is another", hint="save the pipeline again"
        )
    return saved, arrays


def write_atomically(path: Path, data: bytes) -> None:
    """All of it or nothing, also after a power cut."""
    from leptonai.data.shelf import writing

    with writing(path.absolute().parent):
        try:
            with replacing(path) as beside:
                beside.write_bytes(data)
        except FileNotFoundError:
            raise NotFound(f"the directory of {path} does not exist", hint="make it") from None


def read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidRequest(f"{path} is larger than any pipeline", hint="name another file")
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist", hint="check the path") from None
    except (IsADirectoryError, PermissionError) as wrong:
        raise InvalidRequest(
            f"{path} cannot be read: {wrong.strerror}", hint="name a file"
        ) from None
