"""`fit`, `evaluate` and `predict` of a Keras model as a job."""

import inspect
import math
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from leptonai.errors import InvalidRequest, LeptonError, TryLater, from_wire
from leptonai.spec.containers import Container, ContainerPort, EnvVar, QueueConfig
from leptonai.spec.jobs import FINAL_EXIT_CODE, JobSpec, JobState, LeptonJob
from leptonai.spec.metadata import Metadata
from leptonai.spec.quantities import memory_mib
from leptonai.training.keras import callbacks as sorting
from leptonai.training.keras import messages, returning
from leptonai.training.keras.dealing import Nest, steps_of, taken
from leptonai.training.keras.following import Follower, Screen
from leptonai.training.keras.reading import with_arrays
from leptonai.training.keras.shipping import (
    ARRAYS,
    TASK,
    Task,
    as_arrays,
    pack,
    ship_model,
    size_of,
)
from leptonai.training.keras.together import check_backend

if TYPE_CHECKING:
    from leptonai.client import LeptonClient

Action = Literal["fit", "evaluate", "predict"]
RETRIES = 3  # of the gang: each goes on from the last epoch that was kept
WISHED_PORT = 2222  # of each worker, for tf.distribute; any other one will do
BATCH_SIZE = 32  # Keras's own default
LABELS = {"fit": "training", "evaluate": "evaluation", "predict": "prediction"}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a call may say beside what Keras takes."""

    num_workers: int = 1
    cpu: float | None = None  # of each worker
    memory: str | None = None  # of each worker: "4GiB"
    gpu: float | None = None  # of each worker: 1, or a share of one
    gpu_type: str | None = None
    resource_shape: str | None = None
    image: str | None = None
    priority: str | None = None
    preemptible: bool | None = None
    name: str | None = None  # of the job, and of the trained model in the registry

    def __post_init__(self) -> None:
        if not isinstance(self.num_workers, int) or self.num_workers < 1:
            raise InvalidRequest(
                f"num_workers={self.num_workers!r} is no number of workers", hint="1 or more"
            )
        if self.gpu is not None and self.gpu > 1:
            raise InvalidRequest(
                f"gpu={self.gpu:g}: a worker of Keras uses one GPU",
                hint=f"num_workers={math.ceil(self.gpu)}, gpu=1",
            )
        if self.memory is not None:
            memory_mib(self.memory)


def call(
    action: Action,
    method: Callable[..., Any],
    model: Any,
    client: "LeptonClient",
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """What `model.fit(…, client=client)` does.

    Raises:
        InvalidRequest: something of it cannot be shipped, or Keras refuses it in the job.
        LeptonError: the platform refuses it, or cannot be reached.
        KeyboardInterrupt: the job was stopped first.
    """
    from leptonai.client import LeptonClient

    if not isinstance(client, LeptonClient):
        raise InvalidRequest(
            f"client is a {type(client).__name__}", hint="pass a LeptonClient: LeptonClient()"
        )
    own = {each.name for each in fields(Wish)}
    wish = Wish(**{name: value for name, value in kwargs.items() if name in own})
    theirs = {name: value for name, value in kwargs.items() if name not in own}
    asked = inspect.signature(method).bind(model, *args, **theirs).arguments
    if action != "predict" and not model.compiled:
        raise InvalidRequest(
            f"the model {model.name!r} is not compiled",
            hint="first model.compile(optimizer=…, loss=…)",
        )
    return _Call(action, model, client, wish, asked).run()


class _Call:
    def __init__(
        self,
        action: Action,
        model: Any,
        client: "LeptonClient",
        wish: Wish,
        asked: Mapping[str, Any],
    ) -> None:
        import keras

        self._keras = keras
        self._action = action
        self._model = model
        self._client = client
        self._wish = wish
        given = {name: value for name, value in asked.items() if value is not None}
        self._verbose = 1 if asked.get("verbose", "auto") == "auto" else int(asked["verbose"])
        self._name = _name_of(wish.name or model.name)
        self._callbacks = sorting.sort(asked.get("callbacks"))
        check_backend(keras.backend.backend(), wish.num_workers)
        self._check(given)
        self._asked = with_arrays(action, given)

    def run(self) -> Any:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            task = self._ship(folder)
            digest = self._client.trees.push(folder)
        created = self._client.jobs.create(self._job(digest))
        job_id = created.metadata.id or ""
        screen = Screen(self._verbose)
        follower = Follower(self._client, job_id, screen)
        try:
            return self._follow(task, job_id, follower)
        except TryLater as away:
            raise type(away)(
                f"{away.message}; the job {job_id} goes on by itself",
                hint=f"look at it with `leptonai job log -f {job_id}`"
                + (f"; its model will be {self._name}" if self._action == "fit" else ""),
            ) from away
        except LeptonError:
            raise
        except BaseException:  # Ctrl-C, or a callback of the caller's failed
            self._stop(job_id)
            raise

    # --- what is asked ---------------------------------------------------------------------------

    def _check(self, asked: Mapping[str, Any]) -> None:
        """Raises:
        InvalidRequest: an argument has no meaning in a job.
        """
        known = {
            *("self", "x", "y", "sample_weight", "batch_size", "verbose", "callbacks"),
            *{
                "fit": (
                    *("epochs", "validation_split", "validation_data", "shuffle", "class_weight"),
                    *("initial_epoch", "steps_per_epoch", "validation_steps"),
                    *("validation_batch_size", "validation_freq"),
                ),
                "evaluate": ("steps", "return_dict"),
                "predict": ("steps",),
            }[self._action],
        }
        unknown = sorted(set(asked) - known)
        if unknown:
            raise InvalidRequest(
                f"{self._action} in a job takes no {', '.join(unknown)}", hint="leave it out"
            )
        if self._action != "fit" and asked.get("callbacks"):
            raise InvalidRequest(
                f"{self._action} in a job takes no callbacks", hint="leave them out"
            )
        if asked.get("shuffle", True) not in (True, False):
            raise InvalidRequest(
                f"shuffle={asked['shuffle']!r} is not known in a job", hint="True or False"
            )
        alone = [
            each for each in self._callbacks.shipped if type(each).__name__ == "TerminateOnNaN"
        ]
        if alone and self._wish.num_workers > 1:
            raise InvalidRequest(
                "the callback TerminateOnNaN would stop one worker and not the others",
                hint="leave it out, or num_workers=1",
            )

    def _ship(self, folder: Path) -> Task:
        asked = self._asked
        data = self._data("", asked.get("x"), asked.get("y"), asked.get("sample_weight"))
        size = size_of(data, "x with y" if len(data) > 1 else "x")
        validation, validation_size = None, 0
        if self._action == "fit" and "validation_data" in asked:
            said = asked["validation_data"]
            parts = said if isinstance(said, tuple) else (said,)
            validation = self._data("validation_", *parts[:3])
            validation_size = size_of(validation, "validation_data")
        elif self._action == "fit" and asked.get("validation_split"):
            kept = math.floor(size * (1 - asked["validation_split"]))
            if not 0 < kept < size:
                raise InvalidRequest(
                    f"validation_split={asked['validation_split']} of {size} samples leaves none",
                    hint="choose another one",
                )
            validation, validation_size = taken(data, slice(kept, size)), size - kept
            data, size = taken(data, slice(0, kept)), kept
        batch_size = int(asked.get("batch_size") or BATCH_SIZE)
        validation_batch_size = int(asked.get("validation_batch_size") or batch_size)
        steps = asked.get("steps_per_epoch" if self._action == "fit" else "steps")
        whole = steps_of(size, batch_size)
        if steps is None or self._action != "fit":  # only a training goes over its data again
            steps = min(whole, int(steps or whole))
        most = steps_of(validation_size, validation_batch_size)
        modules = ship_model(
            self._model,
            folder,
            sample=taken(data[0], slice(0, 1)),
            training=self._action == "fit",
            workers=self._wish.num_workers,
        )
        weights = asked.get("class_weight")
        task = Task(
            action=self._action,
            keras=self._keras.__version__,
            floatx=self._keras.config.floatx(),
            image_data_format=self._keras.config.image_data_format(),
            modules=modules,
            data=pack(data, folder / ARRAYS),
            size=size,
            batch_size=batch_size,
            steps=int(steps),
            seed=random.getrandbits(31),  # so keras.utils.set_random_seed decides
            verbose=self._verbose,
            name=self._name,
            validation=pack(validation, folder / ARRAYS),
            validation_size=validation_size,
            validation_batch_size=validation_batch_size,
            validation_steps=min(most, int(asked.get("validation_steps") or most)),
            validation_freq=asked.get("validation_freq", 1),
            epochs=int(asked.get("epochs", 1)),
            initial_epoch=int(asked.get("initial_epoch", 0)),
            shuffle=bool(asked.get("shuffle", True)),
            class_weight=weights and {int(each): float(weights[each]) for each in weights},
            callbacks=[sorting.written(each) for each in self._callbacks.shipped],
        )
        (folder / TASK).write_bytes(msgspec.json.encode(task))
        return task

    def _data(self, prefix: str, x: Any, y: Any = None, sample_weight: Any = None) -> Nest:
        """A tuple with x, and with what else there is."""
        if x is None:
            raise InvalidRequest("there is no x", hint="pass arrays")
        found = [as_arrays(x, f"{prefix}x")]
        if y is not None:
            found.append(as_arrays(y, f"{prefix}y"))
        if sample_weight is not None:
            if y is None:
                raise InvalidRequest("there are sample weights, but no y", hint="pass y, too")
            found.append(as_arrays(sample_weight, f"{prefix}sample_weight"))
        return tuple(found)

    def _job(self, digest: str) -> LeptonJob:
        wish, backend = self._wish, self._keras.backend.backend()
        several = wish.num_workers > 1
        variables = {"KERAS_BACKEND": backend}
        if backend == "tensorflow":
            variables["TF_CPP_MIN_LOG_LEVEL"] = "2"  # its greetings
        queue = QueueConfig(priority_class=wish.priority, can_be_preempted=wish.preemptible or None)
        container = Container(
            image=wish.image,
            command=["python", "-m", "leptonai.training.keras.worker", "."],
            # TensorFlow's workers listen; torch's meet at the port that every gang has.
            ports=[ContainerPort(container_port=WISHED_PORT)]
            if several and backend == "tensorflow"
            else None,
        )
        spec = JobSpec(
            container=container,
            resource_shape=wish.resource_shape,
            cpu=wish.cpu,
            memory=None if wish.memory is None else memory_mib(wish.memory),
            accelerator_num=wish.gpu,
            accelerator_type=wish.gpu_type,
            completions=wish.num_workers,
            parallelism=wish.num_workers,
            intra_job_communication=several or None,
            max_job_failure_retry=RETRIES,
            final_exit_codes=[FINAL_EXIT_CODE],
            envs=[EnvVar(name=name, value=value) for name, value in variables.items()],
            queue_config=queue if wish.priority or wish.preemptible else None,
            workdir=digest,
            include_workspace_token=True,
        )
        labels = {"kind": LABELS[self._action]}
        return LeptonJob(metadata=Metadata(name=self._name, labels=labels), spec=spec)

    # --- what comes back -------------------------------------------------------------------------

    def _follow(self, task: Task, job_id: str, follower: Follower) -> Any:
        told = _Epochs(self._keras, self._model, self._callbacks.here, task)
        result: dict[str, Any] | None = None
        for message in follower:
            if message.kind == "epoch":
                told.end(message.fields["epoch"], message.fields["logs"])
            elif message.kind == "result":
                result = message.fields
            elif message.kind == "error":
                self._client.jobs.stop(job_id)  # another try would end the same
                raise _failure(job_id, message.fields)
        ended = self._client.jobs.wait(job_id)
        if ended.status is None or ended.status.state != JobState.COMPLETED or result is None:
            raise self._ended_badly(ended, follower)
        if self._action == "predict":
            return returning.predicted(self._client, self._digests(job_id))
        with returning.fetched(self._client, result["digest"]) as (folder, said):
            if self._action == "evaluate":
                values = said["values"]
                if self._asked.get("return_dict"):
                    return said["logs"]
                return values[0] if len(values) == 1 else values
            returning.set_weights(self._model, folder)
            returning.set_states(self._callbacks.shipped, said["states"])
            for at, epoch in enumerate(said["epochs"]):
                told.end(epoch, {k: v[at] for k, v in said["history"].items() if len(v) > at})
            return told.done()

    def _digests(self, job_id: str) -> list[str]:
        """What each worker has sent, by rank."""
        found: dict[int, str] = {}
        for replica in self._client.jobs.replicas(job_id):
            index = int(replica.id.removeprefix(job_id).split("-")[1])
            for line in self._client.jobs.log(job_id, replica.id, follow=False):
                message = messages.read(line)
                if message is not None and message.kind == "result":
                    found[index] = message.fields["digest"]
        return [found[index] for index in sorted(found)]

    def _ended_badly(self, ended: LeptonJob, follower: Follower) -> LeptonError:
        job_id, status = ended.metadata.id or "", ended.status
        state = str(status.state) if status else "gone"
        because = f": {status.message}" if status and status.message else ""
        last = next((line for line in reversed(follower.last) if line.strip()), "")
        return InvalidRequest(
            f"the job {job_id} is {state}{because}" + (f" ({last.strip()})" if last else ""),
            hint=f"see `leptonai job log {job_id}` and `leptonai job why {job_id}`",
        )

    def _stop(self, job_id: str) -> None:
        try:
            self._client.jobs.stop(job_id)
        except LeptonError as error:
            told = f"could not stop the job {job_id}: {error.message}"
        else:
            told = f"stopped the job {job_id}; `leptonai job start {job_id}` lets it go on"
        print(told, file=sys.stderr)


class _Epochs:
    """Keras's history, and the callbacks that stay here, driven by what the job tells."""

    def __init__(self, keras: Any, model: Any, here: Sequence[Any], task: Task) -> None:
        self._model = model
        self._seen: set[int] = set()
        self._warned = False
        self._callbacks = None
        if task.action != "fit":
            return
        self._callbacks = keras.callbacks.CallbackList(
            list(here), add_history=True, model=model, epochs=task.epochs, steps=task.steps
        )
        model.stop_training = False
        self._callbacks.on_train_begin()

    def end(self, epoch: int, logs: dict[str, float]) -> None:
        """Once each, though a job that goes back tells some again."""
        if epoch in self._seen or self._callbacks is None:
            return
        self._seen.add(epoch)
        self._callbacks.on_epoch_begin(epoch)
        self._callbacks.on_epoch_end(epoch, logs)
        if self._model.stop_training and not self._warned:
            self._warned = True
            warnings.warn(
                "a callback has set stop_training, which does not reach the job: it goes on. Use "
                "EarlyStopping, which runs in the job, or stop it with Ctrl-C",
                stacklevel=6,
            )

    def done(self) -> Any:
        assert self._callbacks is not None
        self._callbacks.on_train_end()
        return self._model.history


def _failure(job_id: str, wire: dict[str, Any]) -> LeptonError:
    error = from_wire(400, wire)
    hint = f"see `leptonai job log {job_id}`"
    return type(error)(
        f"the job {job_id} failed: {error.message}",
        hint=f"{error.hint}; {hint}" if wire.get("hint") else hint,
    )


def _name_of(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return name if name[:1].isalpha() else f"keras-{name}".strip("-")
