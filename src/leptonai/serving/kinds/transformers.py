"""Models of Hugging Face's transformers that answer with classes or numbers.

Shape letters: B inputs, T tokens, K classes.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest, first_line
from leptonai.serving.inputs import Images, check_count, from_base64, reader_of
from leptonai.serving.kinds.opening import Opened
from leptonai.serving.kinds.pretrained import (
    library,
    load,
    load_tokenizer,
    longest_input,
    task_of,
)
from leptonai.training.models.signature import Signature

if TYPE_CHECKING:
    from leptonai.serving.language.embedding import Embedder

MAX_PIXELS = 64 << 20  # of one image
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")


def open_model(directory: Path, file: Path) -> Opened:
    task = task_of(directory)
    if task == "embedding":
        from leptonai.serving.language.embedding import open_embedder

        return of_embedder(open_embedder(directory))
    if task == "text-classification":
        return _of_texts(directory)
    if task == "image-classification":
        return _of_images(directory)
    raise InvalidRequest(f"the model in {directory} writes texts: ask it at /v1/completions")


def of_embedder(embedder: "Embedder") -> Opened:
    signature = Signature(inputs="texts", dtype="str", outputs="values")
    reader = reader_of(signature, None)
    return Opened(signature, reader, embedder.of_texts, lambda: embedder.of_texts(["a"]))


def _of_texts(directory: Path) -> Opened:
    model, tokenizer = load(directory, "text-classification"), load_tokenizer(directory)
    longest = longest_input(model, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    answer = _answers(model)

    def predict(texts: Sequence[str]) -> NDArray[Any]:
        tokens_BT = tokenizer(
            [*texts], padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        return answer({name: each.to(model.device) for name, each in tokens_BT.items()})

    signature = _signature(model, inputs="texts", dtype="str")
    return Opened(signature, reader_of(signature, None), predict, lambda: predict(["a"]))


def _of_images(directory: Path) -> Opened:
    model, processor = load(directory, "image-classification"), _processor(directory)
    answer = _answers(model)

    def predict(images: Sequence[NDArray[np.uint8]]) -> NDArray[Any]:
        made = processor(images=[*images], input_data_format="channels_last", return_tensors="pt")
        return answer({"pixel_values": made["pixel_values"].to(model.device, model.dtype)})

    signature = _signature(model, inputs="images", dtype="uint8")
    black = np.zeros((32, 32, 3), np.uint8)
    return Opened(signature, WholeImages(), predict, lambda: predict([black]))


class WholeImages(Images):
    """Each in the size that it has: the model's own processor makes them alike."""

    def __init__(self) -> None:
        pass

    def __call__(self, inputs: Any) -> Any:
        images = [inputs] if isinstance(inputs, str) else inputs
        check_count(images, "images")
        return [
            decoded(from_base64(image, at), at) if isinstance(image, str) else _pixels(image, at)
            for at, image in enumerate(images)
        ]

    def of_files(self, files: Sequence[bytes]) -> Any:
        return [decoded(file, at) for at, file in enumerate(files)]


def decoded(file: bytes, at: int) -> NDArray[np.uint8]:
    """[H, W, 3], the way up that its camera says."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has more than {MAX_PIXELS} pixels")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as wrong:
        raise InvalidRequest(f"inputs: image {at} cannot be read: {wrong}") from None


def _pixels(image: Any, at: int) -> NDArray[np.uint8]:
    try:
        found = np.asarray(image)
    except ValueError:
        found = np.empty(0)
    if found.ndim != 3 or found.shape[2] != 3 or found.dtype.kind not in "iu" or not found.size:
        raise InvalidRequest(
            f"inputs: image {at} is no array of pixels [height, width, 3], whole numbers to 255",
            hint="or send it as a file in base64",
        )
    return found.clip(0, 255).astype(np.uint8)


def _processor(directory: Path) -> Any:
    transformers = library(directory)
    try:
        return transformers.AutoImageProcessor.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
    except Exception as wrong:  # whatever a damaged directory makes it raise
        raise InvalidRequest(
            f"{directory} does not say how images are prepared: {first_line(wrong)}",
            hint="processor.save_pretrained(DIRECTORY) writes preprocessor_config.json",
        ) from wrong


def _signature(model: Any, **inputs: Any) -> Signature:
    config = model.config
    if _is_regression(config):
        return Signature(outputs="values", **inputs)
    classes = tuple(str(config.id2label[at]) for at in range(config.num_labels))
    return Signature(outputs="labels", classes=classes, **inputs)


def _is_regression(config: Any) -> bool:
    return bool(config.problem_type == "regression" or config.num_labels == 1)


def _answers(model: Any) -> Callable[[dict[str, Any]], NDArray[Any]]:
    config = model.config
    many = config.problem_type == "multi_label_classification"

    def answer(inputs: dict[str, Any]) -> NDArray[Any]:
        with torch.inference_mode():
            scores_BK = model(**inputs).logits.float()
            if not _is_regression(config):
                scores_BK = scores_BK.sigmoid() if many else scores_BK.softmax(-1)
        found: NDArray[Any] = scores_BK.numpy(force=True)
        return found

    return answer
