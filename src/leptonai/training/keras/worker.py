"""The job's program: ``python -m leptonai.training.keras.worker DIRECTORY``.

Every worker runs Keras's own `fit`, `evaluate` or `predict`; worker 0 prints the bar, keeps
checkpoints, and says in the log what came of it.
"""

import importlib
import json
import os
import random
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from leptonai.errors import InvalidRequest, LeptonError, RequestError
from leptonai.spec.jobs import FINAL_EXIT_CODE
from leptonai.training.exits import exit_code_of
from leptonai.training.keras import callbacks as sorting
from leptonai.training.keras.dealing import Dealing, Nest, part_of, steps_of, taken
from leptonai.training.keras.keeping import Kept, keeping, newest
from leptonai.training.keras.messages import Message, of_error
from leptonai.training.keras.printing import BarAsLines
from leptonai.training.keras.shipping import ARRAYS, CODE, MODEL, TASK, Task, pack, unpack
from leptonai.training.keras.together import Peers, join, meet

# The same again would end the same: nobody needs to try. Others may come of a peer that died.
FINAL = (RequestError, ValueError, TypeError, LookupError, ArithmeticError, ImportError)


def main(directory: Path) -> int:
    tell = _teller(sys.stdout)
    try:
        _run(directory, tell)
    except Exception as error:
        traceback.print_exc()
        alone = os.environ.get("WORLD_SIZE", "1") == "1"
        if isinstance(error, LeptonError):
            tell(of_error(error))
            return exit_code_of(error)
        if alone or isinstance(error, FINAL):
            said = str(error).strip().splitlines() or [""]
            tell(of_error(InvalidRequest(f"{type(error).__name__}: {said[0]}")))
            return FINAL_EXIT_CODE
        return 1
    return 0


def _teller(out: Any) -> Callable[[Message], None]:
    def tell(message: Message) -> None:
        out.write(f"{message.line()}\n")
        out.flush()

    return tell


def _run(directory: Path, tell: Callable[[Message], None]) -> None:
    task = msgspec.json.decode((directory / TASK).read_bytes(), type=Task)
    sys.path.insert(0, str((directory / CODE).resolve()))
    peers = meet(os.environ["KERAS_BACKEND"])
    import keras

    keras.config.set_floatx(task.floatx)
    keras.config.set_image_data_format(task.image_data_format)
    if peers.rank == 0:
        sys.stdout = BarAsLines(sys.stdout)
    for module in task.modules:
        _import(module)
    root = os.environ.get("LEPTON_CHECKPOINT_DIR")
    kept = newest(Path(root) if root else None) if task.action == "fit" else Kept()
    kept = _agreed(kept, peers, Path(root) if root else None)
    # Each worker draws its own noise, and after a restart not that of the epochs before.
    keras.utils.set_random_seed(
        random.Random(f"{task.seed} {peers.rank} {kept.next_epoch}").getrandbits(31)  # noqa: S311
    )
    model = _read(kept.path or directory, task)
    data = unpack(task.data, directory / ARRAYS)
    tell(Message("begin", {}))
    with tempfile.TemporaryDirectory() as made:
        out = Path(made)
        if task.action == "fit":
            validation = unpack(task.validation, directory / ARRAYS)
            result = _fit(task, model, peers, data, validation, kept, root, tell)
            if peers.rank == 0:
                model.save(out / MODEL)
        elif task.action == "evaluate":
            result = _evaluate(task, model, peers, data)
        else:
            result = _predict(task, model, peers, data, out)
        peers.leave()
        if peers.rank == 0 or task.action == "predict":
            (out / "result.json").write_text(json.dumps(result))
            tell(Message("result", _send(task, out, result)))


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as missing:
        raise InvalidRequest(
            f"the model needs {module}, which cannot be imported in the job: {missing}",
            hint="install it where the workers run",
        ) from missing


def _read(folder: Path, task: Task) -> Any:
    import keras

    try:
        with warnings.catch_warnings():
            if task.action != "fit":  # of a model that never trained the optimizer is not built
                warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model = keras.saving.load_model(folder / MODEL, safe_mode=True)
    except Exception as error:
        raise InvalidRequest(
            f"the model, written by Keras {task.keras}, cannot be read by Keras "
            f"{keras.__version__} in the job: {str(error).strip().splitlines()[0]}",
            hint="install the same version on both sides",
        ) from error
    if task.action != "predict" and not model.compiled:
        raise InvalidRequest(
            "the model is not compiled any more once it was saved and read again",
            hint="if it has its own compile(), give it get_compile_config() and "
            "compile_from_config(), too",
        )
    return model


def _agreed(kept: Kept, peers: Peers, root: Path | None) -> Kept:
    """All go on from the checkpoint that worker 0 has found.

    Raises:
        InvalidRequest: another one does not see it.
    """
    import keras

    if peers.size == 1:
        return kept
    mine = (kept.next_epoch or 0) if peers.rank == 0 else 0
    (agreed,) = peers.sums([keras.ops.convert_to_tensor(float(mine))])
    found = newest(root)
    if (found.next_epoch or 0) != int(agreed):
        raise InvalidRequest(
            f"worker {peers.rank} does not see the checkpoint of epoch {int(agreed)}",
            hint="all workers must reach the same directory of checkpoints",
        )
    return found


