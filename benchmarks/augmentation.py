"""Augmenting images of 128 x 128: the CPU time of one, beside what albumentations takes.

    python -m benchmarks.augmentation [--images 512]

Prints JSON: rows of what and microseconds of CPU time for an image, in turns, the best of each. A
peer that is not installed is left out: ``uv run --with albumentations``.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec

import cv2
import numpy as np
from numpy.typing import NDArray

from leptonai.data.chance import Chance
from leptonai.data.pipeline.images.colour import Colour, CutOut, NormaliseImages
from leptonai.data.pipeline.images.geometry import Flip, Moves, RandomCrop, Rotate, Shift, Zoom
from leptonai.data.pipeline.step import Learnt, Step

SIDE = 128
BATCH = 64
TURNS = 7

Images = NDArray[np.uint8]
Augment = Callable[[Images], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    noise = np.random.default_rng(0).integers(0, 256, (given.images, SIDE, SIDE, 3), np.uint8)
    images = np.stack([cv2.GaussianBlur(image, (9, 9), 2) for image in noise])
    rivals = ours() | (peers() if find_spec("albumentations") else {})
    best = dict.fromkeys(rivals, float("inf"))
    for _ in range(TURNS):
        for name, augment in rivals.items():
            begun = time.process_time()
            for at in range(0, len(images), BATCH):
                augment(images[at : at + BATCH])
            best[name] = min(best[name], time.process_time() - begun)
    rows = [
        {"what": name, "us_per_image": round(seconds / len(images) * 1e6, 1)}
        for name, seconds in best.items()
    ]
    print(json.dumps(rows, indent=1))


def ours() -> dict[str, Augment]:
    geometry = (Flip(), Rotate(15), Shift(0.1, 0.1), Zoom(0.9, 1.1))
    moves, colour, cut = Moves(steps=geometry), Colour(0.2, 0.2, 0.2, 0.05), CutOut()
    normalise = NormaliseImages(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))

    def chain(*steps: Step) -> Augment:
        def augment(images: Images) -> object:
            chance = Chance(np.arange(len(images)), seed=1, epoch=0)
            for step in steps:
                images = step.transform(images, Learnt(), chance)
            return images

        return augment

    return {
        "flip, rotate, shift, zoom as one warp": chain(moves),
        "… one after the other": chain(*geometry),
        "colour: brightness, contrast, saturation, hue": chain(colour),
        "cut out": chain(cut),
        "normalise": chain(normalise),
        "pad, crop, flip": chain(Moves(steps=(Flip(), RandomCrop(SIDE, SIDE, 8)))),
        "geometry, colour, cut out": chain(moves, colour, cut),
        "geometry, colour, cut out, normalise": chain(moves, colour, cut, normalise),
    }


def peers() -> dict[str, Augment]:
    import albumentations as alb

    reflect = cv2.BORDER_REFLECT_101
    flip = alb.HorizontalFlip(p=0.5)
    affine = alb.Affine(
        rotate=(-15, 15),
        translate_percent=(-0.1, 0.1),
        scale=(0.9, 1.1),
        p=1,
        border_mode=reflect,
    )
    by = (0.8, 1.2)
    colour = alb.ColorJitter(brightness=by, contrast=by, saturation=by, hue=(-0.05, 0.05), p=1)
    cut = alb.CoarseDropout(
        num_holes_range=(1, 1),
        hole_height_range=(0.25, 0.25),
        hole_width_range=(0.25, 0.25),
        fill=128,
        p=1,
    )
    crop = [alb.Pad(8, p=1, border_mode=reflect), alb.RandomCrop(SIDE, SIDE, p=1)]

    def chain(*steps: object) -> Augment:
        composed = alb.Compose(list(steps))
        return lambda images: np.stack([composed(image=image)["image"] for image in images])

    return {
        "albumentations: flip, affine": chain(flip, affine),
        "albumentations: colour": chain(colour),
        "albumentations: cut out": chain(cut),
        "albumentations: normalise": chain(alb.Normalize()),
        "albumentations: pad, crop, flip": chain(flip, *crop),
        "albumentations: geometry, colour, cut out": chain(flip, affine, colour, cut),
        "albumentations: … and normalise": chain(flip, affine, colour, cut, alb.Normalize()),
    }


if __name__ == "__main__":
    main()
