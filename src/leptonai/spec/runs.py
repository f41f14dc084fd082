"""Runs: what a training was given, what it measured, and what came of it."""

import re
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, field

from leptonai.errors import InvalidRequest
from leptonai.spec.jobs import JobState
from leptonai.spec.metadata import Metadata, Wire

MAX_RUN_NAME_CHARS = 128
MAX_KEY_CHARS = 200
MAX_PARAMS = 1_000
MAX_PARAM_CHARS = 8_192  # of one value that is text
MAX_ARTIFACTS = 1_000
MAX_STEP = (1 << 53) - 1  # what every JSON reader keeps exactly

Scalar = str | int | float | bool | None
Number = float | Literal["NaN", "Infinity", "-Infinity"]  # JSON has no other way to say these

_ID = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./ :@=-]*")


class RunState(StrEnum):
    RUNNING = "Running"
    FINISHED = "Finished"
    FAILED = "Failed"
    STOPPED = "Stopped"


class GitState(Wire, frozen=True):
    """The working tree that the program came from."""

    commit: str
    branch: str = ""
    dirty: bool = False
    diff_digest: str = ""  # of what was not committed: tells two dirty trees apart


class RunArtifact(Wire, frozen=True):
    digest: str  # of the blob: sha256:…
    size_bytes: int
    layout: Literal["file", "tree"] = "file"


class RunSpec(Wire, frozen=True):
    """What a run was given. `metadata.labels` are its tags; `project` is one of them."""

    job: str = ""  # the id of the job that it belongs to
    params: dict[str, Scalar] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)  # role → reference: train → pets@3
    models: dict[str, str] = field(default_factory=dict)
    git: GitState | None = None
    environment: dict[str, str] = field(default_factory=dict)  # facts: python, torch, hostname, …
    command: list[str] = field(default_factory=list)  # what looks like a secret is masked
    artifacts: dict[str, RunArtifact] = field(default_factory=dict)


class KeySummary(Wire, frozen=True, omit_defaults=False):
    """Of the values of one key, superseded ones left out. NaN is neither least nor most."""

    last: Number  # at the largest step
    step: int
    at: int  # milliseconds since 1970
    min: Number
    max: Number


class Usage(Wire, frozen=True, omit_defaults=False):
    """What a run has cost: the time, and that times what its job's workers hold."""

    wall_seconds: float
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    memory_gib_hours: float = 0.0


class RunStatus(Wire, frozen=True, omit_defaults=False):
    state: RunState
    message: str = ""
    started_at: int = 0  # milliseconds since 1970
    ended_at: int | None = None
    heard_at: int | None = None  # when its last metrics arrived
    job_state: JobState | None = None  # while the job is there
    points: int = 0  # that arrived, superseded ones included
    usage: Usage | None = None
    summary: dict[str, KeySummary] = field(default_factory=dict)


class Run(Wire, frozen=True):
    metadata: Metadata  # the id is 32 hexadecimal digits
    spec: RunSpec = field(default_factory=RunSpec)
    status: RunStatus | None = None


class RunList(Wire, frozen=True, omit_defaults=False):
    runs: list[Run]


class RunEnd(Wire, frozen=True):
    state: RunState
    message: str = ""


class Resume(Wire, frozen=True):
    """The training goes on from a checkpoint: what it recorded after that step is superseded."""

    step: Annotated[int, Meta(ge=-MAX_STEP, le=MAX_STEP)]
    stream: Annotated[int, Meta(ge=0, le=1 << 20)] = 0  # the rank that goes on


class Curve(Wire, frozen=True, omit_defaults=False):
    """Of one key: one value a step, steps ascending; of many points those that show the shape."""

    key: str
    steps: list[int]
    values: list[Number]
    times: list[int]  # milliseconds since 1970
    points: int  # there are, between the given steps


class RunMetrics(Wire, frozen=True, omit_defaults=False):
    summary: dict[str, KeySummary]
    curves: list[Curve]


def run_id_of_job(workspace: str, job: str) -> str:
    """A job has one run, over all its attempts: everybody who knows the job knows its id."""
    import hashlib  # loads OpenSSL: every command would pay for it above

    return hashlib.sha256(f"{workspace}/{job}".encode()).hexdigest()[:32]


def check_run_id(id: str) -> None:
    if not _ID.fullmatch(id):
        raise InvalidRequest(
            f"{id[:60]!a} is no id of a run", hint="It has 32 hexadecimal digits, in lower case."
        )


def check_run_name(name: str) -> None:
    if not 0 < len(name) <= MAX_RUN_NAME_CHARS or not name.isprintable():
        raise InvalidRequest(
            f"the run's name {name[:60]!a} is not allowed",
            hint=f"use 1 to {MAX_RUN_NAME_CHARS} printable characters",
        )


def check_key(key: str) -> None:
    """Of a metric, a parameter or an artifact."""
    if len(key) > MAX_KEY_CHARS or not _KEY.fullmatch(key):
        raise InvalidRequest(
            f"the key {key[:60]!a} is not allowed",
            hint=f"use 1 to {MAX_KEY_CHARS} letters, digits, blanks and _ . / : @ = -, and begin "
            "with a letter, a digit or _",
        )


def check_params(params: dict[str, Scalar]) -> None:
    if len(params) > MAX_PARAMS:
        raise InvalidRequest(
            f"spec.params: {len(params)} parameters", hint=f"At most {MAX_PARAMS} are kept."
        )
    for key, value in params.items():
        check_key(key)
        if isinstance(value, str) and len(value) > MAX_PARAM_CHARS:
            raise InvalidRequest(
                f"spec.params: {key} has {len(value)} characters",
                hint=f"At most {MAX_PARAM_CHARS}: keep more in an artifact.",
            )


def number_of(value: float) -> Number:
    """As JSON can say it."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value
