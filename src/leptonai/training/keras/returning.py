"""What a job has come to, put where the caller expects it."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leptonai.training.keras import callbacks as sorting
from leptonai.training.keras.dealing import Nest
from leptonai.training.keras.shipping import ARRAYS, MODEL, unpack

if TYPE_CHECKING:
    from leptonai.client import LeptonClient


@contextmanager
def fetched(client: "LeptonClient", digest: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The directory that a worker has sent, and what it says."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "result"
        client.trees.pull(digest, folder)
        yield folder, json.loads((folder / "result.json").read_text())


def set_weights(model: Any, folder: Path) -> None:
    """Weights and the state of the optimizer, learning rate included."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.load_weights(folder / MODEL)


def set_states(shipped: Sequence[Any], states: Sequence[dict[str, Any]]) -> None:
    """So that `stopping.stopped_epoch` can be looked at, as after a training here."""
    for callback, state in zip(shipped, states, strict=True):
        sorting.set_state(callback, state)


def predicted(client: "LeptonClient", digests: Sequence[str]) -> Nest:
    """The stretches of all workers, in their order, as one."""
    found = []
    for digest in digests:
        with fetched(client, digest) as (folder, said):
            if said["predicted"] is not None:
                found.append(_in_memory(unpack(said["predicted"], folder / ARRAYS)))
    return _joined(found)


def _in_memory(nest: Nest) -> Nest:
    """The files go."""
    if isinstance(nest, dict):
        return {name: _in_memory(each) for name, each in nest.items()}
    if isinstance(nest, list | tuple):
        return type(nest)(_in_memory(each) for each in nest)
    return np.array(nest)


def _joined(nests: Sequence[Nest]) -> Nest:
    first = nests[0]
    if isinstance(first, dict):
        return {name: _joined([each[name] for each in nests]) for name in first}
    if isinstance(first, list | tuple):
        return type(first)(_joined(each) for each in zip(*nests, strict=True))
    return np.concatenate(nests)
