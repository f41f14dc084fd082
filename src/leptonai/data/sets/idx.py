"""MNIST and those that are published in its format, IDX.

An IDX file is two zero bytes, one for the type of the values, one for the number of axes; then the
length of each axis, four bytes, the high one first; then the values.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
"""

import gzip
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from leptonai.data.progress import Steps
from leptonai.data.sets.arrays import LabelledImages, Parts
from leptonai.data.sets.places import fetched, is_address
from leptonai.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNSIGNED_BYTE = 0x08
MAX_AXES = 4
MAX_IDX_BYTES = 1 << 30  # of one file, unpacked
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


class MNIST:
    """Handwritten digits: 60,000 to train on and 10,000 to test with, of 28 x 28 x 1 pixels."""

    name: ClassVar[str] = "mnist"
    url: ClassVar[str] = "https://ossci-datasets.s3.amazonaws.com/mnist"
    sha256: ClassVar[tuple[str, ...]] = (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    )
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")

    @classmethod
    def split(
        cls,
        source: str | Path | None = None,
        *,
        sha256: Sequence[str] | None = None,
        progress: Steps | None = None,
    ) -> Parts:
        """
        Args:
            source: the directory, here or on the web, that holds the four files as they were
                published (here also without ``.gz``); by default the publisher's, which are
                checked against what was published.
            sha256: of the four files at the given address; not checked unless given.

            progress: is told, now and then, what is being done, how many bytes of it are, and of
                how many.

        Raises:
            NotFound, Unavailable: a file is not there, or cannot be fetched.
            InvalidRequest: a file is damaged; says which.
        """
        if source is None:
            source, sha256 = cls.url, cls.sha256
        arrays = [
            read_idx(cls._file(source, name, sha256[number] if sha256 else None, progress))
            for number, name in enumerate(FILES)
        ]
        train, test = cls._part(*arrays[:2]), cls._part(*arrays[2:])
        return Parts(train, test)

    @classmethod
    def _file(
        cls, source: str | Path, name: str, sha256: str | None, progress: Steps | None
    ) -> Path:
        if is_address(source):
            address = f"{str(source).rstrip('/')}/{name}"
            return fetched(cls.name, address, sha256=sha256, progress=progress)
        packed = Path(source) / name
        return packed if packed.exists() else packed.with_suffix("")

    @classmethod
    def _part(cls, images: "NDArray[np.uint8]", labels: "NDArray[np.uint8]") -> LabelledImages:
        import numpy as np

        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise InvalidRequest(
                f"images {list(images.shape)} and labels {list(labels.shape)} do not belong "
                "together: expected [N, H, W] and [N]",
                hint="are all four files of the same data set?",
            )
        if labels.size and labels.max() >= len(cls.classes):
            raise InvalidRequest(
                f"there is a label {labels.max()}, but only {len(cls.classes)} classes",
                hint="is it another data set?",
            )
        return LabelledImages(images[..., np.newaxis], labels.astype(np.int64), cls.classes)


class FashionMNIST(MNIST):
    """Photographs of clothes, in the form of MNIST.

    Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747.
    """

    name = "fashion-mnist"
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    sha256 = (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    )
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )


def read_idx(path: Path) -> "NDArray[np.uint8]":
    """The array of an IDX file of unsigned bytes, packed with gzip or not.

    Raises:
        NotFound: there is no such file.
        InvalidRequest: it is damaged, or of another format.
    """
    import numpy as np

    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_IDX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no {path}", hint="give the directory of the four files") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from None
    axes = data[3] if len(data) >= 4 else 0
    begin = 4 + 4 * axes
    if data[:3] != bytes((0, 0, UNSIGNED_BYTE)) or not 1 <= axes <= MAX_AXES or len(data) < begin:
        raise _damaged(path, "it is not an IDX file of unsigned bytes")
    shape = [int(length) for length in np.frombuffer(data, ">u4", axes, offset=4)]
    if len(data) - begin != prod(shape):
        raise _damaged(path, f"it says {shape}, and holds {len(data) - begin} values")
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)


def _damaged(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(f"{path} cannot be read: {why}", hint="download it again")
