"""What models of images have in common: raw pixels in, normalised inside.

Shape letters in this file: B images, H rows, W columns, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks
from leptonai.training.models.base import Model


class ImageModel(Model):
    """Takes pixels as they come from the image, [B, H, W, C], and normalises them itself, so that
    what trains it and what serves it cannot treat them differently."""

    input_shape: tuple[int, ...]
    pixel_mean: float
    pixel_std: float

    def example(self, count: int = 1) -> Tensor:
        return torch.zeros((count, *self.input_shape))

    def check_inputs(self, inputs: Any) -> None:
        checks.shape(self, "images", inputs, ("B", *self.input_shape))
        checks.finite("images", inputs)

    def normalised(self, images_BHWC: Tensor) -> Tensor:
        """[B, C, H, W]"""
        checks.shape(self, "images", images_BHWC, ("B", *self.input_shape))
        # A copy with plain strides: with others, C=1 makes DDP warn of gradients that do not match.
        by_channel = images_BHWC.permute(0, 3, 1, 2).to(
            torch.float32, copy=True, memory_format=torch.contiguous_format
        )
        return (by_channel - self.pixel_mean) / self.pixel_std


def checked_image_shape(input_shape: Sequence[int], shortest: int, why: str) -> tuple[int, ...]:
    """(H, W, C), with sides of at least `shortest`."""
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(isinstance(side, int) for side in shape):
        raise InvalidRequest(f"expected input_shape=(height, width, channels), got {shape}")
    if min(shape[:2]) < shortest:
        raise InvalidRequest(
            f"expected input_shape=(height, width, channels) with sides of at least {shortest} "
            f"for {why}, got {shape}"
        )
    for name, side in zip(("height", "width", "channels"), shape, strict=True):
        checks.whole(name, side, 1, checks.MAX_SIDE)
    return shape
