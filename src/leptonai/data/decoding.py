"""Encoded images into pixels, at the speed of the decoder.

JPEG by libjpeg-turbo, which leaves out the work for pixels that nobody asked for: an image of more
than twice the size is decoded at a half, a quarter or an eighth of it. Whatever else Pillow reads
as well. None of it holds the interpreter's lock for long.

An image is fitted to the asked size whatever its proportions: halved and so on by averaging until
it is less than twice as large, then interpolated linearly. Orientation marks (EXIF) are not heeded.
Machines of different kinds may round a pixel differently, by one level.
"""

import io
from typing import TYPE_CHECKING, Any

from leptonai.data.records import Bytes
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PIXELS = 1 << 27  # of one image, before it is fitted: 384 MiB as RGB
JPEG_MAGIC = b"\xff\xd8\xff"
# Named, for Pillow knows formats, too, that start programs of their own (EPS).
OTHER_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
DCT_FACTORS = (8, 4, 2)  # those that libjpeg-turbo has fast code for


class Decoder:
    """Decodes images as RGB, in as many threads as like."""

    def __init__(self) -> None:
        """Raises:
        InvalidRequest: what decodes images is not installed.
        """
        try:
            import cv2
            import simplejpeg
        except ImportError as error:
            raise InvalidRequest(
                f"images cannot be decoded: {error.name} is not installed",
                hint="pip install 'openlepton[data]'",
            ) from None
        self._cv: Any = cv2
        self._jpeg: Any = simplejpeg

    def __reduce__(self) -> "tuple[type[Decoder], tuple[()]]":
        return Decoder, ()  # in another process: with what is installed there

    def decode_into(self, data: Bytes, out_HWC: "NDArray[np.uint8]") -> None:
        """Fill a contiguous [H, W, 3] with the image, fitted to it.

        Raises:
            InvalidRequest: it is no image, a damaged or cut one, or larger than `MAX_PIXELS`.
        """
        height, width, _ = out_HWC.shape
        image = self._decode_jpeg(data, height, width) if data[:3] == JPEG_MAGIC else None
        if image is None:
            image = _decode_other(data)
        self._fit(image, out_HWC)

    def _fit(self, image: "NDArray[np.uint8]", out_HWC: "NDArray[np.uint8]") -> None:
        cv, (height, width, _) = self._cv, out_HWC.shape
        factor = min(image.shape[0] // height, image.shape[1] // width)
        # Intel's code, where there is any, takes half the time, and rounds no worse than OpenCV's
        # own: but not the same, so nobody gets it unasked. A setting of this thread alone.
        before = cv.ipp.useIPP_NotExact()
        cv.ipp.setUseIPP_NotExact(True)
        try:
            if factor > 1:
                reduced = image.shape[1] // factor, image.shape[0] // factor
                image = cv.resize(image, reduced, interpolation=cv.INTER_AREA)
            cv.resize(image, (width, height), dst=out_HWC, interpolation=cv.INTER_LINEAR)
        finally:
            cv.ipp.setUseIPP_NotExact(before)

    def _decode_jpeg(self, data: Bytes, height: int, width: int) -> "NDArray[np.uint8] | None":
        """At least of the asked size. None if libjpeg-turbo has any doubt; Pillow then tells what
        can be read all the same (a few stray bytes between its parts) from what is cut."""
        least: dict[str, int] = {}
        try:
            full_height, full_width, _, _ = self._jpeg.decode_jpeg_header(data)
            _check_size(full_height, full_width)
            for factor in DCT_FACTORS:
                if full_height >= factor * height and full_width >= factor * width:
                    least = {
                        "min_height": -(-full_height // factor),
                        "min_width": -(-full_width // factor),
                        "min_factor": factor,
                    }
                    break
            # Less exact by a hair, and seven per cent faster.
            image: NDArray[np.uint8] = self._jpeg.decode_jpeg(
                data, fastdct=True, fastupsample=True, **least
            )
        except ValueError:
            return None
        return image


def _decode_other(data: Bytes) -> "NDArray[np.uint8]":
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=OTHER_FORMATS) as image:
            _check_size(image.height, image.width)
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        raise InvalidRequest(
            f"not an image that can be read: {'of no known format' if unknown else error}",
            hint=f"it must be whole, and one of {', '.join(OTHER_FORMATS)}",
        ) from None


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise InvalidRequest(
            f"an image of {height} x {width} pixels; {MAX_PIXELS} pixels are the most",
            hint="store it smaller",
        )
