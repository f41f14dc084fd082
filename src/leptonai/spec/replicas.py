"""Replicas, events and logs: what was observed of a workload."""

from msgspec import field

from leptonai.spec.metadata import Metadata, Wire


class ReplicaNode(Wire, frozen=True):
    name: str
    id: str


class ReplicaStatus(Wire, frozen=True):
    """`state` … `attempt` extend the published format."""

    public_ip: str | None = None
    node: ReplicaNode | None = None
    state: str | None = None  # Waiting, Placed, Running, Ended, Done
    ready: bool | None = None
    attempt: int | None = None  # 0 is the first
    exit_code: int | None = None
    reason: str | None = None  # of the end: Exited, Signalled, Lost, …
    started_at: int | None = None  # milliseconds since 1970
    finished_at: int | None = None  # milliseconds since 1970


class Replica(Wire, frozen=True):
    metadata: Metadata
    id: str
    status: ReplicaStatus | None = None


class Regarding(Wire, frozen=True):
    kind: str
    name: str
    id: str


class LeptonEvent(Wire, frozen=True, omit_defaults=False):
    type: str  # Normal, Warning
    reason: str
    count: int
    last_observed_time: str  # ISO 8601
    message: str = ""
    regarding: Regarding | None = None


LogLine = tuple[str, str]  # nanoseconds since 1970, the line


class LogStream(Wire, frozen=True, omit_defaults=False):
    stream: dict[str, str]
    values: list[LogLine]


class LogData(Wire, frozen=True, omit_defaults=False):
    result: list[LogStream]


class LogAnswer(Wire, frozen=True, omit_defaults=False):
    """Lines of the past, in the shape of Loki's answer."""

    data: LogData = field(default_factory=lambda: LogData(result=[]))


class LogSeries(Wire, frozen=True, omit_defaults=False):
    metric: dict[str, str]
    values: list[tuple[float, str]]  # seconds since 1970, how many lines


class LogCounts(Wire, frozen=True, omit_defaults=False, rename={"kind": "resultType"}):
    result: list[LogSeries]
    kind: str = "matrix"  # "resultType" on the wire


class LogTimeseries(Wire, frozen=True, omit_defaults=False):
    data: LogCounts
    status: str = "success"
