"""Steps that change pixels' values where they are. Shape letters: B, H, W, C as always."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from leptonai.data.chance import Chance
from leptonai.data.pipeline.images.pixels import (
    Images,
    ImageStep,
    check_share,
    check_whole,
    checked,
    opencv,
)
from leptonai.data.pipeline.step import Batch, Learnt, Training
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue are to the eye (ITU-R BT.601)
# Brightness and two axes of colour, about which hues turn (YIQ).
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
MAX_CUTS = 64
LEAST_SPREAD = 1e-6  # of a channel, of 1: below it, it is constant


class Colour(ImageStep, frozen=True, forbid_unknown_fields=True, tag="colour"):
    """Brightness, contrast and saturation by a factor of up to ``1 ± option``; the hue by up to so
    many turns of the colour circle, to either side.

    All four are linear, so they are one matrix for every image, and values are rounded and clipped
    once. Source: Haeberli 1993, "Matrix Operations for Image Processing".
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            check_share(name, getattr(self, name))
        check_share("hue", self.hue, most=0.5)

    def transform(self, batch: Batch, learnt: Learnt, chance: Chance | None = None) -> Images:
        if chance is None:
            return checked(batch)
        images = checked(batch)
        if images.shape[3] not in (1, 3):
            raise InvalidRequest(f"Colour of images of {images.shape[3]} channels, not 1 or 3")
        cv2 = opencv()
        maps = self._maps(images, chance)
        out = np.empty_like(images)
        for image, result, map in zip(images, out, maps, strict=True):
            cv2.transform(image, map, dst=result)
        return out

    def _maps(self, images: Images, chance: Chance) -> "NDArray[np.float32]":
        """[B, C, C + 1]"""
        channels = images.shape[3]
        luma = np.array(LUMA if channels == 3 else (1.0,))
        mean = opencv().mean
        greys = np.array([mean(image)[:channels] for image in images]).reshape(-1, channels) @ luma
        by = chance.uniform(-1, 1, each=4)
        brightness, contrast, saturation = (
            1 + np.array([self.brightness, self.contrast, self.saturation]) * by[:, :3]
        ).T
        # What is kept of each pixel's colour; the rest becomes its grey.
        linear = np.eye(channels) * saturation[:, None, None]
        linear += luma * (1 - saturation)[:, None, None]
        if channels == 3 and self.hue:
            linear = _turned(2 * np.pi * self.hue * by[:, 3]) @ linear
        maps = np.empty((len(images), channels, channels + 1), np.float32)
        maps[:, :, :channels] = linear * (brightness * contrast)[:, None, None]
        # To less contrast is towards the image's mean grey, which saturation and hue do not move.
        maps[:, :, channels] = (brightness * (1 - contrast) * greys)[:, None]
        return maps


def _turned(angles: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """[B, 3, 3]: colours turned about the axis of greys."""
    turn = np.tile(np.eye(3), (len(angles), 1, 1))
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angles)
    turn[:, 1, 2] = -np.sin(angles)
    turn[:, 2, 1] = np.sin(angles)
    yiq = np.array(YIQ)
    turned: NDArray[np.float64] = np.linalg.inv(yiq) @ turn @ yiq
    return turned


class CutOut(ImageStep, frozen=True, forbid_unknown_fields=True, tag="cut_out"):
    """Squares of one grey; their middles lie anywhere, so the edge may cut them.

    Source: DeVries, Taylor 2017, "Improved Regularization of Convolutional Neural Networks with
        Cutout".
    """

    side: float = 0.25  # of the shorter side of the image
    count: int = 1
    value: int = 128  # of 255

    def __post_init__(self) -> None:
        check_share("side", self.side)
        check_whole("count", self.count, 1, MAX_CUTS)
        check_whole("value", self.value, 0, 255)

    def transform(self, batch: Batch, learnt: Learnt, chance: Chance | None = None) -> Images:
        images = checked(batch)
        if chance is None:
            return images
        height, width = images.shape[1:3]
        side = round(self.side * min(height, width))
        value = self.value if images.dtype == np.uint8 else self.value / 255
        tops = chance.whole(height, each=self.count) - side // 2
        lefts = chance.whole(width, each=self.count) - side // 2
        out = images.copy()
        for image, top_of, left_of in zip(out, tops.tolist(), lefts.tolist(), strict=True):
            for top, left in zip(top_of, left_of, strict=True):
                image[max(0, top) : top + side, max(0, left) : left + side] = value
        return out


