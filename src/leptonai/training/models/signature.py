"""`Signature`: what a saved model is asked with, and what it answers. Lies beside its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from leptonai.durable import replacing
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from leptonai.data.pipeline import Pipeline
    from leptonai.training.models.base import Model

SIGNATURE_FILE = "signature.json"
MAX_BYTES = 64 << 20

Asked = Literal["rows", "images", "texts", "arrays"]


class Signature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one input, and of the answer to it."""

    inputs: Asked
    columns: dict[str, str] = {}  # of a row: the type of each
    shape: tuple[int, ...] = ()  # of an image, or of an array where it has to have one
    dtype: str = ""
    outputs: Literal["labels", "values"]
    classes: tuple[str, ...] = ()  # that there are labels of


def signature_of(
    model: "Model",
    pipeline: "Pipeline | None" = None,
    *,
    image_size: tuple[int, int] | None = None,
    pixels: "NDArray[Any] | None" = None,
) -> Signature:
    """
    Args:
        image_size: height and width that encoded images were fitted to before the pipeline.
        pixels: images that it learnt from as they were before the pipeline, which may treat bytes
            otherwise than fractions.

    Raises:
        InvalidRequest: nobody would know what to ask it, or what it says.
    """
    from leptonai.training.models.images import ImageModel
    from leptonai.training.models.tasks import Values

    gives_values = isinstance(model.task, Values)
    if not model.answers or not (model.classes or gives_values):
        raise InvalidRequest(
            f"a {type(model).__name__} is not served without code",
            hint="write a Photon that loads it and says what its requests look like",
        )
    told: dict[str, Any] = {
        "outputs": "values" if gives_values else "labels",
        "classes": () if gives_values else model.classes,
    }
    if pipeline is not None and pipeline.takes == "table":
        takes = {each.name: each.type for each in pipeline.fitted.takes}
        takes.pop(pipeline.target or "", None)
        return Signature(inputs="rows", columns=takes, **told)
    if pipeline is not None and pipeline.takes == "texts":
        return Signature(inputs="texts", dtype="str", **told)
    if image_size is not None:
        return Signature(inputs="images", shape=(*image_size, 3), dtype="uint8", **told)
    shape = tuple(getattr(model, "input_shape", ()))
    through_pipeline = pipeline is not None and pipeline.takes == "images"
    if isinstance(model, ImageModel) or through_pipeline:
        if pixels is not None:
            return Signature(
                inputs="images", shape=pixels.shape[1:], dtype=pixels.dtype.name, **told
            )
        dtype = "uint8" if through_pipeline else "float32"
        return Signature(inputs="images", shape=shape, dtype=dtype, **told)
    dtype = str(model.example().dtype).removeprefix("torch.")
    return Signature(inputs="arrays", shape=shape, dtype=dtype, **told)


def write_signature(directory: Path, signature: Signature) -> None:
    with replacing(directory / SIGNATURE_FILE) as file:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(signature), indent=2) + b"\n")


def read_signature(directory: Path) -> Signature | None:
    """None where none lies there: of a model that was saved by hand.

    Raises:
        InvalidRequest: it is damaged.
    """
    path = directory / SIGNATURE_FILE
    if not path.is_file():
        return None
    with path.open("rb") as file:
        written = file.read(MAX_BYTES)
    try:
        return msgspec.json.decode(written, type=Signature)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is damaged: {error}", hint="download it again") from None
