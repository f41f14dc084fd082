"""Several workers as one: in each step the sum of their gradients, at the end of each epoch the
sum of what their metrics counted and the mean of what layers keep (BatchNormalization).

Keras's own loop runs on every worker. On torch, the sums go over torch.distributed; on TensorFlow
over the collectives of MultiWorkerMirroredStrategy, in whose scope Keras 3 itself cannot `fit`.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from leptonai.errors import InvalidRequest
from leptonai.training.keras.dealing import Dealing

TOGETHER = ("tensorflow", "torch")  # the backends on which several workers train as one


class Peers(Protocol):
    rank: int
    size: int

    def sums(self, tensors: Sequence[Any]) -> list[Any]:
        """Of the backend's tensors, over all workers; each gives as many, of the same shapes."""
        ...

    def scaled(self, gradient: Any, by: Any) -> Any:
        """Times a variable."""

    def leave(self) -> None: ...


class Alone:
    rank, size = 0, 1

    def sums(self, tensors: Sequence[Any]) -> list[Any]:
        return list(tensors)

    def scaled(self, gradient: Any, by: Any) -> Any:
        return gradient * by.value

    def leave(self) -> None: ...


def meet(backend: str) -> Peers:
    """All workers of this job. Before anything else is computed: TensorFlow insists.

    Raises:
        InvalidRequest: they are several, and the backend cannot do that.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Alone()
    check_backend(backend, size)
    return OnTorch() if backend == "torch" else OnTensorFlow(int(os.environ["RANK"]), size)


def check_backend(backend: str, workers: int) -> None:
    if workers > 1 and backend not in TOGETHER:
        raise InvalidRequest(
            f"Keras on {backend} trains with one worker, not with {workers}",
            hint=f"leave out num_workers, or set KERAS_BACKEND to one of {', '.join(TOGETHER)}",
        )


class OnTorch:
    def __init__(self) -> None:
        from leptonai.training.world import enter_world

        world = enter_world()
        self.rank, self.size = world.rank, world.size

    def sums(self, tensors: Sequence[Any]) -> list[Any]:
        """Those of one type in one exchange."""
        import torch
        import torch.distributed as dist

        found = list(tensors)
        with torch.no_grad():
            for kind in dict.fromkeys(each.dtype for each in tensors):  # in one order
                places = [at for at, each in enumerate(tensors) if each.dtype == kind]
                flat = torch.cat([tensors[at].reshape(-1) for at in places])
                dist.all_reduce(flat)
                parts = torch.split(flat, [tensors[at].numel() for at in places])
                for at, part in zip(places, parts, strict=True):
                    found[at] = part.view(tensors[at].shape)
        return found

    def scaled(self, gradient: Any, by: Any) -> Any:
        return gradient * by.value.to(gradient.dtype)

    def leave(self) -> None:
        from leptonai.training.world import leave_world

        leave_world()


class OnTensorFlow:
    def __init__(self, rank: int, size: int) -> None:
        import tensorflow as tf

        self.rank, self.size = rank, size
        self._tf = tf
        self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        self._at_once = tf.function(self._within_graph)  # of what is not in a graph already

    def sums(self, tensors: Sequence[Any]) -> list[Any]:
        if not tensors:
            return []
        summed = self._at_once if self._tf.executing_eagerly() else self._within_graph
        return list(summed(list(tensors)))

    def scaled(self, gradient: Any, by: Any) -> Any:
        """An embedding's gradient is rows; an optimizer treats them otherwise than a whole matrix,
        so rows they stay. Those that do not count must not be touched at all."""
        tf = self._tf
        share = tf.cast(by.value, gradient.dtype)
        if not isinstance(gradient, tf.IndexedSlices):
            return gradient * share
        counting = tf.shape(gradient.values)[0] * tf.cast(share > 0, tf.int32)
        return tf.IndexedSlices(
            gradient.values[:counting] * share, gradient.indices[:counting], gradient.dense_shape
        )

    def _within_graph(self, tensors: list[Any]) -> Any:
        tf = self._tf

        def summed(*values: Any) -> Any:
            # A value that comes from outside lies on no device, so the sum would be on none.
            placed = [tf.identity(value) for value in values]
            return tf.distribute.get_replica_context().all_reduce("SUM", placed)

        return self._strategy.run(summed, args=tuple(tensors))

    def leave(self) -> None:
        self.sums([self._tf.constant(0.0)])  # whoever goes first takes the others' collective along


def join(model: Any, peers: Peers, training: Dealing | None, testing: Dealing | None) -> Any:
    """Make a compiled model one of several; returns the callback that has to go along."""
    import keras

    share = keras.Variable(1.0, trainable=False, dtype="float32", name="share")
    for optimizer in _optimizers(model):
        optimizer.apply = _summed_first(optimizer.apply, share, peers)
    model.jit_compile = False  # a compiled step cannot wait for others
    model.steps_per_execution = 1  # so that each step is told
    results = model._get_metrics_result_or_logs  # at the end of an epoch and of an evaluation

    def results_of_all(logs: Any) -> Any:
        _sum_metrics(model, peers)
        _average_layers(model, peers)
        return results(logs)

    model._get_metrics_result_or_logs = results_of_all

    class Together(keras.callbacks.Callback):  # type: ignore[misc]
        """Knows what each step counts. What a worker adds to the metrics with a sample that does
        not count is taken back."""

        epoch = 0
        before: list[Any] | None = None

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            assert training is not None
            counts = training.hand(self.epoch, batch).share
            share.assign(counts)
            self.before = None if counts else _numbers(model)

        def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
            assert testing is not None
            self.before = None if testing.hand(0, batch).share else _numbers(model)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.before is not None:
                _set_numbers(model, self.before)

        on_test_batch_end = on_train_batch_end

    return Together()


def _optimizers(model: Any) -> list[Any]:
    """The one it was compiled with, and those that a model with a loop of its own keeps."""
    import keras

    held = [getattr(model, "optimizer", None), *vars(model).values()]
    found = {id(each): each for each in held if isinstance(each, keras.optimizers.Optimizer)}
    return [*found.values()]


def _summed_first(apply: Callable[..., Any], share: Any, peers: Peers) -> Callable[..., Any]:
    def summed(grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        there = [at for at, grad in enumerate(grads) if grad is not None]
        weighted = [peers.scaled(grads[at], share) for at in there]
        for at, grad in zip(there, peers.sums(weighted), strict=True):
            grads[at] = grad
        return apply(grads, trainable_variables)

    return summed


def _sum_metrics(model: Any, peers: Peers) -> None:
    """Keras's metrics are sums and counts, so those of all workers are the sum of theirs."""
    import keras

    variables = _metric_variables(model)
    tensors = [keras.ops.convert_to_tensor(each) for each in variables]
    for variable, summed in zip(variables, peers.sums(tensors), strict=True):
        variable.assign(summed)


def _average_layers(model: Any, peers: Peers) -> None:
    import keras

    variables = [each for each in model.non_trainable_weights if "float" in str(each.dtype)]
    # In double precision what all have in common stays exactly as it is.
    tensors = [keras.ops.cast(each, "float64") for each in variables]
    for variable, summed in zip(variables, peers.sums(tensors), strict=True):
        variable.assign(keras.ops.cast(summed / peers.size, variable.dtype))


def _metric_variables(model: Any) -> list[Any]:
    return [variable for metric in model.metrics for variable in metric.variables]


def _numbers(model: Any) -> list[Any]:
    import keras

    return [keras.ops.convert_to_numpy(each).copy() for each in _metric_variables(model)]


def _set_numbers(model: Any, numbers: list[Any]) -> None:
    variables = _metric_variables(model)
    if len(variables) != len(numbers):  # made by this very step: there was nothing before it
        model.reset_metrics()
        return
    for variable, number in zip(variables, numbers, strict=True):
        variable.assign(number)
