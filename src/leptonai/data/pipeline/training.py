"""Which samples a pipeline may learn from, and which it has learnt from."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leptonai.data.kinds import is_held_out
from leptonai.data.pipeline.saving import FittedOn
from leptonai.data.pipeline.step import Batch, Form
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.data.dataset import Dataset
    from leptonai.data.pipeline.pipeline import Fitted

BATCH = 256  # samples at once, of what is no table
IMAGE_SIZE = (128, 128)  # as the DataLoader has it

_log = logging.getLogger("leptonai.data")


def training_part(dataset: Any) -> Any:
    """What may teach: of a Dataset with parts of its own the part `train`; else all of it.

    Raises:
        InvalidRequest: it is a part that is to examine, or there is nothing to learn from.
    """
    if not is_dataset(dataset):
        return dataset
    if is_held_out(dataset.part):
        raise InvalidRequest(
            f"the part {dataset.part!a} is there to examine: a pipeline does not learn from it",
            hint="fit on the training part",
        )
    splits, of_sample = dataset.records.splits, dataset.records.columns.get("split")
    if splits and of_sample is not None and not dataset.part:
        if "train" not in splits:
            raise InvalidRequest(
                f"the data has the parts {', '.join(filter(None, splits))}, and none to learn from",
                hint="name the samples: pipeline.fit(dataset.only(…))",
            )
        own = of_sample if dataset.chosen is None else of_sample[dataset.chosen]
        train = np.flatnonzero(own == splits.index("train"))
        if len(train) < len(dataset):
            _log.warning("fitted on the part train: %s of %s samples", len(train), len(dataset))
        part = dataset.only(train)
        part.part = "train"
        dataset = part
    if not len(dataset):
        raise InvalidRequest("there are no samples to learn from", hint="check how it was divided")
    return dataset


def is_dataset(dataset: Any) -> bool:
    return hasattr(dataset, "records") and hasattr(dataset, "part")


def fitted_on(part: Any) -> tuple[FittedOn, "NDArray[np.uint8] | None"]:
    """What is remembered of the training samples: which they were, if there were others too."""
    if not is_dataset(part):
        digest = getattr(part, "digest", "")
        length = len(part) if hasattr(part, "__len__") else 0
        return FittedOn(digest=digest if isinstance(digest, str) else "", samples=length), None
    on = FittedOn(
        digest=part.digest,
        records=part.records.digest,
        reference=part.reference,
        part=part.part,
        samples=len(part),
    )
    if part.chosen is None:
        return on, None
    taught = np.zeros(len(part.records), np.bool_)
    taught[part.chosen] = True
    return on, np.packbits(taught)


def taught(fitted: "Fitted", dataset: "Dataset") -> "NDArray[np.bool_] | None":
    """[N]: of each sample, whether the pipeline learnt from it; None if it cannot have."""
    if not fitted.on.records or dataset.records.digest != fitted.on.records:
        return None
    count = len(dataset.records)
    if fitted.members is None:
        return np.ones(len(dataset), np.bool_)
    members = np.unpackbits(fitted.members, count=count).astype(np.bool_)
    return members if dataset.chosen is None else members[dataset.chosen]


def seen_samples(fitted: "Fitted", dataset: Any) -> int:
    if not is_dataset(dataset):
        return 0
    found = taught(fitted, dataset)
    return 0 if found is None else int(found.sum())


def batches_of(part: Any, form: Form, image_size: tuple[int, int] | None) -> Iterator[Batch]:
    """What is no table, in its order: a Dataset's samples, without labels, or an array or list."""
    if is_dataset(part) or hasattr(part, "make"):
        from leptonai.data.loader.batches import source_of

        source = source_of(part, image_size or IMAGE_SIZE, "raise")
        for at in range(0, len(source), BATCH):
            made = source.make(np.arange(at, min(at + BATCH, len(source)))).batch
            yield made[0] if isinstance(made, tuple) else made
        return
    if isinstance(part, tuple):
        part = part[0]
    if not hasattr(part, "__len__") or not hasattr(part, "__getitem__"):
        raise InvalidRequest(
            f"a {type(part).__name__} is no training data for {form}",
            hint="give a Dataset, an array or a list",
        )
    if not len(part):
        raise InvalidRequest("there are no samples to learn from", hint="check how it was divided")
    for at in range(0, len(part), BATCH):
        yield part[at : at + BATCH]
