"""Labelled images of one size, in memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """N samples: images uint8 [N, H, W, C], labels int64 [N], each the number of a class."""

    images: "NDArray[np.uint8]"
    labels: "NDArray[np.int64]"
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> "tuple[NDArray[np.uint8], int]":
        return self.images[number], int(self.labels[number])

    def as_columns(self) -> "tuple[NDArray[np.uint8], NDArray[np.int64]]":
        """What a DataLoader makes batches of."""
        return self.images, self.labels


class Parts(NamedTuple):
    """As its authors divided it."""

    train: LabelledImages
    test: LabelledImages
