"""Batches made ahead of their use: by this thread, by others, or by other processes.

Whoever makes them and however long it takes, they come in the order they were asked for.
"""

import inspect
import multiprocessing
import os
import pickle
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np

from leptonai.data.chance import Chance
from leptonai.data.loader.batches import Batch, Made, Source
from leptonai.data.loader.order import Step
from leptonai.errors import InvalidRequest, Unavailable

READY_BATCHES = 2  # that may wait for their use, besides those that are being made
NAMED_SAMPLES = 8  # of a batch in which a pipeline failed


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes the batches of one epoch of one rank. Equal steps give equal batches."""

    source: Source
    pipeline: Callable[..., Batch] | None
    takes: frozenset[str]  # what the pipeline gets besides the batch: "rng", "chance"
    seed: int
    epoch: int
    rank: int

    def make(self, step: Step) -> Made:
        made = self.source.make(step.samples)
        if self.pipeline is None:
            return made
        given: dict[str, Any] = {}
        if "rng" in self.takes:
            # Of the step alone: a resumed run draws what an uninterrupted one would have drawn.
            drawn_from = [self.seed, self.epoch, step.position, self.rank]
            given["rng"] = np.random.default_rng(drawn_from)
        if "chance" in self.takes:
            samples = step.samples if made.samples is None else made.samples
            given["chance"] = Chance(samples, seed=self.seed, epoch=self.epoch)
        try:
            return made._replace(batch=self.pipeline(made.batch, **given))
        except Exception as error:
            names = ", ".join(map(str, step.samples[:NAMED_SAMPLES].tolist()))
            more = ", …" if len(step.samples) > NAMED_SAMPLES else ""
            error.add_note(f"while the pipeline worked on the samples {names}{more}")
            raise


def parameters(pipeline: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(pipeline).parameters)
    except (TypeError, ValueError):  # something built in
        return frozenset()


def made_ahead(
    recipe: Recipe, steps: Iterable[Step], *, workers: int, processes: bool
) -> Iterator[tuple[Step, Made]]:
    """Make each step's batch, with at most ``workers + READY_BATCHES`` of them begun or waiting.

    To be closed: only then are all workers sure to have ended.

    Raises:
        InvalidRequest: the recipe cannot be sent to another process.
        Unavailable: another process ended before its time.
    """
    if not workers:
        for step in steps:
            yield step, recipe.make(step)
        return
    pool, make = _processes(recipe, workers) if processes else _threads(recipe, workers)
    pending: deque[tuple[Step, Future[Made]]] = deque()
    try:
        for step in steps:
            pending.append((step, pool.submit(make, step)))
            if len(pending) == workers + READY_BATCHES:
                step, future = pending.popleft()
                yield step, future.result()
        while pending:
            step, future = pending.popleft()
            yield step, future.result()
    except BrokenProcessPool:
        raise Unavailable(
            "a process that made batches has ended before its time",
            hint="it may have run out of memory: try with fewer workers",
        ) from None
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if not processes or "pickle" not in str(error):
            raise
        raise InvalidRequest(
            f"the data set or the pipeline cannot be sent to another process: {error}",
            hint="define it at the top level of a module, or load without processes=True",
        ) from None
    finally:
        # One that is at work finishes its batch; those that have not begun never do.
        pool.shutdown(wait=True, cancel_futures=True)


_Make = Callable[[Step], Made]


def _threads(recipe: Recipe, workers: int) -> tuple[Executor, _Make]:
    return ThreadPoolExecutor(workers, thread_name_prefix="leptonai-loader"), recipe.make


def _processes(recipe: Recipe, workers: int) -> tuple[Executor, _Make]:
    # Never forked: a copy of a process with threads may hang in a lock that nobody opens again.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_receive, initargs=(recipe,))
    return pool, _make_received


_received: Recipe  # in a process that makes batches: sent once, not with each step


def _receive(recipe: Recipe) -> None:
    global _received
    _received = recipe
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """Else a parent that is killed leaves its workers behind: they hold both ends of their pipe."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_received(step: Step) -> Made:
    try:
        return _received.make(step)
    except Exception as error:
        if _can_be_sent(error):
            raise
        in_words = "".join(traceback.format_exception_only(error)).strip()
    raise RuntimeError(in_words)


def _can_be_sent(error: Exception) -> bool:
    """One that cannot be read on arrival would look like a process that has died."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (it is our own)
    except Exception:
        return False
    return True
