"""Residual networks for images.

Shape letters in this file: B images, H rows, W columns, C channels, K classes.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks
from leptonai.training.models.images import ImageModel, checked_image_shape
from leptonai.training.models.tasks import Classes
from leptonai.training.parallel import Plan

_GROUPS = 8  # of channels, that are normalised together
_SMALL_SIDE = 64  # images up to it keep their size in the stem
_STAGE_WIDTHS = (64, 128, 256, 512)
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # of each stage, by depth
_WIDER = 4  # what a bottleneck gives, as a multiple of what is inside

_Norm = Callable[[int], nn.GroupNorm | nn.BatchNorm2d]


class ResNet(ImageModel, format="torch-resnet"):
    """Raw images [B, H, W, C] in, scores of the classes [B, K] out.

    Convolutions begin as Kaiming's normal ones (fan out), the last normalisation of each block at
    0, so that every block begins as the identity.

    Args:
        input_shape: (H, W, C) of an image.
        num_classes: K.
        depth: 18 or 34 with plain blocks, 50 with bottlenecks.
        stem: "large" halves the image twice before the first block, "small" does not; by default
            the latter for sides up to 64.
        norm: "group" looks at one image alone; "batch" at the whole batch while training, and wants
            large ones.
        width: channels of the first stage, a multiple of 8; published ones have 64.
        pixel_mean, pixel_std: of the raw pixels.
        classes: their names.

    Source: He et al. 2015, arXiv:1512.03385; the stride of a bottleneck is in its 3x3 convolution,
        as in torchvision. Goyal et al. 2017, arXiv:1706.02677, for the normalisation at 0.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        depth: int = 18,
        stem: str | None = None,
        norm: str = "group",
        width: int = 64,
        pixel_mean: float = 0.0,
        pixel_std: float = 1.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise InvalidRequest(f"expected depth to be one of 18, 34, 50, got {depth!r}")
        self.depth = depth
        self.input_shape = checked_image_shape(input_shape, 8, "three halvings")
        small = min(self.input_shape[:2]) <= _SMALL_SIDE
        self.stem = checks.choice(
            "stem", stem or ("small" if small else "large"), ("small", "large")
        )
        self.norm = checks.choice("norm", norm, ("group", "batch"))
        if checks.whole("width", width, 8, checks.MAX_WIDTH) % _GROUPS:
            raise InvalidRequest(f"expected a width that is a multiple of {_GROUPS}, got {width}")
        self.width = width
        self.classes = checks.class_names(num_classes, classes)
        self.num_classes = num_classes
        checks.scale("pixel", pixel_mean, pixel_std)
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std
        self.task = Classes(num_classes)

        normalise: _Norm = nn.BatchNorm2d if norm == "batch" else _group_norm
        self.first = nn.Sequential(*_stem(self.input_shape[2], width, self.stem, normalise))
        block = _Bottleneck if depth >= 50 else _Plain
        channels = width
        stages: list[nn.Sequential] = []
        for stage, count in enumerate(_BLOCKS[depth]):
            inside = width * _STAGE_WIDTHS[stage] // _STAGE_WIDTHS[0]
            blocks: list[nn.Module] = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                blocks.append(block(channels, inside, stride, normalise))
                channels = inside * block.wider
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        self._begin()

    def forward(self, images_BHWC: Tensor) -> Tensor:
        features = self.stages(self.first(self.normalised(images_BHWC)))
        scores: Tensor = self.head(self.pool(features).flatten(1))
        return scores

    def plan(self) -> Plan:
        return Plan(
            blocks=[block for stage in self.stages.children() for block in stage.children()]
        )

    def _begin(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, _Plain | _Bottleneck):
                nn.init.zeros_(module.last_norm.weight)


def _stem(channels: int, width: int, size: str, norm: _Norm) -> list[nn.Module]:
    if size == "small":
        return [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
        ]
    return [
        nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
        norm(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]


class _Plain(nn.Module):
    wider = 1
    last_norm: nn.GroupNorm | nn.BatchNorm2d

    def __init__(self, channels: int, width: int, stride: int, norm: _Norm) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )
        self.last_norm = norm(width)
        self.beside = _shortcut(channels, width, stride, norm)

    def forward(self, features: Tensor) -> Tensor:
        summed: Tensor = self.last_norm(self.inside(features)) + self.beside(features)
        return summed.relu_()


class _Bottleneck(nn.Module):
    wider = _WIDER
    last_norm: nn.GroupNorm | nn.BatchNorm2d

    def __init__(self, channels: int, width: int, stride: int, norm: _Norm) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width * _WIDER, 1, bias=False),
        )
        self.last_norm = norm(width * _WIDER)
        self.beside = _shortcut(channels, width * _WIDER, stride, norm)

    def forward(self, features: Tensor) -> Tensor:
        summed: Tensor = self.last_norm(self.inside(features)) + self.beside(features)
        return summed.relu_()


def _shortcut(channels: int, width: int, stride: int, norm: _Norm) -> nn.Module:
    if stride == 1 and channels == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), norm(width))


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels)