class Greyscale(ImageStep, frozen=True, forbid_unknown_fields=True, tag="greyscale"):
    """One channel: as bright as the three are to the eye. Images of one channel stay."""

    def transform(self, batch: Batch, learnt: Learnt, chance: Chance | None = None) -> Images:
        images = checked(batch)
        if images.shape[3] == 1:
            return images
        if images.shape[3] != 3:
            raise InvalidRequest(f"Greyscale of images of {images.shape[3]} channels, not 1 or 3")
        count, height, width, _ = images.shape
        cv2 = opencv()
        grey: Images = cv2.cvtColor(images.reshape(count * height, width, 3), cv2.COLOR_RGB2GRAY)
        return grey.reshape(count, height, width, 1)


class NormaliseImages(ImageStep, frozen=True, forbid_unknown_fields=True, tag="normalise_images"):
    """float32: each channel with mean 0 and deviation 1 ("standard"), or from 0 to 1 ("range"), as
    the training data has it.

    With `mean` and `deviation` given, of pixels from 0 to 1 as they are published, nothing is
    learnt. uint8 counts as 0..1 by 255, so that it makes no difference which of both comes.
    """

    by: Literal["standard", "range"] = "standard"
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.deviation is None):
            raise InvalidRequest("mean and deviation are given together, or neither")
        if self.mean is None or self.deviation is None:
            return
        if self.by != "standard" or len(self.mean) != len(self.deviation):
            raise InvalidRequest(
                "mean and deviation are of the same channels, and not for by='range'"
            )
        if not all(np.isfinite(self.mean)) or not all(0 < each < 1e9 for each in self.deviation):
            raise InvalidRequest("means are finite, and deviations positive")

    def fit(self, training: Training) -> Learnt:
        """Image by image, so it is the same however the data comes in batches."""
        if self.mean is not None:
            return Learnt()
        cv2 = opencv()
        pixels, sums, squares = 0, np.zeros(0), np.zeros(0)
        low, high = np.full(1, np.inf), np.full(1, -np.inf)
        for batch in training():
            images = checked(batch)
            channels = images.shape[3]
            if not pixels:
                sums, squares = np.zeros(channels), np.zeros(channels)
            _check_channels(channels, len(sums))
            unit = _unit(images)
            for image in images:
                if self.by == "range":
                    values = image.reshape(-1, channels) * unit
                    low = np.minimum(low, values.min(0))
                    high = np.maximum(high, values.max(0))
                mean, deviation = (part[:, 0] * unit for part in cv2.meanStdDev(image))
                count = image.shape[0] * image.shape[1]
                sums += mean * count
                squares += (np.square(mean) + np.square(deviation)) * count
                pixels += count
        if not pixels:
            raise InvalidRequest("there is no image to learn from", hint="check the training part")
        mean = sums / pixels
        deviation = np.sqrt(np.maximum(0, squares / pixels - np.square(mean)))
        if self.by == "range":
            mean, deviation = low, high - low
        if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
            raise InvalidRequest("there are infinite or missing pixels in the training data")
        return Learnt({"subtract": mean.tolist(), "divide": deviation.tolist()})

    def transform(self, batch: Batch, learnt: Learnt, chance: Chance | None = None) -> Images:
        images = checked(batch)
        mean = np.array(self.mean or learnt.fact("subtract", list[float]))
        deviation = np.array(self.deviation or learnt.fact("divide", list[float]))
        _check_channels(images.shape[3], len(mean))
        _check_channels(images.shape[3], len(deviation))
        deviation[deviation < LEAST_SPREAD] = 1.0  # a constant channel becomes 0
        count, height, width, channels = images.shape
        # numpy is several times faster over a whole row of pixels than over a pixel's channels.
        factor = np.tile((_unit(images) / deviation).astype(np.float32), width)
        offset = np.tile((-mean / deviation).astype(np.float32), width)
        rows = images.reshape(count, height, width * channels)
        out = np.empty(rows.shape, np.float32)
        for image, result in zip(rows, out, strict=True):
            np.multiply(image, factor, out=result)
            result += offset
        return out.reshape(images.shape)


def _unit(images: Images) -> float:
    return 1 / 255 if images.dtype == np.uint8 else 1.0


def _check_channels(channels: int, learnt: int) -> None:
    if channels != learnt:
        raise InvalidRequest(
            f"images of {channels} channels, where the training data has {learnt}",
            hint="make all alike before: Greyscale, or Image.convert('RGB')",
        )
