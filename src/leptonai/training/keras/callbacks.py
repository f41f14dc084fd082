"""Where a callback runs: in the job, rebuilt from its arguments; or here, at the end of each epoch,
from the metrics that the job tells. Nothing is pickled, so whatever can do neither is refused."""

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

from leptonai.errors import InvalidRequest

SHIPPED = ("EarlyStopping", "ReduceLROnPlateau", "TerminateOnNaN")
HERE = ("CSVLogger", "History", "LambdaCallback", "RemoteMonitor")  # of Keras's own
# What a callback of each epoch remembers, as plain numbers.
STATE = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")
_INSTEAD = {
    "BackupAndRestore": "leave it out: a job goes on from its last epoch by itself",
    "LearningRateScheduler": "give the optimizer a schedule of keras.optimizers.schedules, or use "
    "ReduceLROnPlateau",
    "ModelCheckpoint": "leave it out: the trained model is registered, and EarlyStopping("
    "restore_best_weights=True) keeps the best",
}
_EACH_STEP = tuple(
    f"on_{what}batch_{when}"
    for what in ("", "train_", "test_", "predict_")
    for when in ("begin", "end")
)
_EACH_TEST = ("on_test_begin", "on_test_end", "on_predict_begin", "on_predict_end")


class Sorted(NamedTuple):
    shipped: tuple[Any, ...]
    here: tuple[Any, ...]


def sort(callbacks: Iterable[Any] | None) -> Sorted:
    """Raises:
    InvalidRequest: one could run neither there nor here; it is named.
    """
    if callbacks is not None and not isinstance(callbacks, list | tuple):
        callbacks = [callbacks]
    shipped, here = [], []
    for each in callbacks or ():
        name = type(each).__name__
        if _is_keras(each) and name in SHIPPED:
            shipped.append(each)
            continue
        if _is_keras(each) and name not in HERE:
            raise InvalidRequest(
                f"the callback {name} cannot run in a job",
                hint=_INSTEAD.get(name, f"leave it out; these can: {', '.join(SHIPPED)}"),
            )
        missed = _hooks_within_epochs(each)
        if missed:
            raise InvalidRequest(
                f"the callback {name} has {missed[0]}, and only what happens once an epoch is told "
                "from a job",
                hint="leave it out, or have it act in on_epoch_end",
            )
        here.append(each)
    return Sorted(tuple(shipped), tuple(here))


def written(callback: Any) -> dict[str, Any]:
    """As JSON: its class, and what it was made with."""
    arguments = {}
    for name in inspect.signature(type(callback).__init__).parameters:
        if name not in ("self", "kwargs") and hasattr(callback, name):
            arguments[name] = getattr(callback, name)
    if "min_delta" in arguments:
        arguments["min_delta"] = abs(arguments["min_delta"])  # Keras keeps it with a sign
    return {"kind": type(callback).__name__, "arguments": arguments}


def rebuilt(said: dict[str, Any]) -> Any:
    """In the job. Only what could have been shipped is."""
    import keras

    assert said["kind"] in SHIPPED, said
    return getattr(keras.callbacks, said["kind"])(**said["arguments"])


def state_of(callback: Any) -> dict[str, Any]:
    found = {name: getattr(callback, name) for name in STATE if hasattr(callback, name)}
    return {name: None if value is None else float(value) for name, value in found.items()}


def set_state(callback: Any, state: dict[str, Any]) -> None:
    for name in STATE:
        if name in state:
            value = state[name]
            whole = name != "best" and value is not None
            setattr(callback, name, int(value) if whole else value)


def _is_keras(callback: Any) -> bool:
    return type(callback).__module__.partition(".")[0] == "keras"


def _hooks_within_epochs(callback: Any) -> list[str]:
    import keras

    base = keras.callbacks.Callback
    return [
        name
        for name in (*_EACH_STEP, *_EACH_TEST)
        if name in vars(callback) or getattr(type(callback), name) is not getattr(base, name)
    ]
