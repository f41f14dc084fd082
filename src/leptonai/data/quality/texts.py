"""Texts as the gates see them: what they say, whatever their case and spaces, and how long."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leptonai.data.quality.near import Indices, bands, near_pairs
from leptonai.data.quality.reading import each_sample
from leptonai.data.quality.report import MAX_EXAMPLES, Example, Found
from leptonai.data.split import mixed

if TYPE_CHECKING:
    from leptonai.data.dataset import Dataset
    from leptonai.data.progress import Progress
    from leptonai.data.quality.frames import Frame
    from leptonai.data.records import Bytes

SHINGLE_BYTES = 8
SIGNATURE = 64  # numbers of each text
BAND_ROWS = 4  # 16 bands: texts that share half are compared in 2 of 3 cases, those of 0.8 always
NEAR_SHARE = 0.8  # of the shingles that near texts have in common
MAX_LOOKED_AT_BYTES = 1 << 20  # of one text


def signature(text: str) -> NDArray[np.uint16]:
    """[64]: MinHash of the text's runs of eight bytes. Two texts agree in as many of its numbers
    as they have runs in common, of all that either has.

    Source: Broder 1997, "On the resemblance and containment of documents"; by one hash whose
        values are shared out (Li, Owen, Zhang 2012), and places left empty filled from the next
        (Shrivastava, Li 2014).
    """
    data = " ".join(text.casefold().split()).encode(errors="replace")[:MAX_LOOKED_AT_BYTES]
    data = data.ljust(SHINGLE_BYTES)
    count = len(data) - SHINGLE_BYTES + 1
    shingles = np.ndarray((count,), "<u8", data, strides=(1,))
    drawn = np.sort(mixed(shingles.astype(np.uint64), 0))
    places, first = np.unique(drawn >> np.uint64(58), return_index=True)
    least = (drawn[first] & np.uint64(0xFFFF)).astype(np.uint16)
    at = np.searchsorted(places, np.arange(SIGNATURE, dtype=np.uint64)) % len(places)
    found: NDArray[np.uint16] = least[at]
    return found


def near_texts(
    signatures_NK: NDArray[np.uint16], contents: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], bool]:
    """Pairs [P, 2] that have at least `NEAR_SHARE` in common; and whether all were looked for. Of
    equal contents the first one stands for all."""
    chosen = np.sort(np.unique(contents, return_index=True)[1])
    kept = signatures_NK[chosen]

    def same(one: Indices, other: Indices) -> NDArray[np.bool_]:
        near: NDArray[np.bool_] = (kept[one] == kept[other]).mean(axis=1) >= NEAR_SHARE
        return near

    pairs, complete = near_pairs(bands(kept, BAND_ROWS), same)
    return chosen[pairs], complete


def signatures(texts: Iterable[str], count: int) -> NDArray[np.uint16]:
    """[count, 64]: 128 bytes of each text."""
    found = np.zeros((count, SIGNATURE), np.uint16)
    for at, text in enumerate(texts):
        found[at] = signature(text)
    return found


def look_at_texts(
    dataset: "Dataset", progress: "Progress | None" = None
) -> tuple[NDArray[np.uint64], NDArray[np.uint16], NDArray[np.float64], NDArray[np.bool_]]:
    """Of texts that are files: digests, signatures, lengths in characters, and whether any of
    them was lost."""
    count = len(dataset)
    digests, found = np.zeros(count, np.uint64), np.zeros((count, SIGNATURE), np.uint16)
    lengths, lost = np.zeros(count), np.zeros(count, bool)

    def look(data: "Bytes") -> tuple[int, NDArray[np.uint16], int, bool]:
        text = bytes(data).decode(errors="replace")
        digest = hashlib.blake2b(data, digest_size=8).digest()
        damaged = "\ufffd" in text or "\0" in text
        return int.from_bytes(digest, "little"), signature(text), len(text), damaged

    for at, seen in each_sample(dataset, look, progress):
        digests[at], found[at], lengths[at], lost[at] = seen
    return digests, found, lengths, lost


def encoding_check(lost: NDArray[np.bool_], where: Callable[[int], str]) -> Found:
    """
    Args:
        lost: [N]: whether a text has characters that somebody could not read before.
    """
    count = int(np.count_nonzero(lost))
    return Found(
        "encoding",
        count / max(1, len(lost)),
        f"{count:,} of {len(lost):,} texts have lost characters (\ufffd or NUL)",
        hint="save the source again as UTF-8",
        examples=tuple(Example(where(at)) for at in np.flatnonzero(lost)[:MAX_EXAMPLES].tolist()),
    )


def texts_of(frame: "Frame", column: str) -> Iterator[str]:
    """One column of texts, piece by piece."""
    import polars as pl

    lazy = frame.lazy.select(pl.col(column).fill_null(""))
    for batch in lazy.collect_batches(engine="streaming", maintain_order=True):
        yield from batch[column]
