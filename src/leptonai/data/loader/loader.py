"""`DataLoader`: shuffled batches of a data set, that can be resumed at any sample."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from leptonai.data.loader.batches import Batch, OnCorrupt, source_of
from leptonai.data.loader.order import MAX_SAMPLES, Order, Share, steps
from leptonai.data.loader.working import Recipe, made_ahead, parameters
from leptonai.errors import InvalidRequest

MAX_WORKERS = 256
MAX_BATCH_SIZE = 1 << 24
IMAGE_SIZE = (128, 128)  # height, width
STATE_VERSION = 1


class DataLoader:
    """Iterating over it is an epoch; the next time it is the next epoch, in another order.

    The order of an epoch is a permutation of all samples, fixed by `seed` and the epoch's number.
    Each step takes the next ``batch_size * world_size`` of them, and deals them out to the ranks,
    so that no two ranks ever read the same. Left over at the end are fewer than that: they are
    dropped with `drop_last`; else the last batch is smaller, by one sample more for some ranks than
    for others, and where there are fewer samples than ranks the last ranks have one batch less.
    Ranks that must go in lockstep want `drop_last`.

    Batches are torch tensors where torch is installed, else numpy arrays: ``(images, labels)``,
    with images of uint8 [B, H, W, C], or of the form that the data set has.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 32,
        shuffle: bool = False,
        *,
        seed: int = 0,
        num_workers: int | None = None,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        pipeline: Callable[..., Batch] | Any | None = None,
        augment: bool | None = None,
        image_size: tuple[int, int] = IMAGE_SIZE,
        on_corrupt: OnCorrupt = "raise",
        processes: bool = False,
    ) -> None:
        """
        Args:
            dataset: a Dataset or other `Records` (encoded images), a dict or a tuple of arrays, or
                anything with ``len()`` and ``[number]``.
            batch_size: of each rank.
            num_workers: threads that make batches ahead; 0 for none. By default one a core where
                there are images to decode, else none.
            pipeline: what to do with each batch of numpy arrays: a Pipeline or another object with
                `transform`, or a function of it. If it takes `chance`, it gets a `Chance` while
                augmenting: what it draws for a sample depends on the seed, the epoch and the
                sample alone. If it takes `rng`, it gets a numpy Generator that is the same for the
                same batch of the same epoch, also in a resumed run.
            augment: whether the pipeline gets its `chance`. As `shuffle`, if not given: what is
                read in order is examined, not learnt.
            image_size: height and width that encoded images are fitted to.
            on_corrupt: what to do about an image that cannot be read: "raise" an error that names
                it, or "skip" it, count it in `skipped`, and make the batch smaller.
            processes: work in processes instead of threads. For a data set or a pipeline in pure
                Python, which can be pickled; they are started anew for each epoch.

        Raises:
            InvalidRequest: an argument is out of range, or this is no data set.
        """
        _check("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        _check("world_size", world_size, 1, MAX_SAMPLES // MAX_BATCH_SIZE)
        _check("rank", rank, 0, world_size - 1)
        _check("seed", seed, 0, 2**64 - 1)
        _check("num_workers", num_workers or 0, 0, MAX_WORKERS)
        for side in image_size:
            _check("image_size", side, 1, 1 << 14)
        if on_corrupt not in ("raise", "skip"):
            raise InvalidRequest(f'on_corrupt is "raise" or "skip", not {on_corrupt!r}')
        # A table is transformed as a whole, before rows are picked.
        table: Any = pipeline if getattr(pipeline, "takes", "") == "table" else None
        self._source = source_of(dataset, image_size, on_corrupt, table)
        self.dataset, self.image_size = dataset, image_size
        self.pipeline = pipeline or getattr(self._source, "pipeline", None)
        self._share = Share(batch_size * world_size, drop_last, rank, world_size)
        self._shuffle = shuffle
        self._seed = seed
        self._pipeline = None if table else getattr(pipeline, "transform", pipeline)
        if self._pipeline is not None and not callable(self._pipeline):
            raise InvalidRequest(
                f"a {type(pipeline).__name__} is no pipeline",
                hint="give a Pipeline, another object with transform, or a function",
            )
        self._augment = augment
        self._processes = processes
        if num_workers is None:
            idle = not self._source.decodes and not processes
            num_workers = 0 if idle else min(len(os.sched_getaffinity(0)), MAX_WORKERS)
        self._workers = num_workers
        self._as_tensors = _torch_from_numpy()
        self._epoch = 0
        self._position = 0  # in the epoch: samples handed out so far, by all ranks
        self._fresh = True  # the next iteration begins just there
        self._iteration = 0
        self.skipped = 0  # corrupt samples that were left out, so far

    def __len__(self) -> int:
        """How many batches this rank gets in a whole epoch."""
        return self._share.batches(len(self._source))

    def shared(self, rank: int, world_size: int, *, in_lockstep: bool = True) -> "DataLoader":
        """This rank's part of the very batches that this loader gives, from where it is: they have
        as many samples as before, over all ranks.

        Args:
            in_lockstep: all ranks have equally many batches, and so up to ``world_size - 1``
                samples of an epoch may be left out; else every sample is in one.

        Raises:
            InvalidRequest: a batch has fewer samples than there are ranks, or it is a part already.
        """
        if self._share.world_size > 1:
            raise InvalidRequest("the loader is a part already", hint="give it no rank")
        _check("world_size", world_size, 1, self._share.step)
        _check("rank", rank, 0, world_size - 1)
        part = copy.copy(self)
        part._share = replace(
            self._share, rank=rank, world_size=world_size, in_lockstep=in_lockstep
        )
        return part

    @property
    def dataset_length(self) -> int:
        """How many samples an epoch reads from, over all ranks."""
        return len(self._source)

    @property
    def decodes(self) -> bool:
        """Whether samples are encoded images, which are fitted to `image_size`."""
        return self._source.decodes

    @property
    def batch_size(self) -> int:
        """Of all ranks together."""
        return self._share.step

    @property
    def position(self) -> int:
        """How many samples of the epoch were handed out, over all ranks."""
        return self._position

    def end_epoch(self) -> None:
        """Leave out what is left of the epoch that was begun, if one was."""
        if self._position or not self._fresh:
            self._epoch, self._position, self._fresh = self._epoch + 1, 0, True

    def samples_at(self, position: int) -> list[int]:
        """The numbers of the samples that this rank gets in the step that begins there."""
        order = Order(len(self._source), self._seed, self._epoch, self._shuffle)
        step = next(steps(order, self._share, position), None)
        return [] if step is None else step.samples.tolist()

    @property
    def epoch(self) -> int:
        """The one that is being read, or else the one that comes next."""
        return self._epoch

    def __iter__(self) -> Iterator[Batch]:
        """Raises:
        InvalidRequest: a sample cannot be read; says which. What comes out of the data set's or the
            pipeline's own code is raised as it is, with a note that says which samples.
        """
        if not self._fresh:
            self._epoch, self._position = self._epoch + 1, 0
        self._fresh = False
        self._iteration += 1
        iteration = self._iteration
        order = Order(len(self._source), self._seed, self._epoch, self._shuffle)
        takes = parameters(self._pipeline) if self._pipeline is not None else frozenset()
        augment = self._shuffle if self._augment is None else self._augment
        made = made_ahead(
            Recipe(
                self._source,
                self._pipeline,
                takes=takes if augment else takes - {"chance"},
                seed=self._seed,
                epoch=self._epoch,
                rank=self._share.rank,
            ),
            steps(order, self._share, self._position),
            workers=self._workers,
            processes=self._processes,
        )
        with closing(made):  # type: ignore[type-var]  # it is a generator
            for step, (batch, skipped, _) in made:
                self._position = step.end
                self.skipped += skipped
                yield self._as_tensors(batch)
                if iteration != self._iteration:
                    raise RuntimeError("another iteration over the same DataLoader has begun")
        self._epoch, self._position, self._fresh = self._epoch + 1, 0, True

    def state_dict(self) -> dict[str, Any]:
        """Where it is: after the batch that was last handed out, whatever was made ahead."""
        return {
            "version": STATE_VERSION,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "epoch": self._epoch,
            "position": self._position,
            "samples": len(self._source),
            "digest": self._source.digest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there: the next iteration reads the rest of that epoch.

        `seed` and `shuffle` become those of the state; batch size and number of ranks may be others
        than they were.

        Raises:
            InvalidRequest: it is no such state, or one of other data.
        """
        try:
            version, samples, digest = state["version"], state["samples"], state["digest"]
            seed, shuffle = int(state["seed"]), bool(state["shuffle"])
            epoch, position = int(state["epoch"]), int(state["position"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"not the state of a DataLoader: {error!r}", hint="give what state_dict() gave"
            ) from None
        if version != STATE_VERSION:
            raise InvalidRequest(
                f"a DataLoader's state of version {version}; this reads {STATE_VERSION}",
                hint="load it with the version of Lepton that saved it",
            )
        _check("seed", seed, 0, 2**64 - 1)
        _check("epoch", epoch, 0, MAX_SAMPLES)
        _check("position", position, 0, max(0, samples))
        digests = {digest, self._source.digest} - {None}
        if samples != len(self._source) or len(digests) > 1:
            raise InvalidRequest(
                f"the state is one of other data: of {samples} samples with the digest {digest}, "
                f"not of {len(self._source)} with {self._source.digest}",
                hint="load the version of the data set that the run began with",
            )
        self._seed, self._shuffle = seed, shuffle
        self._epoch, self._position, self._fresh = epoch, position, True


def _check(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidRequest(f"{name} is a whole number, not {value!r}")
    if not least <= value <= most:
        raise InvalidRequest(f"{name} is a number from {least} to {most}, not {value}")


def _torch_from_numpy() -> Callable[[Batch], Batch]:
    """What makes tensors of a batch's arrays of numbers; without torch, they stay as they are."""
    try:
        import torch
    except ImportError:
        return lambda batch: batch

    def convert(batch: Batch) -> Batch:
        if isinstance(batch, np.ndarray):
            return torch.from_numpy(batch) if batch.dtype.kind in "biufc" else batch.tolist()
        if isinstance(batch, tuple):
            return tuple(convert(value) for value in batch)
        if isinstance(batch, Mapping):
            return {name: convert(value) for name, value in batch.items()}
        if isinstance(batch, list):
            return [convert(value) for value in batch]
        return batch

    return convert
