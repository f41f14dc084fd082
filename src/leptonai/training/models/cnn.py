"""A convolutional network for small images, and its form on disk.

Shape letters in this file: B images, H rows, W columns, C channels, K classes.

A saved model is a directory of two files, neither of which can run anything when it is loaded::

    config.json         how to build it, how to treat raw pixels, what the classes are called
    model.safetensors   its weights
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leptonai.errors import InvalidRequest, NotFound

FORMAT = "torch-cnn"
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_GROUPS = 8  # of channels, that are normalised together
_POOLED = 2  # what is left of each side of the image before the last layer


class CNN(nn.Module):
    """Raw images [B, H, W, C] in, scores of the classes [B, K] out.

    It takes pixels as they come from the image and normalises them itself, so that what trains it
    and what serves it cannot treat them differently. Normalisation inside is by groups of channels
    of one image: an image's scores do not depend on its batch, nor on how many workers trained.

    Args:
        input_shape: (H, W, C) of an image; each side at least ``2 ** len(widths)``.
        num_classes: K.
        widths: channels of each stage, a multiple of 8; a stage halves the image's sides.
        dropout: share of the last features that training leaves out.
        pixel_mean, pixel_std: of the raw pixels.
        classes: their names, K of them; "0", "1", … unless given.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int] = (32, 64, 128),
        dropout: float = 0.2,
        pixel_mean: float = 0.0,
        pixel_std: float = 1.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.widths = tuple(widths)
        self.dropout = dropout
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std
        self.classes = tuple(classes or (str(k) for k in range(num_classes)))
        self._check()
        channels = self.input_shape[2]
        stages: list[nn.Module] = []
        for width in self.widths:
            stages += [
                *_convolution(channels, width),
                *_convolution(width, width),
                nn.MaxPool2d(2),
            ]
            channels = width
        self.features = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(_POOLED),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels * _POOLED * _POOLED, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or tuple(images.shape[1:]) != self.input_shape:
            raise ValueError(
                f"expected images of shape {['B', *self.input_shape]}, got {list(images.shape)}"
            )
        # A copy with plain strides: with others, C=1 makes DDP warn of gradients that do not match.
        by_channel = images.permute(0, 3, 1, 2).to(
            torch.float32, copy=True, memory_format=torch.contiguous_format
        )
        normalised = (by_channel - self.pixel_mean) / self.pixel_std
        scores: Tensor = self.head(self.features(normalised))
        return scores

    def config(self) -> dict[str, Any]:
        """What ``CNN(**config)`` makes the same network from."""
        return {
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
            "widths": list(self.widths),
            "dropout": self.dropout,
            "pixel_mean": self.pixel_mean,
            "pixel_std": self.pixel_std,
            "classes": list(self.classes),
        }

    def _check(self) -> None:
        shortest = 2 ** len(self.widths)
        if len(self.input_shape) != 3 or min(self.input_shape[:2]) < shortest:
            raise ValueError(
                f"expected input_shape=(height, width, channels) with sides of at least {shortest} "
                f"for {len(self.widths)} stages, got {self.input_shape}"
            )
        if not self.widths or any(width <= 0 or width % _GROUPS for width in self.widths):
            raise ValueError(f"expected widths that are multiples of {_GROUPS}, got {self.widths}")
        if len(self.classes) != self.num_classes:
            raise ValueError(
                f"expected {self.num_classes} names of classes, got {len(self.classes)}"
            )
        if self.pixel_std <= 0:
            raise ValueError(f"expected a pixel_std above 0, got {self.pixel_std}")


def save_model(model: CNN, directory: str | Path) -> None:
    """Write the model's two files; the directory is made where there is none."""
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "format_version": FORMAT_VERSION, "model": model.config()}
    (root / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: weight.contiguous().cpu() for name, weight in model.state_dict().items()}
    save_file(weights, root / WEIGHTS_FILE)


def load_model(directory: str | Path) -> CNN:
    """The model that `save_model` wrote, in evaluation mode.

    Raises:
        NotFound, InvalidRequest: the directory holds no such model, or a damaged one.
    """
    root = Path(directory)
    try:
        config = json.loads((root / CONFIG_FILE).read_text())
        if (config["format"], config["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise InvalidRequest(
                f"{root} holds a model of format {config['format']} {config['format_version']}; "
                f"this reads {FORMAT} {FORMAT_VERSION}",
                hint="load it with the version of Lepton that saved it",
            )
        model = CNN(**config["model"])
        model.load_state_dict(load_file(root / WEIGHTS_FILE))
    except FileNotFoundError:
        raise NotFound(
            f"{root} holds no model: it needs {CONFIG_FILE} and {WEIGHTS_FILE}",
            hint="make one with leptonai.training.models.save_model(model, DIRECTORY)",
        ) from None
    except InvalidRequest:
        raise
    except Exception as error:  # safetensors and torch raise their own kinds for damaged files
        raise InvalidRequest(
            f"the model in {root} cannot be loaded: {error}", hint="download it again"
        ) from error
    return model.eval()


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, channels_out),
        nn.ReLU(inplace=True),
    ]
