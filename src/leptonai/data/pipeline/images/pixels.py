"""What all steps over images share: a batch that is checked, and work image by image.

Image by image, since OpenCV's functions take one, and an image stays in the processor's cache while
it is worked on. None of them holds the interpreter's lock.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from leptonai.data.pipeline.step import Form, Step
from leptonai.errors import InvalidRequest

Images: TypeAlias = NDArray[Any]  # [B, H, W, C] of uint8, or of float32

MAX_CHANNELS = 4  # that OpenCV works on in all its functions
MAX_SIDE = 1 << 14


class ImageStep(Step, frozen=True, kw_only=True, forbid_unknown_fields=True):
    takes: ClassVar[Form] = "images"
    gives: ClassVar[Form] = "images"


def opencv() -> Any:
    """Raises:
    InvalidRequest: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise InvalidRequest(
            "steps over images need OpenCV, which is not installed",
            hint="pip install 'openlepton[data]'",
        ) from None
    return cv2


def checked(batch: Any) -> Images:
    """A batch as an array. A list of images of one size is one, too.

    Raises:
        InvalidRequest: it holds no images, or they differ in size; says how.
    """
    if isinstance(batch, list | tuple):
        batch = _stacked([checked_image(image, number) for number, image in enumerate(batch)])
    if not isinstance(batch, np.ndarray) or batch.ndim != 4:
        told = f"{list(batch.shape)}" if hasattr(batch, "shape") else type(batch).__name__
        raise InvalidRequest(
            f"a batch of images is an array [images, height, width, channels], not {told}",
            hint="of one image it is image[None]; of grey ones without channels, images[..., None]",
        )
    _check_pixels("images", batch)
    return np.ascontiguousarray(batch)


def checked_image(image: Any, number: int) -> NDArray[Any]:
    """[H, W, C]. Raises InvalidRequest: it is not."""
    if isinstance(image, np.ndarray) and image.ndim == 2:
        image = image[..., None]
    if not isinstance(image, np.ndarray) or image.ndim != 3:
        told = f"{list(image.shape)}" if hasattr(image, "shape") else type(image).__name__
        raise InvalidRequest(
            f"image {number} is {told}, not an array [height, width, channels]",
            hint="decode it first: leptonai.data.decoding.Decoder",
        )
    _check_pixels(f"image {number}", image)
    return np.ascontiguousarray(image)


def check_whole(name: str, value: int, least: int, most: int) -> None:
    """Of an option."""
    if not least <= value <= most:
        raise InvalidRequest(f"{name} is a number from {least} to {most}, not {value}")


def check_share(name: str, value: float, most: float = 1.0) -> None:
    if not 0 <= value <= most:  # NaN is not, either
        raise InvalidRequest(f"{name} is from 0 to {most:g}, not {value}")


def _stacked(images: Sequence[NDArray[Any]]) -> Images:
    if not images:
        raise InvalidRequest("a batch of no images has no size", hint="leave it out")
    first = images[0]
    for number, image in enumerate(images):
        if image.shape != first.shape or image.dtype != first.dtype:
            raise InvalidRequest(
                f"image {number} is {list(image.shape)} of {image.dtype}, but image 0 is "
                f"{list(first.shape)} of {first.dtype}",
                hint="begin the pipeline with Resize, which takes images of any size, and let all "
                "have the same channels",
            )
    return np.stack(images)


def _check_pixels(what: str, pixels: NDArray[Any]) -> None:
    if pixels.dtype not in (np.uint8, np.float32):
        raise InvalidRequest(
            f"the pixels of {what} are {pixels.dtype}, not uint8",
            hint="scale them to 0..255: (pixels * 255).astype(np.uint8); float32 of 0..1 will do",
        )
    *_, height, width, channels = pixels.shape
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidRequest(
            f"{what} of {channels} channels; there are 1 to {MAX_CHANNELS}",
            hint="the channels are the last axis: images.transpose(0, 2, 3, 1)",
        )
    if not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE:
        raise InvalidRequest(f"{what} of {height} x {width} pixels; a side is 1 to {MAX_SIDE}")
