"""Autoencoders: through a narrow middle and back, so that the middle tells what matters.

Shape letters in this file: B samples, D numbers of the middle, H, W, C of an image.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks
from leptonai.training.models.base import Model
from leptonai.training.models.images import checked_image_shape
from leptonai.training.models.tasks import Values

if TYPE_CHECKING:
    from numpy.random import Generator

MAX_INPUTS = 1 << 24


class Autoencoder(Model, format="torch-autoencoder"):
    """Samples of `input_shape` in, and samples as much like them as can be out, in the same units.

    It learns from data with or without targets, which it does not look at. Weights begin as torch's
    layers begin.

    Args:
        input_shape: of a sample, or F alone; (H, W, C) for "conv".
        latent: D.
        kind: "dense", or "conv" for images, whose sides each stage halves.
        widths: of the layers between, or the channels of each stage.
        input_mean, input_std: of the raw numbers.
    """

    answers = False

    def __init__(
        self,
        input_shape: int | Sequence[int],
        latent: int = 32,
        *,
        kind: str = "dense",
        widths: Sequence[int] | None = None,
        input_mean: float = 0.0,
        input_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.kind = checks.choice("kind", kind, ("dense", "conv"))
        self.input_shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
        for side in self.input_shape:
            checks.whole("an axis of input_shape", side, 1, MAX_INPUTS)
        checks.whole("the numbers of a sample", prod(self.input_shape), 1, MAX_INPUTS)
        self.latent = checks.whole("latent", latent, 1, checks.MAX_WIDTH)
        self.widths = tuple(widths or ((256, 128) if kind == "dense" else (32, 64)))
        if len(self.widths) > checks.MAX_LAYERS:
            raise InvalidRequest(f"expected at most {checks.MAX_LAYERS} widths")
        for width in self.widths:
            checks.whole("a width", width, 1, checks.MAX_WIDTH)
        checks.scale("input", input_mean, input_std)
        self.input_mean, self.input_std = input_mean, input_std
        self.task = Values(input_std)
        self.encoder, self.decoder = (
            _dense(prod(self.input_shape), self.widths, latent)
            if kind == "dense"
            else _convolutional(self.input_shape, self.widths, latent)
        )

    def forward(self, samples: Tensor) -> Tensor:
        return self.decode(self.encode(samples))

    def encode(self, samples: Tensor) -> Tensor:
        """[B, D]"""
        checks.shape(self, "samples", samples, ("B", *self.input_shape))
        scaled = (samples.float() - self.input_mean) / self.input_std
        if self.kind == "conv":
            scaled = scaled.permute(0, 3, 1, 2)
        latent_BD: Tensor = self.encoder(scaled)
        return latent_BD

    def decode(self, latent_BD: Tensor) -> Tensor:
        """[B, *input_shape]"""
        checks.shape(self, "latent numbers", latent_BD, ("B", self.latent))
        scaled: Tensor = self.decoder(latent_BD)
        scaled = scaled.permute(0, 2, 3, 1) if self.kind == "conv" else scaled
        return scaled.reshape(-1, *self.input_shape) * self.input_std + self.input_mean

    def pair(self, batch: Any, rng: "Generator | None" = None) -> tuple[Any, Any]:
        """The samples themselves, as both."""
        samples = batch[0] if isinstance(batch, tuple | list) else batch
        return samples, samples

    def example(self, count: int = 1) -> Tensor:
        return torch.zeros((count, *self.input_shape))

    def check_inputs(self, inputs: Any) -> None:
        checks.shape(self, "samples", inputs, ("B", *self.input_shape))
        checks.finite("samples", inputs)


def _dense(inputs: int, widths: Sequence[int], latent: int) -> tuple[nn.Module, nn.Module]:
    def layers(sizes: Sequence[int]) -> list[nn.Module]:
        made: list[nn.Module] = []
        for before, after in pairwise(sizes):
            made += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        return made[:-1]

    inward = (inputs, *widths, latent)
    return (
        nn.Sequential(nn.Flatten(), *layers(inward)),
        nn.Sequential(*layers(inward[::-1])),
    )


def _convolutional(
    input_shape: tuple[int, ...], widths: Sequence[int], latent: int
) -> tuple[nn.Module, nn.Module]:
    height, width, channels = checked_image_shape(
        input_shape, 2 ** len(widths), f"{len(widths)} stages"
    )
    part = 2 ** len(widths)
    if height % part or width % part:
        raise InvalidRequest(
            f"expected sides that are multiples of {part} for {len(widths)} stages, "
            f"got {input_shape}"
        )
    middle = (widths[-1], height // part, width // part)
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for before, after in pairwise((channels, *widths)):
        encoder += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
        decoder = [
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(after, before, 4, stride=2, padding=1),
            *decoder,
        ]
    return (
        nn.Sequential(*encoder, nn.Flatten(), nn.Linear(prod(middle), latent)),
        nn.Sequential(nn.Linear(latent, prod(middle)), nn.Unflatten(1, middle), *decoder),
    )
