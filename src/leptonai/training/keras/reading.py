"""What gives batches, a `PyDataset`, a ``tf.data.Dataset``, a generator, as arrays for a job.

A job is sent arrays, so such a source is read here. That means the same only if it would give the
same samples each epoch: one that draws anew (augmentation) is refused, one that shuffles is not.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from leptonai.errors import InvalidRequest
from leptonai.training.keras.dealing import Nest
from leptonai.training.keras.shipping import as_arrays, leaves, size_of

MAX_BYTES = 1 << 30  # of one source
SCRIPT = "put the training into a script, and run that: leptonai train SCRIPT"

Batch: TypeAlias = tuple[Nest, ...]  # (x,), (x, y) or (x, y, sample_weight)


def with_arrays(action: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `fit`, `evaluate` or `predict`, with arrays in the place of sources.

    Raises:
        InvalidRequest: a source has no end, too much, or not the same samples each time.
    """
    found = dict(asked)
    epochs = int(asked.get("epochs", 1)) - int(asked.get("initial_epoch", 0))
    repeats = action == "fit" and epochs > 1
    if is_source(asked.get("x")):
        if taken := [name for name in ("y", "sample_weight", "batch_size") if name in asked]:
            raise InvalidRequest(
                f"x gives batches by itself, so there is no {', '.join(taken)} beside it",
                hint="leave it out",
            )
        if "validation_split" in asked:
            raise InvalidRequest(
                "validation_split needs arrays, and x gives batches", hint="pass validation_data"
            )
        steps = asked.get("steps_per_epoch" if action == "fit" else "steps")
        batches, shuffles = _read(asked["x"], "x", repeats, steps)
        found |= dict(zip(("x", "y", "sample_weight"), _joined(batches, "x"), strict=False))
        found["batch_size"] = _batch_size(batches, "x")
        if action == "predict":
            found = {
                name: each for name, each in found.items() if name not in ("y", "sample_weight")
            }
        elif action == "fit" and not _is_py_dataset(asked["x"]):
            found["shuffle"] = shuffles  # Keras takes the order as it comes
    if is_source(asked.get("validation_data")):
        steps = asked.get("validation_steps")
        batches, _ = _read(asked["validation_data"], "validation_data", repeats, steps)
        found["validation_data"] = _joined(batches, "validation_data")
        found["validation_batch_size"] = _batch_size(batches, "validation_data")
    return found


def is_source(value: Any) -> bool:
    if isinstance(value, Iterator) or _is_py_dataset(value) or hasattr(value, "as_numpy_iterator"):
        return True
    return type(value).__module__.startswith("torch.utils.data")


def _is_py_dataset(value: Any) -> bool:
    import keras

    return isinstance(value, keras.utils.PyDataset)


def _read(source: Any, where: str, repeats: bool, steps: int | None) -> tuple[list[Batch], bool]:
    """Its batches, and whether they come in another order the next time."""
    if repeats and isinstance(source, Iterator):
        raise InvalidRequest(
            f"{where} is a generator, which gives its samples once, and there are several epochs",
            hint="pass arrays, a PyDataset or a tf.data.Dataset, or epochs=1",
        )
    first = [*_bounded(source, where, None if repeats else steps)]
    if not first:
        raise InvalidRequest(f"{where} gives no batch", hint="give it samples")
    if not repeats:
        return first, False
    if _is_py_dataset(source):
        source.on_epoch_end()
    before, after = _digests(first), _digests(_bounded(source, where, None))
    if sorted(before) != sorted(after):
        raise InvalidRequest(
            f"{where} gives other samples each time it is read, and a job would be sent those of "
            "one time",
            hint="augment in layers of the model, or " + SCRIPT,
        )
    return first, before != after


def _bounded(source: Any, where: str, steps: int | None) -> Iterator[Batch]:
    room = MAX_BYTES
    for number, given in enumerate(_batches(source, where)):
        if steps is not None and number >= steps:
            return
        parts = tuple(given) if isinstance(given, tuple | list) else (given,)
        batch = tuple(as_arrays(each, f"a batch of {where}") for each in parts if each is not None)
        size_of(batch, f"a batch of {where}")
        room -= sum(each.nbytes for each in leaves(batch))
        if room < 0:
            raise InvalidRequest(
                f"{where} has no end, or more than the {MAX_BYTES >> 30} GiB that a job is sent",
                hint=f"end it, with .take(…) say; or {SCRIPT}",
            )
        yield batch


def _batches(source: Any, where: str) -> Iterator[Any]:
    if _is_py_dataset(source):
        many = source.num_batches
        if many is None:
            raise InvalidRequest(f"{where} has no length", hint="give it a method __len__")
        return (source[at] for at in range(many))
    if hasattr(source, "as_numpy_iterator"):
        found: Iterator[Any] = source.as_numpy_iterator()
        return found
    return iter(source)


def _joined(batches: list[Batch], where: str) -> Batch:
    try:
        return tuple(_concatenated(parts) for parts in zip(*batches, strict=True))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"the batches of {where} do not fit together: {str(error).splitlines()[0]}",
            hint="let samples of all batches have one shape; or " + SCRIPT,
        ) from None


def _concatenated(parts: tuple[Nest, ...]) -> Nest:
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: _concatenated(tuple(each[name] for each in parts)) for name in first}
    if isinstance(first, list | tuple):
        nests = [_concatenated(each) for each in zip(*parts, strict=True)]
        return tuple(nests) if isinstance(first, tuple) else nests
    return np.concatenate(parts)


def _batch_size(batches: list[Batch], where: str) -> int:
    sizes = [len(next(leaves(batch))) for batch in batches]
    if {*sizes[:-1]} - {sizes[0]} or sizes[-1] > sizes[0]:
        raise InvalidRequest(
            f"{where} gives batches of {min(sizes)} to {max(sizes)} samples",
            hint="let all but the last have as many; or " + SCRIPT,
        )
    return sizes[0]


def _digests(batches: Iterator[Batch] | list[Batch]) -> list[bytes]:
    """Of each sample, in their order."""
    found = []
    for batch in batches:
        arrays = [np.ascontiguousarray(each) for each in leaves(batch)]
        for row in range(len(arrays[0])):
            digest = hashlib.blake2b(digest_size=16)
            for array in arrays:
                digest.update(array[row].tobytes())
            found.append(digest.digest())
    return found
