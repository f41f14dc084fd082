"""CIFAR-10, from its binary version.

A file is records of one byte for the class and 3,072 for the pixels: all red ones row by row, then
the green, then the blue.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from leptonai.data.progress import Steps
from leptonai.data.sets.arrays import LabelledImages, Parts
from leptonai.data.sets.places import Published, unpacked
from leptonai.errors import InvalidRequest, NotFound

SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)


class CIFAR10:
    """Photographs of ten kinds of things: 50,000 to train on and 10,000 to test with, of 32 x 32 x
    3 pixels.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
    """

    published: ClassVar[Published] = Published(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    )
    classes: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )

    @classmethod
    def split(
        cls,
        source: str | Path | None = None,
        *,
        sha256: str | None = None,
        progress: Steps | None = None,
    ) -> Parts:
        """
        Args:
            source: a directory with the ``.bin`` files, the archive, or an address of it; by
                default the publisher's, which is checked against what was published.
            sha256: of the archive at the given address; not checked unless given.

            progress: is told, now and then, what is being done, how many bytes of it are, and of
                how many.

        Raises:
            NotFound, Unavailable: it is not there, or cannot be fetched.
            InvalidRequest: a file is damaged, or of the version that is pickled; says which.
        """
        root = unpacked("cifar-10", source, cls.published, sha256=sha256, progress=progress)
        return Parts(cls._part(root, TRAIN_FILES), cls._part(root, TEST_FILES))

    @classmethod
    def _part(cls, root: Path, names: Sequence[str]) -> LabelledImages:
        import numpy as np

        data = b"".join(_read(root, name, len(cls.classes)) for name in names)
        records = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
        by_channel = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
        images = np.ascontiguousarray(by_channel.transpose(0, 2, 3, 1))
        return LabelledImages(images, records[:, 0].astype(np.int64), cls.classes)


def _read(root: Path, name: str, classes: int) -> bytes:
    path = next((each / name for each in (root, *_folders(root)) if (each / name).exists()), None)
    if path is None:
        pickled = [each for each in (root, *_folders(root)) if (each / "data_batch_1").exists()]
        if pickled:
            raise InvalidRequest(
                f"{pickled[0]} holds the Python version, which is pickled: reading it would run "
                "whatever it says",
                hint=f"get the binary version: {CIFAR10.published.url}",
            )
        raise NotFound(f"there is no {name} in {root}", hint="give the directory of the .bin files")
    data = path.read_bytes()
    if not data or len(data) % RECORD_BYTES or max(data[::RECORD_BYTES]) >= classes:
        raise InvalidRequest(
            f"{path} is not a file of CIFAR-10: expected records of {RECORD_BYTES} bytes that "
            f"begin with a class below {classes}, found {len(data)} bytes",
            hint="download it again",
        )
    return data


def _folders(root: Path) -> list[Path]:
    return sorted(each for each in root.iterdir() if each.is_dir())
