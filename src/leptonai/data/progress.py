"""What who waits is told of a long act."""

from collections.abc import Callable
from functools import partial

Progress = Callable[[int, int], None]  # bytes done, bytes in all: as far as is known, or 0
Steps = Callable[[str, int, int], None]  # what is being done, bytes of it done, bytes in all


def of_step(steps: Steps | None, doing: str) -> Progress | None:
    """What a step that knows nothing of the others is to tell."""
    return None if steps is None else partial(steps, doing)
