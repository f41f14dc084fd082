"""`Resize`: images of any sizes become one array."""

import numpy as np

from leptonai.data.chance import Chance
from leptonai.data.pipeline.images.pixels import (
    MAX_SIDE,
    Images,
    ImageStep,
    check_whole,
    checked,
    checked_image,
    opencv,
)
from leptonai.data.pipeline.step import Batch, Learnt
from leptonai.errors import InvalidRequest


class Resize(ImageStep, frozen=True, forbid_unknown_fields=True, tag="resize"):
    """Whatever the proportions. Shrunk by averaging, enlarged linearly.

    It takes a list of images of different sizes, too."""

    height: int
    width: int

    def __post_init__(self) -> None:
        check_whole("height", self.height, 1, MAX_SIDE)
        check_whole("width", self.width, 1, MAX_SIDE)

    def transform(self, batch: Batch, learnt: Learnt, chance: Chance | None = None) -> Images:
        size = (self.height, self.width)
        if isinstance(batch, list | tuple) and batch:
            return self._resized([checked_image(image, at) for at, image in enumerate(batch)])
        images = checked(batch)
        return images if images.shape[1:3] == size else self._resized(list(images))

    def _resized(self, images: list[Images]) -> Images:
        size, first = (self.height, self.width), images[0]
        cv2 = opencv()
        out = np.empty((len(images), *size, first.shape[2]), first.dtype)
        for number, image in enumerate(images):
            if image.shape[2] != first.shape[2] or image.dtype != first.dtype:
                raise InvalidRequest(
                    f"image {number} has {image.shape[2]} channels of {image.dtype}, but image 0 "
                    f"has {first.shape[2]} of {first.dtype}",
                    hint="convert all to one form first: Image.convert('RGB')",
                )
            shrinks = image.shape[0] >= self.height and image.shape[1] >= self.width
            kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            cv2.resize(image, size[::-1], dst=out[number], interpolation=kind)
        return out
