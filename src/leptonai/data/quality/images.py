"""Images as the gates see them: whole or not, how large, how bright, and what they look like."""

import hashlib
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leptonai.data.decoding import JPEG_MAGIC, OTHER_FORMATS, Decoder
from leptonai.data.quality.drift import Profile
from leptonai.data.quality.near import Indices, bits_between, hamming_keys, near_pairs
from leptonai.data.quality.reading import each_sample, threads
from leptonai.data.quality.report import MAX_EXAMPLES, Example, Found, shortened
from leptonai.data.records import Bytes
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.data.dataset import Dataset
    from leptonai.data.progress import Progress

SEEN_PX = 64  # an image is looked at in this size: libjpeg leaves out the work for the rest
THUMB_PX = 8
NEAR_BITS = 4  # of 64 that may differ
NEAR_LEVELS = 8.0  # of 255, that thumbnails may differ by on average


class _Look(NamedTuple):
    digest: int
    wrong: str  # why it cannot be decoded; "" if it can
    width: int
    height: int
    brightness: float
    contrast: float
    hash: int
    thumb: bytes


@dataclass(frozen=True)
class Pictures:
    """Of each of N images."""

    digests: NDArray[np.uint64]
    sizes: NDArray[np.int64]  # [N, 2]: width, height; 0 of those that cannot be decoded
    brightness: NDArray[np.float64]  # mean, of 0 to 255
    contrast: NDArray[np.float64]  # standard deviation
    hashes: NDArray[np.uint64]
    thumbs: NDArray[np.uint8]  # [N, 64]
    wrong: dict[int, str]
    took_s: float

    def __len__(self) -> int:
        return len(self.digests)


def look_at_images(dataset: "Dataset", progress: "Progress | None" = None) -> Pictures:
    """Decode every image. 100 bytes are kept of each."""
    began = time.perf_counter()
    look = _Looker()
    count = len(dataset)
    pictures = Pictures(
        np.zeros(count, np.uint64),
        np.zeros((count, 2), np.int64),
        np.zeros(count),
        np.zeros(count),
        np.zeros(count, np.uint64),
        np.zeros((count, THUMB_PX * THUMB_PX), np.uint8),
        {},
        0.0,
    )
    for at, seen in each_sample(dataset, look, progress):
        pictures.digests[at] = seen.digest
        if seen.wrong:
            pictures.wrong[at] = seen.wrong
            continue
        pictures.sizes[at] = seen.width, seen.height
        pictures.brightness[at], pictures.contrast[at] = seen.brightness, seen.contrast
        pictures.hashes[at] = seen.hash
        pictures.thumbs[at] = np.frombuffer(seen.thumb, np.uint8)
    return Pictures(**{**vars(pictures), "took_s": time.perf_counter() - began})


def rate_note(pictures: Pictures) -> str:
    rate = len(pictures) / max(1e-9, pictures.took_s)
    return (
        f"{len(pictures):,} images decoded in {pictures.took_s:.1f} s: {rate:,.0f} a second "
        f"by {threads()} threads"
    )


def corrupt_check(pictures: Pictures, dataset: "Dataset") -> Found:
    total, wrong = len(pictures), pictures.wrong
    return Found(
        "corrupt",
        len(wrong) / total,
        f"{len(wrong):,} of {total:,} images cannot be decoded",
        hint="fetch them again, or leave them out; training would stop at them",
        examples=tuple(
            Example(dataset.path_of(at), shortened(wrong[at])) for at in [*wrong][:MAX_EXAMPLES]
        ),
    )


def near_images(pictures: Pictures) -> tuple[NDArray[np.int64], bool]:
    """Pairs [P, 2] of images that look alike; and whether all were looked for.

    Alike: hashes that differ in at most `NEAR_BITS` bits, and thumbnails that differ by less than
    `NEAR_LEVELS`; for to the hash all plain areas are one.
    """
    whole = np.array([at not in pictures.wrong for at in range(len(pictures))], bool)
    # Equal bytes look alike, too: one of each is compared.
    _, first = np.unique(pictures.digests, return_index=True)
    chosen = np.sort(first[whole[first]])
    hashes, thumbs = pictures.hashes[chosen], pictures.thumbs[chosen].astype(np.int16)

    def same(one: Indices, other: Indices) -> NDArray[np.bool_]:
        near = bits_between(hashes[one], hashes[other]) <= NEAR_BITS
        at = np.flatnonzero(near)
        far = np.abs(thumbs[one[at]] - thumbs[other[at]]).mean(axis=1) >= NEAR_LEVELS
        near[at[far]] = False
        return near

    pairs, complete = near_pairs(hamming_keys(hashes, NEAR_BITS), same)
    return chosen[pairs], complete


def profile_of_images(pictures: Pictures) -> Profile:
    whole = pictures.sizes[:, 0] > 0
    sizes = pictures.sizes[whole].astype(np.float64)
    return Profile(
        numbers={
            "width": sizes[:, 0],
            "height": sizes[:, 1],
            "brightness": pictures.brightness[whole],
            "contrast": pictures.contrast[whole],
        },
        rows=len(pictures),
    )


class _Looker:
    def __init__(self) -> None:
        import cv2
        import simplejpeg

        self._decoder = Decoder()
        self._cv2: Any = cv2
        self._jpeg: Any = simplejpeg

    def __call__(self, data: Bytes) -> _Look:
        digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        image = np.empty((SEEN_PX, SEEN_PX, 3), np.uint8)
        try:
            self._decoder.decode_into(data, image)
            width, height = self._size(data)
        except InvalidRequest as wrong:
            return _Look(digest, wrong.message, 0, 0, 0.0, 0.0, 0, b"")
        gray = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY)
        thumb = self._cv2.resize(gray, (THUMB_PX, THUMB_PX), interpolation=self._cv2.INTER_AREA)
        return _Look(
            digest, "", width, height, float(gray.mean()), float(gray.std()),
            self._hash(gray), thumb.tobytes(),
        )  # fmt: skip

    def _hash(self, gray: NDArray[np.uint8]) -> int:
        """64 bits: whether it grows darker from each of 9 × 8 places to the next.

        Source: Krawetz 2013, "Kind of Like That" (dHash).
        """
        small = self._cv2.resize(gray, (9, 8), interpolation=self._cv2.INTER_AREA)
        bits = np.packbits(small[:, :-1] > small[:, 1:])
        return int.from_bytes(bits.tobytes(), "big")

    def _size(self, data: Bytes) -> tuple[int, int]:
        from PIL import Image

        if data[:3] == JPEG_MAGIC:
            try:
                height, width, _, _ = self._jpeg.decode_jpeg_header(data)
                return int(width), int(height)
            except ValueError:
                pass  # what Pillow has read all the same
        with Image.open(io.BytesIO(data), formats=OTHER_FORMATS) as image:
            return image.width, image.height
