"""Encoded images into pixels, at the speed of the decoder.

JPEG by libjpeg-turbo, which leaves out the work for pixels that nobody asked for: an image of more
than twice the size is decoded at a half, a quarter or an eighth of it. Whatever else Pillow reads
as well. None of it holds the interpreter's lock for long.

An image is fitted to the asked size whatever its proportions: halved and so on by averaging until
it is less than twice as large, then interpolated linearly. Orientation marks (EXIF) are not heeded.
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
_DCT_FACTORS = (8, 4, 2)  # those that libjpeg-turbo has fast code for


class Decoder:
    """Decodes one image after another, as RGB. For one thread at a time: it keeps a buffer."""

    def __init__(self) -> None:
        """Raises:
        InvalidRequest: what decodes images is not installed.
        """
        import numpy as np

        try:
            import cv2
            import simplejpeg
        except ImportError as error:
            raise InvalidRequest(
                f"images cannot be decoded: {error.name} is not installed",
                hint="pip install 'openlepton[data]'",
            ) from None
        self._cv2: Any = cv2
        self._jpeg: Any = simplejpeg
        self._buffer: NDArray[np.uint8] = np.empty(0, np.uint8)

    def decode_into(self, data: Bytes, out_HWC: "NDArray[np.uint8]") -> None:
        """Fill a contiguous [H, W, 3] with the image, fitted to it.

        Raises:
            InvalidRequest: it is no image, a damaged or cut one, or larger than `MAX_PIXELS`.
        """
        image = None
        if data[:3] == JPEG_MAGIC:
            image = self._decode_jpeg(data, out_HWC)
        if image is None:
            image = _decode_other(data)
        self._fit(image, out_HWC)

    def _decode_jpeg(self, data: Bytes, out_HWC: "NDArray[np.uint8]") -> "NDArray[np.uint8] | None":
        """None if libjpeg-turbo has any doubt; Pillow then tells what can be read all the same (a
        few stray bytes between its parts) from what is cut."""
        import numpy as np

        try:
            height, width, _, _ = self._jpeg.decode_jpeg_header(data)
            _check_size(height, width)
            factor = _dct_factor(height, width, out_HWC)
            least = -(-height // factor), -(-width // factor)
            if self._buffer.size < least[0] * least[1] * 3:
                self._buffer = np.empty(least[0] * least[1] * 3, np.uint8)
            image: NDArray[np.uint8] = self._jpeg.decode_jpeg(
                data,
                fastupsample=True,
                min_height=least[0],
                min_width=least[1],
                min_factor=factor,
                buffer=self._buffer,
            )
        except ValueError:
            return None
        return image

    def _fit(self, image: "NDArray[np.uint8]", out_HWC: "NDArray[np.uint8]") -> None:
        height, width, _ = out_HWC.shape
        factor = min(image.shape[0] // height, image.shape[1] // width)
        if factor > 1:
            reduced = image.shape[1] // factor, image.shape[0] // factor
            image = self._cv2.resize(image, reduced, interpolation=self._cv2.INTER_AREA)
        self._cv2.resize(image, (width, height), dst=out_HWC, interpolation=self._cv2.INTER_LINEAR)


def _dct_factor(height: int, width: int, out_HWC: "NDArray[np.uint8]") -> int:
    """The largest that leaves at least the asked size."""
    for factor in _DCT_FACTORS:
        if height >= factor * out_HWC.shape[0] and width >= factor * out_HWC.shape[1]:
            return factor
    return 1


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
