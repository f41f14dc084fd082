"""How samples become a batch: images decoded, columns picked by number, or one by one.

A batch is an array, or a tuple, list or dict of batches; row i of each array is sample i. Texts
stay a list. Shape letters in this file: N samples, B rows of a batch, H, W, C of an image.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from leptonai.data.decoding import Decoder
from leptonai.data.records import Records
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.data.pipeline import Pipeline

Batch: TypeAlias = Any  # as above: the type of a tree of arrays cannot be written down
OnCorrupt: TypeAlias = Literal["raise", "skip"]

_log = logging.getLogger("leptonai.data")


class Made(NamedTuple):
    batch: Batch
    skipped: int = 0  # corrupt samples that are not in it
    samples: NDArray[np.int64] | None = None  # those that are in it, where some were skipped


class Source(Protocol):
    """Makes batches of the samples it is asked for. Safe for many threads at once."""

    digest: str | None  # equal digests make equal batches; None: nobody knows
    decodes: bool  # whether making a batch is work that other threads can do

    def __len__(self) -> int: ...

    def make(self, at_B: NDArray[np.int64]) -> Made: ...


@runtime_checkable
class Columnar(Protocol):
    """A data set that lies in memory as arrays."""

    def as_columns(self) -> Mapping[str, Any] | tuple[Any, ...]:
        """Arrays of one length, N."""


def source_of(
    dataset: Any,
    image_size: tuple[int, int],
    on_corrupt: OnCorrupt,
    table_pipeline: "Pipeline | None" = None,
) -> Source:
    """The fastest way to batches of this data set.

    Raises:
        InvalidRequest: it is none, or its columns are not of one length.
    """
    if hasattr(dataset, "make") and hasattr(dataset, "decodes"):
        source: Source = dataset
        return source
    if isinstance(dataset, Columnar):
        return Columns(dataset.as_columns())
    if hasattr(dataset, "read") and hasattr(dataset, "labels"):
        return _source_of_records(dataset, image_size, on_corrupt, table_pipeline)
    if isinstance(dataset, Mapping) or (
        isinstance(dataset, tuple) and all(hasattr(each, "shape") for each in dataset)
    ):
        return Columns(dataset)
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        return Samples(dataset)
    raise InvalidRequest(
        f"a {type(dataset).__name__} is not a data set",
        hint="give a Dataset, a dict or tuple of arrays, or anything with len() and [number]",
    )


def _source_of_records(
    records: Any,
    size: tuple[int, int],
    on_corrupt: OnCorrupt,
    table_pipeline: "Pipeline | None",
) -> Source:
    kind = getattr(records, "type", "image classification")
    if kind in ("text", "text classification"):
        return Texts(records)
    if kind in ("tabular", "time series"):
        from leptonai.data.dataset import Dataset
        from leptonai.data.loader.tables import TableRows

        dataset = records if isinstance(records, Dataset) else Dataset(records)
        return TableRows(dataset, table_pipeline)
    return Images(records, size, on_corrupt)


class Images:
    """(images [B, H, W, 3] of uint8, labels [B]), or the images alone where there are no labels."""

    decodes = True

    def __init__(self, records: Records, size: tuple[int, int], on_corrupt: OnCorrupt) -> None:
        self.digest: str | None = records.digest
        self._decode_into = Decoder().decode_into
        self._records = records
        self._labels = records.labels  # which may have to be made each time it is asked for
        self._size = size
        self._on_corrupt = on_corrupt

    def __len__(self) -> int:
        return len(self._records)

    def make(self, at_B: NDArray[np.int64]) -> Made:
        images_BHWC = np.empty((len(at_B), *self._size, 3), np.uint8)
        sound = np.ones(len(at_B), np.bool_)
        for row, data in enumerate(self._records.read(at_B.tolist())):
            try:
                self._decode_into(data, images_BHWC[row])
            except InvalidRequest as error:
                message = f"{self._name(int(at_B[row]))} is {error.message}"
                if self._on_corrupt == "raise":
                    hint = 'take it out, or load with on_corrupt="skip"'
                    raise InvalidRequest(message, hint=hint) from None
                _log.warning("skipped: %s", message)
                sound[row] = False
        skipped = len(sound) - int(sound.sum())
        if skipped:
            images_BHWC, at_B = images_BHWC[sound], at_B[sound]
        batch = images_BHWC if self._labels is None else (images_BHWC, self._labels[at_B])
        return Made(batch, skipped, at_B)

    def _name(self, number: int) -> str:
        """As people know it, where the records do."""
        path_of = getattr(self._records, "path_of", None)
        return f"sample {number} ({path_of(number)})" if path_of else f"sample {number}"


class Texts:
    """(texts, labels [B]), or the texts alone where there are no labels."""

    decodes = False

    def __init__(self, records: Records) -> None:
        self.digest: str | None = records.digest
        self._records = records
        self._labels = records.labels

    def __len__(self) -> int:
        return len(self._records)

    def make(self, at_B: NDArray[np.int64]) -> Made:
        texts = [str(data, "utf-8") for data in self._records.read(at_B.tolist())]
        return Made(texts if self._labels is None else (texts, self._labels[at_B]))


class Columns:
    """A batch has the form of the data set: a dict of arrays, or a tuple of them."""

    digest: str | None = None
    decodes = False

    def __init__(self, columns: Mapping[str, Any] | tuple[Any, ...]) -> None:
        named = columns.items() if isinstance(columns, Mapping) else enumerate(columns)
        self._columns = {name: np.asarray(column) for name, column in named}
        self._is_tuple = not isinstance(columns, Mapping)
        lengths = {name: len(column) for name, column in self._columns.items()}
        if len({*lengths.values()}) != 1:
            raise InvalidRequest(
                f"the columns are of different lengths: {lengths}"
                if lengths
                else "there are no columns",
                hint="each column holds one value a sample",
            )
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def make(self, at_B: NDArray[np.int64]) -> Made:
        picked = {name: column.take(at_B, axis=0) for name, column in self._columns.items()}
        return Made(tuple(picked.values()) if self._is_tuple else picked)


class Samples:
    """Whatever `dataset[number]` gives, stacked: numbers, arrays, texts, and tuples, lists and
    dicts of these."""

    digest: str | None = None
    decodes = False

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def make(self, at_B: NDArray[np.int64]) -> Made:
        return Made(stacked([self._sample(number) for number in at_B.tolist()], at_B))

    def _sample(self, number: int) -> Any:
        try:
            return self._dataset[number]
        except Exception as error:
            error.add_note(f"while reading sample {number}")
            raise


def stacked(samples: Sequence[Any], at_B: NDArray[np.int64]) -> Batch:
    """One batch of B samples of one form.

    Raises:
        InvalidRequest: two of them differ in form or shape; says which.
    """
    first = samples[0]
    for number, sample in zip(at_B.tolist(), samples, strict=True):
        if _form(sample) != _form(first):
            raise InvalidRequest(
                f"sample {number} has the form {_form(sample)}, but sample {at_B[0]} has the form "
                f"{_form(first)}: they do not stack",
                hint="make all samples alike, say by padding or cropping them",
            )
    if isinstance(first, Mapping):
        return {key: stacked([sample[key] for sample in samples], at_B) for key in first}
    if isinstance(first, tuple | list):
        columns = [stacked(column, at_B) for column in zip(*samples, strict=True)]
        return tuple(columns) if isinstance(first, tuple) else columns
    if isinstance(first, str | bytes) or first is None:
        return list(samples)
    return np.stack([np.asarray(sample) for sample in samples])


def _form(sample: Any) -> Any:
    """What must be the same of samples that are stacked."""
    if isinstance(sample, Mapping):
        return tuple(sample)
    if isinstance(sample, tuple | list):
        return f"{type(sample).__name__} of {len(sample)}"
    if isinstance(sample, str | bytes) or sample is None:
        return "text"
    return np.shape(sample)
