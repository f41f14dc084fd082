"""Checkpoints of a training: after an epoch the model with its optimizer, the history, and how far
the callbacks are. Each is whole or not there.

::

    epoch-000002/
        model.keras
        state.json
        best-0.npz      of an EarlyStopping that restores the best weights
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leptonai.durable import sync
from leptonai.training.keras import callbacks as sorting
from leptonai.training.keras.shipping import MODEL

MOST_OF_THE_TIME = 0.1  # that goes into checkpoints, where epochs are short
_NAME = re.compile(r"epoch-(\d{6,})")


class Kept:
    """How far a training is."""

    def __init__(self, path: Path | None = None) -> None:
        said = json.loads((path / "state.json").read_text()) if path else {}
        self.path = path
        self.epochs: list[int] = said.get("epochs", [])
        self.history: dict[str, list[float]] = said.get("history", {})
        self.stopped: bool = said.get("stopped", False)  # by a callback
        self.states: list[dict[str, Any]] = said.get("states", [])

    @property
    def next_epoch(self) -> int | None:
        return self.epochs[-1] + 1 if self.epochs else None

    def add(self, epoch: int, logs: dict[str, float]) -> None:
        self.epochs.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))


def newest(root: Path | None) -> Kept:
    """One that has no path where there is none."""
    names = [each.name for each in root.iterdir()] if root is not None and root.is_dir() else []
    found = sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)
    return Kept(root / _name_of(found[-1])) if root is not None and found else Kept()


def keeping(
    root: Path | None,
    kept: Kept,
    shipped: Sequence[Any],
    *,
    after: Callable[[int, dict[str, float]], None],
    saved: Callable[[], None],
) -> Any:
    """The callback that keeps what a training has come to.

    Args:
        root: None where another worker writes.
        shipped: the callbacks whose state goes along.
        after: is called at the end of an epoch, when it has been kept.
        saved: is called when there is a new checkpoint.
    """
    import keras

    class Keeping(keras.callbacks.Callback):  # type: ignore[misc]
        due_s = float("-inf")

        def on_train_begin(self, logs: Any = None) -> None:
            """The others have just forgotten all: it comes after them."""
            for at, (callback, state) in enumerate(zip(shipped, kept.states, strict=False)):
                sorting.set_state(callback, state)
                best = kept.path / f"best-{at}.npz" if kept.path else None
                if best is not None and best.exists():
                    with np.load(best, allow_pickle=False) as arrays:
                        callback.best_weights = [arrays[name] for name in arrays.files]

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            metrics = {name: float(value) for name, value in (logs or {}).items()}
            kept.add(epoch, metrics)
            kept.stopped = bool(self.model.stop_training)
            kept.states = [sorting.state_of(each) for each in shipped]
            began_s = time.monotonic()
            last = kept.stopped or epoch + 1 == self.params.get("epochs")
            if root is not None and (began_s >= self.due_s or last):
                _write(root, self.model, kept, shipped)
                ended_s = time.monotonic()
                self.due_s = ended_s + (ended_s - began_s) * (1 / MOST_OF_THE_TIME - 1)
                saved()
            after(epoch, metrics)

    return Keeping()


def _write(root: Path, model: Any, kept: Kept, shipped: Sequence[Any]) -> None:
    target = root / _name_of(kept.epochs[-1])
    beside = root / f".{target.name}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    model.save(beside / MODEL)
    for at, callback in enumerate(shipped):
        best = getattr(callback, "best_weights", None)
        if best is not None:
            # With a place each: their order is that of the model's weights.
            np.savez(beside / f"best-{at}.npz", **{f"{n:06}": each for n, each in enumerate(best)})
    said = {
        "epochs": kept.epochs,
        "history": kept.history,
        "stopped": kept.stopped,
        "states": kept.states,
    }
    (beside / "state.json").write_text(json.dumps(said))
    for file in beside.iterdir():
        sync(file)
    sync(beside)
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)
    sync(root)
    for other in root.iterdir():
        if _NAME.fullmatch(other.name) and other != target:
            shutil.rmtree(other, ignore_errors=True)


def _name_of(epoch: int) -> str:
    return f"epoch-{epoch:06}"
