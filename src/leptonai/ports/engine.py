"""The promise of everything that runs replicas: this machine, a Ray cluster, a fake.

`leptonai.testing.engine_contract` is the same promise as a test suite.
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from leptonai.core.records import Termination
from leptonai.core.resources import Capacity

KEPT = "kept"  # to start in the folder that attempts share
AttemptId = str  # "<replica id>.<attempt>"


@dataclass(frozen=True, slots=True)
class Tree:
    """Files to lay out for an attempt before it starts."""

    digest: str
    at: str  # a plain directory name inside the attempt's folder: "workdir", "model"


@dataclass(frozen=True, slots=True)
class Warm:
    """Of an attempt whose program could be loaded once, and then be copied for each attempt.

    What is loaded is a *template*. It gets the variables of the attempt but for those withheld.
    """

    key: str  # attempts of one key load the same, and may share what they loaded
    withheld: frozenset[str] = frozenset()  # variables: secrets, and what differs between attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeAt:
    """A directory of a volume that the attempt is to find somewhere."""

    name: str  # of the volume, for people
    root: str  # of the volume, on the node
    path: str = ""  # in the volume; made where it is not there and may be written to
    at: str  # absolute
    read_only: bool = False
    links: bool = True  # False: no link in the volume is followed to get there


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to run a replica, complete: nothing in it must be looked up any more."""

    id: AttemptId
    node: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # holds secrets: never log it
    cpu_millis: int = 0  # its fair weight when the node is busy
    limit_cpu_millis: int | None = None
    limit_memory_bytes: int | None = None
    gpus: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()  # must be free when it starts, else it ends as NOT_STARTED
    trees: tuple[Tree, ...] = ()
    start_in: str = ""  # the tree it starts in, or KEPT; "" is an empty folder of its own
    keeps: str = ""  # names a folder that all attempts of this name on the node share
    image: str = ""
    # Addresses by the host names that it should find, where the engine can give it a hosts file.
    hosts: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[VolumeAt, ...] = ()  # what cannot be mounted is a link in its directory
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Texts that hold secrets, by the variables that tell where they lie: readable by its user."""
    warm: Warm | None = None  # None: it is started as it is, always


@dataclass(frozen=True, slots=True)
class Running:
    started_at_ms: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing of the attempt runs any more, its children included."""

    how: Termination


AttemptState = Running | Ended


@dataclass(frozen=True, slots=True)
class Loading:
    """A template that cannot be copied yet."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A template that attempts of its key are copies of."""

    memory_bytes: int  # that it takes; copies share what they do not change


@dataclass(frozen=True, slots=True)
class Cold:
    """There is no template of this key, nor will there be."""

    because: str


TemplateState = Loading | Loaded | Cold


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything of a node at one instant. An attempt that is absent was never started there, or
    has been forgotten."""

    at_ms: int
    attempts: Mapping[AttemptId, AttemptState]
    templates: Mapping[str, TemplateState] = field(default_factory=dict)  # by key


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nothing is known since then: what ran may still run. Absence is not death."""

    since_ms: int
    because: str


Observation = Seen | Unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A node as the engine finds it."""

    id: str
    group: str
    capacity: Capacity
    address: str = "127.0.0.1"
    provider_id: str = ""
    limits: str = "none"  # cgroup-v2, cgroup-v1, none
    switch: str = ""  # machines behind one reach each other faster; "" is not known
    facts: Mapping[str, str] = field(default_factory=dict)


LogMark = tuple[int, int]  # by so many nanoseconds since 1970, the log was so many bytes long


@dataclass(frozen=True, slots=True)
class LogMarks:
    """When a log grew: both columns ascend. There may be hundreds of thousands."""

    at_ns: "array[int]" = field(default_factory=lambda: array("Q"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))

    @classmethod
    def of(cls, marks: Iterable[LogMark]) -> "LogMarks":
        told = list(marks)
        return cls(array("Q", [at for at, _ in told]), array("Q", [offset for _, offset in told]))

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def end(self) -> int:
        """How many bytes they date."""
        return self.offsets[-1] if self.offsets else 0

    @property
    def last_ns(self) -> int:
        return self.at_ns[-1] if self.at_ns else 0


@dataclass(frozen=True, slots=True)
class LogChunk:
    """`data` starts at `offset`, which is later than asked where old output was dropped."""

    offset: int
    data: bytes


class Engine(Protocol):
    """Runs attempts on nodes. start and stop ask, and return at once; asking twice is asking once.

    So the caller remembers nothing of what it asked: it observes, compares, and asks again. Every
    ask carries the epoch of its control plane; one older than an epoch seen before is refused with
    StaleEpoch.
    """

    async def machines(self) -> tuple[Machine, ...]: ...

    async def start(self, attempt: Attempt, *, epoch: int) -> None:
        """Have the attempt run. Whatever keeps it from running is told by `observe`, as an Ended
        with NOT_STARTED; an attempt that ended or was stopped never starts again."""
        ...

    async def warm(self, attempt: Attempt, *, epoch: int) -> None:
        """Have a template of the attempt's key loaded, and keep it for as long as others are not
        used more. Whether it comes to that is told by `observe`; an engine that copies nothing does
        nothing. It changes when an attempt starts, and nothing else of it."""
        ...

    async def cool(self, node: str, key: str, *, epoch: int) -> None:
        """End the template of this key, and forget what became of it. Its copies run on."""
        ...

    async def stop(self, node: str, attempt: AttemptId, *, grace_ms: int, epoch: int) -> None:
        """SIGTERM, then SIGKILL after the grace, to everything the attempt started. One that never
        started ends as STOPPED, so that a start still on its way finds it ended."""
        ...

    async def observe(self, node: str) -> Observation: ...

    async def listens(self, node: str, attempt: AttemptId, port: int) -> bool | None:
        """Whether it is a process of this attempt that takes connections to this port of the node,
        and not somebody else's. None where the engine cannot say, as of one in a container."""
        ...

    async def changed(self) -> None:
        """Return when an observation may differ from the last one; at once if it already may."""
        ...

    async def forget(self, node: str, attempt: AttemptId, *, epoch: int) -> None:
        """Leave an ended attempt out of observations. Its log stays until `remove`."""
        ...

    async def remove(self, node: str, attempt: AttemptId, *, epoch: int) -> None:
        """Delete what is left of a forgotten attempt: its files and its log."""
        ...

    async def drop(self, node: str, keeps: str, *, epoch: int) -> None:
        """Delete the folder that attempts of this name shared, if there is one."""
        ...

    async def fence(self, node: str, *, epoch: int) -> bool:
        """Make certain that nothing runs on a node any more; False while that is not certain."""
        ...

    async def read_log(
        self, node: str, attempt: AttemptId, *, offset: int, limit: int
    ) -> LogChunk | None:
        """At most `limit` bytes of output from `offset` on, empty at the end of what there is;
        None if the node has no such log."""
        ...

    async def gpu_use(self, node: str) -> Mapping[int, float]:
        """How much of the time each of a node's GPUs is busy now, 0 to 1, by index. Those that
        nobody can measure are left out."""
        ...

    async def log_marks(self, node: str, attempt: AttemptId) -> LogMarks:
        """When the log grew: what dates its lines. The last mark is of about now, and of the whole
        log once the attempt has ended. What was told once of bytes that are still there is told
        for ever: later marks are only added."""
        ...

    async def close(self) -> None:
        """Let go of everything; what runs keeps running."""
        ...
