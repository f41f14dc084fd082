"""Steps that move pixels: flipped, rotated, shifted, zoomed, cropped.

Each says for every image where a pixel of the result comes from: an affine map, as a matrix. Of
steps that follow each other the maps are multiplied, and every image is interpolated once, however
many steps there are: that is faster than once a step, and blurs less. It also loses less: what one
step would move out of the picture, another may bring back.

Coordinates are (x, y, 1) of pixels' centres, from 0. Shape letters: B images of a batch.
"""

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from leptonai.data.chance import Chance
from leptonai.data.pipeline.images.pixels import (
    MAX_SIDE,
    Images,
    ImageStep,
    check_share,
    check_whole,
    checked,
    opencv,
)
from leptonai.data.pipeline.step import Batch, Learnt, Step
from leptonai.errors import InvalidRequest

# What is outside of a picture: the picture again as in a mirror, its edge again, or nothing.
Fill: TypeAlias = Literal["reflect", "edge", "black"]
Maps: TypeAlias = NDArray[np.float64]  # [B, 3, 3], or [1, 3, 3] where all are the same

MAX_ZOOM = 16.0


class Size(NamedTuple):
    height: int
    width: int


class GeometricStep(ImageStep, frozen=True, kw_only=True, forbid_unknown_fields=True):
    @property
    def outside(self) -> Fill | None:
        """What it fills with; None: it never looks outside of a picture."""
        return None

    def maps(self, size: Size, chance: Chance | None) -> tuple[Maps, Size]:
        """From the result's pixels to those of images of a size; and the result's size.

        Raises:
            InvalidRequest: images of this size are too small for it.
        """
        raise NotImplementedError

    def transform(self, batch: Batch, learnt: Learnt, chance: Chance | None = None) -> Images:
        return Moves(steps=(self,)).transform(batch, learnt, chance)

    def absorb(self, following: Step) -> "Moves | None":
        return Moves(steps=(self,)).absorb(following)


class Moves(ImageStep, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="moves"):
    """Several geometric steps as one: what a pipeline makes of them while it works."""

    steps: tuple[GeometricStep, ...]

    @property
    def outside(self) -> Fill | None:
        return next((step.outside for step in self.steps if step.outside), None)

    def absorb(self, following: Step) -> "Moves | None":
        """Where both fill with the same."""
        if not isinstance(following, GeometricStep):
            return None
        if len({self.outside, following.outside} - {None}) > 1:
            return None
        return Moves(steps=(*self.steps, following))

    def transform(self, batch: Batch, learnt: Learnt, chance: Chance | None = None) -> Images:
        images = checked(batch)
        size = Size(*images.shape[1:3])
        maps = _identity(1)
        for step in self.steps:
            following, size = step.maps(size, chance)
            maps = maps @ following
        return warped(images, maps, size, self.outside or "reflect")


class Flip(GeometricStep, frozen=True, forbid_unknown_fields=True, tag="flip"):
    """With these probabilities."""

    horizontal: float = 0.5  # left and right change places
    vertical: float = 0.0

    def __post_init__(self) -> None:
        check_share("horizontal", self.horizontal)
        check_share("vertical", self.vertical)

    def maps(self, size: Size, chance: Chance | None) -> tuple[Maps, Size]:
        if chance is None:
            return _identity(1), size
        maps = _identity(len(chance))
        for axis, (probability, side) in enumerate(
            ((self.horizontal, size.width), (self.vertical, size.height))
        ):
            flipped = chance.happens(probability)
            maps[flipped, axis, axis] = -1
            maps[flipped, axis, 2] = side - 1
        return maps, size


class CenterCrop(GeometricStep, frozen=True, forbid_unknown_fields=True, tag="center_crop"):
    height: int
    width: int

    def __post_init__(self) -> None:
        check_whole("height", self.height, 1, MAX_SIDE)
        check_whole("width", self.width, 1, MAX_SIDE)

    def maps(self, size: Size, chance: Chance | None) -> tuple[Maps, Size]:
        wanted = Size(self.height, self.width)
        _check_room("CenterCrop", size, wanted, pad=0)
        return _centre_cropped(size, wanted), wanted


