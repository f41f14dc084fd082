"""What a training tells its run: a point for each step, facts once, and when it went back."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tracker(Protocol):
    """Never waits for anybody, but for `flush`."""

    def resume(self, step: int) -> None:
        """What was logged of later steps is superseded."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_steps(self, first: int, losses: Sequence[float], learning_rate: float) -> None:
        """Of steps that follow each other."""

    def flush(self) -> None:
        """What was logged is kept: a checkpoint is about to say that it was."""

    def checkpointed(self, step: int) -> None: ...


class NoTracker:
    def resume(self, step: int) -> None: ...

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_steps(self, first: int, losses: Sequence[float], learning_rate: float) -> None: ...

    def flush(self) -> None: ...

    def checkpointed(self, step: int) -> None: ...


def tracker_of(track: bool | None, is_first: bool, facts: Mapping[str, Any]) -> Tracker:
    """Within a job its run; else only where asked. One rank speaks for all."""
    if track is None:
        track = "LEPTON_JOB_NAME" in os.environ
    return NoTracker()
