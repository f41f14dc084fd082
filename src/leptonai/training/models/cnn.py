"""A convolutional network for small images.

Shape letters in this file: B images, H rows, W columns, C channels, K classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks
from leptonai.training.models.images import ImageModel, checked_image_shape
from leptonai.training.models.tasks import Classes
from leptonai.training.parallel import Plan

_GROUPS = 8  # of channels, that are normalised together
_POOLED = 2  # what is left of each side of the image before the last layer


class CNN(ImageModel, format="torch-cnn"):
    """Raw images [B, H, W, C] in, scores of the classes [B, K] out.

    Normalisation inside is by groups of channels of one image: an image's scores do not depend on
    its batch, nor on how many workers trained. Weights begin as torch's layers begin.

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
        self.widths = _checked_widths(widths)
        self.input_shape = checked_image_shape(
            input_shape, 2 ** len(self.widths), f"{len(self.widths)} stages"
        )
        self.classes = checks.class_names(num_classes, classes)
        self.num_classes = num_classes
        self.dropout = checks.share("dropout", dropout)
        checks.scale("pixel", pixel_mean, pixel_std)
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std
        self.task = Classes(num_classes)
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

    def forward(self, images_BHWC: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(self.normalised(images_BHWC)))
        return scores

    def plan(self) -> Plan:
        return Plan(blocks=(self.features, self.head))


def _checked_widths(widths: Sequence[int]) -> tuple[int, ...]:
    if not widths or len(widths) > checks.MAX_LAYERS:
        raise InvalidRequest(f"expected widths of 1 to {checks.MAX_LAYERS} stages, got {widths!r}")
    for width in widths:
        if checks.whole("a width", width, 0, checks.MAX_WIDTH) % _GROUPS or not width:
            raise InvalidRequest(f"expected widths that are multiples of {_GROUPS}, got {widths}")
    return tuple(widths)


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, channels_out),
        nn.ReLU(inplace=True),
    ]
