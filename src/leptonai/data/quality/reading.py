"""Samples that are files, read once each by many threads, in bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from leptonai.data.records import Bytes

if TYPE_CHECKING:
    from leptonai.data.dataset import Dataset
    from leptonai.data.progress import Progress

Made = TypeVar("Made")

CHUNK = 32  # samples that a thread reads at a time
MAX_THREADS = 16


def threads() -> int:
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))))


def each_sample(
    dataset: "Dataset", look: Callable[[Bytes], Made], progress: "Progress | None"
) -> Iterator[tuple[int, Made]]:
    """What `look` makes of each sample's bytes, in order."""
    count = len(dataset)
    done_bytes = 0

    def chunk(start: int) -> tuple[int, list[Made]]:
        data = dataset.read(range(start, min(start + CHUNK, count)))
        return sum(map(len, data)), [look(each) for each in data]

    with ThreadPoolExecutor(threads(), "lepton-quality") as pool:
        waiting: deque[tuple[int, Future[tuple[int, list[Made]]]]] = deque()
        starts = iter(range(0, count, CHUNK))
        try:
            while True:
                while len(waiting) < 2 * threads() and (start := next(starts, None)) is not None:
                    waiting.append((start, pool.submit(chunk, start)))
                if not waiting:
                    return
                start, future = waiting.popleft()
                size, made = future.result()
                done_bytes += size
                if progress is not None:  # the sizes of what comes are as those of what came
                    progress(done_bytes, done_bytes * count // (start + len(made)))
                yield from enumerate(made, start)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
