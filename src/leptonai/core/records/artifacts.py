"""Datasets, models, and the trainings that a run records."""

from leptonai.core.records.record import Record, Version
from leptonai.core.records.replicas import OwnerKind
from leptonai.core.resources import Needs
from leptonai.spec.runs import RunSpec, RunState


class Dataset(Version, tag="dataset", tag_field="kind", frozen=True, kw_only=True):
    """Of data."""


class Model(Version, tag="model", tag_field="kind", frozen=True, kw_only=True):
    """Of what was trained, or of a photon."""


class Run(Record, tag="run", tag_field="kind", frozen=True, kw_only=True):
    """What a training recorded; its points are beside the records (`ports.points`)."""

    spec: RunSpec
    state: RunState = RunState.RUNNING
    message: str = ""
    started_at_ms: int
    ended_at_ms: int | None = None
    needs: Needs | None = None  # of each worker of its job
    workers: int = 1

    @property
    def parent(self) -> str:
        return f"{OwnerKind.JOB}/{self.spec.job}" if self.spec.job else ""

    @property
    def state_name(self) -> str:
        return self.state

    @property
    def live(self) -> bool:
        """Whether it ends with its job, which it does not do by itself."""
        return self.state is RunState.RUNNING and self.spec.job != ""