class _Filling(GeometricStep, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fill: Fill = "reflect"

    @property
    def outside(self) -> Fill:
        return self.fill


class RandomCrop(_Filling, frozen=True, forbid_unknown_fields=True, tag="random_crop"):
    """Anywhere in the picture, padded by `pad` pixels on each side. The middle, without chance."""

    height: int
    width: int
    pad: int = 0

    def __post_init__(self) -> None:
        check_whole("height", self.height, 1, MAX_SIDE)
        check_whole("width", self.width, 1, MAX_SIDE)
        check_whole("pad", self.pad, 0, MAX_SIDE)

    def maps(self, size: Size, chance: Chance | None) -> tuple[Maps, Size]:
        wanted = Size(self.height, self.width)
        _check_room("RandomCrop", size, wanted, self.pad)
        if chance is None:
            return _centre_cropped(size, wanted), wanted
        maps = _identity(len(chance))
        for axis, room in enumerate((size.width - self.width, size.height - self.height)):
            maps[:, axis, 2] = chance.whole(room + 2 * self.pad + 1)[:, 0] - self.pad
        return maps, wanted


class Rotate(_Filling, frozen=True, forbid_unknown_fields=True, tag="rotate"):
    """By up to so many degrees, to either side, about the middle."""

    degrees: float = 15.0

    def __post_init__(self) -> None:
        check_share("degrees", self.degrees, most=180)

    def maps(self, size: Size, chance: Chance | None) -> tuple[Maps, Size]:
        if chance is None:
            return _identity(1), size
        angles = np.radians(chance.uniform(-self.degrees, self.degrees)[:, 0])
        linear = np.empty((len(chance), 2, 2))
        linear[:, 0, 0] = linear[:, 1, 1] = np.cos(angles)
        linear[:, 0, 1] = np.sin(angles)
        linear[:, 1, 0] = -linear[:, 0, 1]
        return _about_the_middle(linear, size), size


class Shift(_Filling, frozen=True, forbid_unknown_fields=True, tag="shift"):
    """By up to these shares of the height and the width, to either side."""

    vertical: float = 0.1
    horizontal: float = 0.1

    def __post_init__(self) -> None:
        check_share("vertical", self.vertical)
        check_share("horizontal", self.horizontal)

    def maps(self, size: Size, chance: Chance | None) -> tuple[Maps, Size]:
        if chance is None:
            return _identity(1), size
        maps = _identity(len(chance))
        shares = chance.uniform(-1, 1, each=2)
        maps[:, 0, 2] = shares[:, 0] * self.horizontal * size.width
        maps[:, 1, 2] = shares[:, 1] * self.vertical * size.height
        return maps, size


class Zoom(_Filling, frozen=True, forbid_unknown_fields=True, tag="zoom"):
    """By a factor between these, about the middle: what is there becomes so much larger."""

    least: float = 0.9
    most: float = 1.1

    def __post_init__(self) -> None:
        if not 1 / MAX_ZOOM <= self.least <= self.most <= MAX_ZOOM:
            raise InvalidRequest(
                f"a zoom from {self.least} to {self.most}",
                hint=f"factors from 1/{MAX_ZOOM:g} to {MAX_ZOOM:g}, the smaller one first",
            )

    def maps(self, size: Size, chance: Chance | None) -> tuple[Maps, Size]:
        if chance is None:
            return _identity(1), size
        factors = chance.uniform(self.least, self.most)[:, 0]
        return _about_the_middle(np.eye(2) / factors[:, None, None], size), size


def warped(images: Images, maps: Maps, size: Size, fill: Fill) -> Images:
    """Each pixel from where its image's map says; between pixels, interpolated linearly. Where all
    of them are whole pixels the result is exact."""
    maps = np.broadcast_to(maps, (len(images), 3, 3))
    if size == images.shape[1:3] and (maps == np.eye(3)).all():
        return images
    cv2 = opencv()
    border = {
        "reflect": cv2.BORDER_REFLECT_101,
        "edge": cv2.BORDER_REPLICATE,
        "black": cv2.BORDER_CONSTANT,
    }[fill]
    signs, starts = maps[:, (0, 1), (0, 1)], maps[:, :2, 2]  # x, y
    whole = ((np.abs(signs) == 1) & (maps[:, (0, 1), (1, 0)] == 0)).all(1)
    whole &= (starts == np.rint(starts)).all(1)
    corners = np.where(signs < 0, starts - (np.array(size[::-1]) - 1), starts)
    linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out = np.empty((len(images), *size, images.shape[3]), images.dtype)
    for image, result, map, (mirror_x, mirror_y), corner, is_whole in zip(
        images, out, maps, signs < 0, corners, whole, strict=True
    ):
        if not is_whole:
            cv2.warpAffine(image, map[:2], size[::-1], dst=result, flags=linear, borderMode=border)
            continue
        part = _part(image, int(corner[0]), int(corner[1]), size, border)
        if mirror_x or mirror_y:
            cv2.flip(part, -1 if mirror_x and mirror_y else int(mirror_x), dst=result)
        else:
            result[...] = part
    return out


def _part(image: NDArray[Any], x: int, y: int, size: Size, border: int) -> NDArray[Any]:
    """Of an image, or of what is around it."""
    height, width, channels = image.shape
    left, right = max(0, -x), max(0, x + size.width - width)
    top, bottom = max(0, -y), max(0, y + size.height - height)
    if left or right or top or bottom:
        padded = opencv().copyMakeBorder(image, top, bottom, left, right, border)
        image = padded.reshape(height + top + bottom, width + left + right, channels)
    return image[y + top : y + top + size.height, x + left : x + left + size.width]


def _identity(count: int) -> Maps:
    return np.tile(np.eye(3), (count, 1, 1))


def _about_the_middle(linear_B22: NDArray[np.float64], size: Size) -> Maps:
    middle = np.array([size.width - 1, size.height - 1]) / 2
    maps = _identity(len(linear_B22))
    maps[:, :2, :2] = linear_B22
    maps[:, :2, 2] = middle - linear_B22 @ middle
    return maps


def _centre_cropped(size: Size, wanted: Size) -> Maps:
    maps = _identity(1)
    maps[:, 0, 2] = (size.width - wanted.width) // 2
    maps[:, 1, 2] = (size.height - wanted.height) // 2
    return maps


def _check_room(step: str, size: Size, wanted: Size, pad: int) -> None:
    if wanted.height > size.height + 2 * pad or wanted.width > size.width + 2 * pad:
        padded = f", padded by {pad} on each side" if pad else ""
        raise InvalidRequest(
            f"{step} to {wanted.height} x {wanted.width} of images of {size.height} x {size.width}"
            f"{padded}",
            hint="take a Resize first",
        )
