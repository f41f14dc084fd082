"""The UCI handwritten digits as scikit-learn ships them: 1,797 real images of 8x8 pixels.

As a tree of files::

    dataset.json    what it is
    images.npy      uint8 [N, 8, 8], 0 (paper) to 16 (ink)
    labels.npy      int64 [N]
    ids.npy         int64 [N]: a sample keeps its id wherever it goes

Equal samples make equal bytes, so that a dataset which has not changed has the same digest.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonai.data.split import split
from leptonai.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from leptonai.data.sets.arrays import Parts

FORMAT = "digits"  # of the tree, as a dataset's record says it
IMAGE_SHAPE = (8, 8)
MAX_PIXEL = 16
HELD_OUT = 0.2
CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
SOURCE = "UCI Optical Recognition of Handwritten Digits (test part), as shipped by scikit-learn"


@dataclass(frozen=True, slots=True)
class Digits:
    """N samples: images [N, 8, 8], labels [N], ids [N]."""

    images: "NDArray[np.uint8]"
    labels: "NDArray[np.int64]"
    ids: "NDArray[np.int64]"

    @classmethod
    def load(cls) -> "Digits":
        """From scikit-learn; nothing is downloaded."""
        import numpy as np
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return cls(
            images=bunch.images.astype(np.uint8),
            labels=bunch.target.astype(np.int64),
            ids=np.arange(len(bunch.target), dtype=np.int64),
        )

    @classmethod
    def split(cls, *, seed: int = 0, held_out: float = HELD_OUT) -> "Parts":
        """What to train on and what to test with, as the other ready-made sets have it: of every
        class the same share is held out, by the ids alone."""
        from leptonai.data.sets.arrays import LabelledImages, Parts

        digits = cls.load()
        parts = split(digits.ids.tolist(), digits.labels.tolist(), seed=seed, held_out=held_out)
        train, test = (
            LabelledImages(*digits.only(ids).as_columns(), CLASSES)
            for ids in (parts.train, parts.held_out)
        )
        return Parts(train, test)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def read(cls, directory: str | Path) -> "Digits":
        """From a tree that `write` made. Nothing in it is run.

        Raises:
            NotFound, InvalidRequest: the directory holds no digits, or not consistent ones.
        """
        import numpy as np

        root = Path(directory)
        try:
            description = json.loads((root / "dataset.json").read_text())
            arrays: dict[str, Any] = {
                name: np.load(root / f"{name}.npy", allow_pickle=False)
                for name in ("images", "labels", "ids")
            }
        except FileNotFoundError as error:
            raise NotFound(
                f"{root} is not a digits dataset: there is no {Path(error.filename).name}",
                hint="write one with leptonai.data.digits.Digits.load().write(DIRECTORY)",
            ) from None
        except ValueError as error:
            raise InvalidRequest(f"{root} holds a file that cannot be read: {error}") from None
        count = len(arrays["ids"])
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        expected = {"images": [count, *IMAGE_SHAPE], "labels": [count], "ids": [count]}
        if description.get("format") != FORMAT or shapes != expected:
            raise InvalidRequest(
                f"{root} is not a digits dataset: expected the shapes {expected}, got {shapes} "
                f"and the format {description.get('format')!r}"
            )
        return cls(**arrays)

    def write(self, directory: str | Path) -> None:
        import numpy as np

        root = Path(directory)
        root.mkdir(parents=True, exist_ok=True)
        for name, array in self.arrays().items():
            np.save(root / f"{name}.npy", array, allow_pickle=False)
        text = json.dumps(self.description(), indent=2, sort_keys=True)
        (root / "dataset.json").write_text(text + "\n")

    def arrays(self) -> dict[str, Any]:
        return {"images": self.images, "labels": self.labels, "ids": self.ids}

    def as_columns(self) -> "tuple[NDArray[np.uint8], NDArray[np.int64]]":
        """Images [N, 8, 8, 1] and labels [N]: what a DataLoader makes batches of."""
        return self.images[..., None], self.labels

    def description(self) -> dict[str, Any]:
        """What it is, for people and programs."""
        counts = {name: int((self.labels == label).sum()) for label, name in enumerate(CLASSES)}
        return {
            "name": "digits",
            "format": FORMAT,
            "classes": list(CLASSES),
            "shape": [*IMAGE_SHAPE, 1],
            "max_pixel": MAX_PIXEL,
            "count": len(self.ids),
            "counts": counts,
            "source": SOURCE,
        }

    def only(self, ids: "NDArray[np.int64] | tuple[int, ...]") -> "Digits":
        """The samples with these ids, in this order.

        Raises:
            KeyError: there is no sample with such an id.
        """
        row_of = {int(sample): row for row, sample in enumerate(self.ids)}
        rows = [row_of[int(sample)] for sample in ids]
        return Digits(self.images[rows], self.labels[rows], self.ids[rows])