# --- what is done --------------------------------------------------------------------------------


def _fit(
    task: Task,
    model: Any,
    peers: Peers,
    data: Nest,
    validation: Nest,
    kept: Kept,
    root: str | None,
    tell: Callable[[Message], None],
) -> dict[str, Any]:
    training = Dealing(
        size=task.size,
        batch_size=task.batch_size,
        steps=task.steps,
        rank=peers.rank,
        workers=peers.size,
        seed=task.seed if task.shuffle else None,
    )
    testing = None
    if validation is not None:
        testing = Dealing(
            size=task.validation_size,
            batch_size=task.validation_batch_size,
            steps=task.validation_steps,
            rank=peers.rank,
            workers=peers.size,
        )
    shipped = [sorting.rebuilt(each) for each in task.callbacks]
    first = peers.rank == 0
    begin = task.initial_epoch
    if kept.next_epoch is not None:
        begin = task.epochs if kept.stopped else kept.next_epoch
        if first:
            print(f"going on after epoch {kept.next_epoch} of {task.epochs}")
    batches = _batches(data, training)
    keeper = keeping(
        Path(root) if root and first else None,
        kept,
        shipped,
        after=lambda epoch, logs: (
            tell(Message("epoch", {"epoch": epoch, "logs": logs})) if first else None
        ),
        saved=_note_checkpoint,
    )
    together = [join(model, peers, training, testing)] if peers.size > 1 else []
    model.fit(
        batches,
        epochs=task.epochs,
        initial_epoch=begin,
        verbose=task.verbose if first else 0,
        callbacks=[batches.follower, *together, *shipped, keeper],
        validation_data=None if testing is None else _batches(validation, testing),
        validation_freq=task.validation_freq,
        class_weight=task.class_weight,
        shuffle=False,  # the dealing does
    )
    return {
        "epochs": kept.epochs,
        "history": kept.history,
        "states": [sorting.state_of(each) for each in shipped],
    }


def _evaluate(task: Task, model: Any, peers: Peers, data: Nest) -> dict[str, Any]:
    testing = Dealing(
        size=task.size,
        batch_size=task.batch_size,
        steps=task.steps,
        rank=peers.rank,
        workers=peers.size,
    )
    together = [join(model, peers, None, testing)] if peers.size > 1 else []
    logs = model.evaluate(
        _batches(data, testing),
        verbose=task.verbose if peers.rank == 0 else 0,
        callbacks=together,
        return_dict=True,
    )
    named = {name: float(value) for name, value in logs.items()}
    return {"logs": named, "values": [named[name] for name in _in_order(model, named)]}


def _in_order(model: Any, logs: dict[str, float]) -> list[str]:
    """As `evaluate` lists them."""
    order = model._flatten_metrics_in_order({name: name for name in logs})
    return order if isinstance(order, list) else [order]


def _predict(task: Task, model: Any, peers: Peers, data: Nest, out: Path) -> dict[str, Any]:
    """Each worker does one stretch of the samples."""
    most = min(task.size, task.batch_size * task.steps)
    part = part_of(most, peers.rank, peers.size)
    size = part.stop - part.start
    if not size:
        return {"predicted": None}
    dealing = Dealing(size=size, batch_size=task.batch_size, steps=steps_of(size, task.batch_size))
    found = model.predict(
        _batches(taken(data, part), dealing), verbose=task.verbose if peers.rank == 0 else 0
    )
    return {"predicted": pack(found, out / ARRAYS)}


def _batches(data: Nest, dealing: Dealing) -> Any:
    """What Keras reads batches from. Its `follower` has to be among the callbacks: it says which
    epoch it is."""
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        epoch = 0

        def __len__(self) -> int:
            return dealing.steps

        def __getitem__(self, step: int) -> Any:
            return taken(data, dealing.hand(self.epoch, step).samples)

    batches = Batches()

    class Follower(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            batches.epoch = epoch

    batches.follower = Follower()
    return batches


# --- what becomes of it --------------------------------------------------------------------------


def _send(task: Task, out: Path, result: dict[str, Any]) -> dict[str, Any]:
    from leptonai.client import LeptonClient

    with LeptonClient() as client:
        if task.action != "fit":
            return {"digest": client.trees.push(out)}
        last = {name: values[-1] for name, values in result["history"].items() if values}
        artifact = client.models.push(
            task.name,
            out,
            format="keras",
            lineage={"job": os.environ.get("LEPTON_JOB_NAME", "")},
            attributes={"metrics": {k: v for k, v in last.items() if v == v}},
        )
        return {"digest": artifact.spec.digest, "model": artifact.reference}


def _note_checkpoint() -> None:
    """Whoever needs this job's room prefers one that has just saved. It is only a preference."""
    from leptonai.client import LeptonClient

    with suppress(LeptonError), LeptonClient(retry_for_s=0.0, timeout_s=5.0) as client:
        client.jobs.note_checkpoint(os.environ["LEPTON_JOB_NAME"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
