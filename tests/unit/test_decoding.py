"""Images into pixels: as exact as they are fast, and nothing of the caller's is changed."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from leptonai.data.decoding import Decoder
from leptonai.errors import InvalidRequest


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=0)
    return buffer.getvalue()


def interpolated(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Linearly, in exact numbers; pixels are squares, and beyond the edge all is as at it."""
    rows, columns = (
        np.clip((np.arange(to) + 0.5) * of / to - 0.5, 0, of - 1)
        for of, to in zip(image.shape, (height, width), strict=False)
    )
    above, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    below = np.minimum(above + 1, image.shape[0] - 1)
    right = np.minimum(left + 1, image.shape[1] - 1)
    down, across = (rows - above)[:, None, None], (columns - left)[:, None]
    upper = image[above][:, left] * (1 - across) + image[above][:, right] * across
    lower = image[below][:, left] * (1 - across) + image[below][:, right] * across
    return upper * (1 - down) + lower * down


@given(
    height=st.integers(1, 80), width=st.integers(1, 80), parts=st.tuples(*[st.floats(0.51, 3)] * 2)
)
@settings(deadline=None)
def test_an_image_less_than_twice_as_large_is_interpolated_to_within_a_level(height, width, parts):
    size = max(1, round(height * parts[0])), max(1, round(width * parts[1]))
    assume(min(height // size[0], width // size[1]) < 2)
    image = np.random.default_rng(height * 81 + width).integers(0, 256, (height, width, 3))
    fitted = np.empty((*size, 3), np.uint8)
    Decoder().decode_into(png(image.astype(np.uint8)), fitted)
    assert np.abs(fitted - interpolated(image, *size)).max() <= 1


@pytest.mark.parametrize("exact", [False, True])
def test_what_the_thread_has_asked_of_opencv_stays(exact):
    decoder, fitted = Decoder(), np.empty((8, 8, 3), np.uint8)
    cv2.ipp.setUseIPP_NotExact(exact)
    asked = cv2.ipp.useIPP_NotExact()  # never, where there is no IPP
    try:
        decoder.decode_into(png(np.zeros((9, 10, 3), np.uint8)), fitted)
        with pytest.raises(InvalidRequest):
            decoder.decode_into(b"no image", fitted)
        assert cv2.ipp.useIPP_NotExact() is asked
    finally:
        cv2.ipp.setUseIPP_NotExact(False)
