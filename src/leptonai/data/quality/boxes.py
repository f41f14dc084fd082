"""Boxes of object detection that no image can have. Pure."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from leptonai.data.quality.report import MAX_EXAMPLES, Example, Found

TOLERANCE_PX = 1.0  # annotation tools round


def box_checks(
    boxes_B4: NDArray[np.float32],
    sample_of: NDArray[np.int64],
    sizes_N2: NDArray[np.int64],
    where: Callable[[int], str],
) -> list[Found]:
    """
    Args:
        boxes_B4: left, top, width, height in pixels.
        sample_of: [B]: the image that each is in.
        sizes_N2: width and height of each image; 0 where that is not known.
    """
    total = max(1, len(boxes_B4))
    right_bottom = boxes_B4[:, :2] + boxes_B4[:, 2:]
    size = sizes_N2[sample_of]
    strange = ~np.isfinite(boxes_B4).all(axis=1)
    with np.errstate(invalid="ignore"):
        empty = (boxes_B4[:, 2:] <= 0).any(axis=1) & ~strange
        outside = (boxes_B4[:, :2] < -TOLERANCE_PX).any(axis=1) | (
            right_bottom > size + TOLERANCE_PX
        ).any(axis=1)
    outside &= (size > 0).all(axis=1) & ~strange
    return [
        Found(
            "boxes",
            int(np.count_nonzero(chosen)) / total,
            f"{np.count_nonzero(chosen):,} of {len(boxes_B4):,} boxes {what}",
            hint=hint,
            examples=tuple(
                Example(
                    where(int(sample_of[at])),
                    "["
                    + ", ".join(f"{edge:g}" for edge in boxes_B4[at].tolist())
                    + "]"
                    + f" of {size[at][0]}x{size[at][1]}",
                )
                for at in np.flatnonzero(chosen)[:MAX_EXAMPLES].tolist()
            ),
        )
        for chosen, what, hint in (
            (empty, "are empty", "remove them, or draw them again"),
            (outside, "reach out of their image", "cut them, and see that images were not resized"),
            (strange, "are no finite numbers", "remove them, or draw them again"),
        )
    ]
