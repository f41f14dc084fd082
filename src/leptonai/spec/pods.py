"""A pod: one replica to work in, with files that last. The wire calls it a deployment too.

What follows `PodSettings` is spoken between a pod and who enters it or watches over it.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from leptonai.spec.containers import HOST_PORT_MAPPING, ContainerPort
from leptonai.spec.metadata import Wire

SSH_PORT, TCP_PORT, JUPYTER_PORT = 2222, 18888, 18889  # by the published convention
JUPYTER_AT = "lab"  # the gateway serves JupyterLab at /lab/WORKSPACE/NAME/
PROXY_AT = "port"  # and the port that is to be proxied at /port/WORKSPACE/NAME/
MAX_SSH_KEYS = 20
MAX_KEY_CHARS = 16_384
# Variables that may hold public keys, as those of secrets do.
SSH_KEY_VARIABLES = ("SSH_PUBLIC_KEY", "PUBLIC_KEY")
# One line of authorized_keys, without options.
SSH_KEY_PATTERN = (
    r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9-]+@openssh\.com)"
    r" [A-Za-z0-9+/]{16,}={0,3}( [^\r\n\0]*)?\Z"
)
MAX_IDLE_STOP_S = 30 * 86_400


class PodSettings(Wire, frozen=True):
    """An extension of the published format: what a pod has beside a container."""

    ssh_keys: (
        Annotated[
            list[Annotated[str, Meta(max_length=MAX_KEY_CHARS)]], Meta(max_length=MAX_SSH_KEYS)
        ]
        | None
    ) = None  # public ones, as in authorized_keys
    ssh_listen: str | None = None  # the address that its SSH server listens on; 127.0.0.1
    jupyter: bool | None = None  # JupyterLab starts with it
    idle_stop_seconds: Annotated[int, Meta(ge=60, le=MAX_IDLE_STOP_S)] | None = None


def default_ports() -> list[ContainerPort]:
    """Those that every pod has."""
    return [
        ContainerPort(container_port=port, name=name, expose_strategies=[HOST_PORT_MAPPING])
        for port, name in ((SSH_PORT, "ssh"), (TCP_PORT, "tcp"), (JUPYTER_PORT, "jupyterlab"))
    ]


class PodPlan(Wire, frozen=True):
    """What a pod's own process is told at its start, beside its variables."""

    ports: list[int]  # container ports, in the order of those that it was given
    command: list[str] = field(default_factory=list)  # runs beside it; [] is none
    ssh_keys: list[str] = field(default_factory=list)
    ssh_listen: str = "127.0.0.1"
    jupyter: bool = False
    jupyter_path: str = "/"  # where the gateway serves JupyterLab


# --- what a pod tells -----------------------------------------------------------------------------


class PodActivity(Wire, frozen=True):
    """What goes on in a pod now: a pod in which nothing does is idle."""

    sessions: int = 0  # terminals and commands by WebSocket
    forwards: int = 0  # open connections to its ports
    ssh: int = 0  # connections
    kernels: int = 0  # of Jupyter that compute, or are being looked at
    cpu_millis: int = 0  # lately
    quiet_s: int = 0  # since somebody was last here


class PodNote(Wire, frozen=True, omit_defaults=False):
    """Something that happened in a pod, to be told as an event."""

    number: int  # counts them, from 1
    reason: str
    message: str
    severity: Literal["Normal", "Warning"] = "Normal"


class PodReport(Wire, frozen=True, omit_defaults=False):
    """How a pod is."""

    version: int  # grows with every change
    activity: PodActivity
    ssh_host_key: str = ""  # public, as in known_hosts; "" where there is no SSH server
    user: str = ""  # whom SSH logs in
    home: str = ""  # where its files are, on its node
    jupyter: str = ""  # "", installing, starting, running, failed
    notes: list[PodNote] = field(default_factory=list)  # the last ones


# --- what is said in a session --------------------------------------------------------------------

# A binary message begins with a byte that says which stream its bytes belong to.
STDIN, STDOUT, STDERR = b"\x00", b"\x01", b"\x02"
CHUNK_BYTES = 64 << 10
MAX_MESSAGE_BYTES = 1 << 20
MAX_ARGUMENTS, MAX_COMMAND_CHARS = 1_000, 128 << 10
WindowSide = Annotated[int, Meta(ge=1, le=10_000)]
SignalName = Literal["HUP", "INT", "QUIT", "TERM", "KILL", "USR1", "USR2", "CONT", "STOP", "TSTP"]


class Window(Wire, frozen=True, omit_defaults=False):
    rows: WindowSide
    columns: WindowSide


class ExecRequest(Wire, frozen=True):
    """The first message of a session."""

    command: Annotated[list[str], Meta(max_length=MAX_ARGUMENTS)] = field(
        default_factory=list
    )  # [] is a login shell
    window: Window | None = None  # of its terminal; None: it has none
    terminal: Annotated[str, Meta(max_length=100)] = ""  # its type: TERM


class ExecControl(Wire, frozen=True):
    """A text message from the client; one field of it is set."""

    window: Window | None = None
    signal: SignalName | None = None
    end_of_input: bool = False


class ExecEnd(Wire, frozen=True, omit_defaults=False):
    """The last message of a session. `code` is 128 + n after signal n."""

    code: int
    error: str = ""  # why it did not run


class ForwardControl(Wire, frozen=True):
    """A text message of a forwarded connection, from either side."""

    end: bool = False  # no more bytes from this side
    error: str = ""


# --- what is said while files are synchronised ----------------------------------------------------
#
#   client: SyncStart, SyncFiles … last                  what there is
#   pod:    SyncWants … last                             what it has not, or has otherwise
#   client: SyncContents and their bytes …, SyncRemoval … last
#   pod:    SyncDone
#
# and from SyncStart again, where the client watches for changes.

SYNC_BLOCK_BYTES = 64 << 10
MAX_SYNC_ENTRIES = 200_000
SYNC_ENTRIES_A_MESSAGE = 2_000
PartStart = Annotated[int, Meta(ge=-1, le=1 << 40)]
PartSize = Annotated[int, Meta(ge=0, le=1 << 50)]
MomentNs = Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]
SyncPath = Annotated[str, Meta(min_length=1, max_length=4_096)]


class SyncStart(Wire, frozen=True):
    to: Annotated[str, Meta(max_length=4_096)] = ""  # a directory below the pod's home
    delete: bool = False  # what the client has not


class SyncEntry(msgspec.Struct, frozen=True, array_like=True):
    """A file, a directory, or a link."""

    path: SyncPath
    kind: Literal["f", "d", "l"]
    size: PartSize = 0
    mtime_ns: MomentNs = 0
    executable: bool = False
    target: str = ""  # of a link


class SyncFiles(Wire, frozen=True):
    entries: Annotated[list[SyncEntry], Meta(max_length=SYNC_ENTRIES_A_MESSAGE)]
    last: bool = False


class SyncWish(msgspec.Struct, frozen=True, array_like=True):
    """A file that the pod has not, or has otherwise: then with the digest of each of its blocks."""

    path: SyncPath
    blocks: list[bytes] = []


class SyncWants(Wire, frozen=True, tag="wants"):
    wishes: list[SyncWish]
    extra: list[SyncPath] = field(default_factory=list)  # what the client has not
    last: bool = False


class SyncContent(msgspec.Struct, frozen=True, array_like=True):
    """A file, made of runs of blocks that the pod has, `[first, count]`, and of bytes that are
    sent, `[-1, number]`."""

    path: SyncPath
    mtime_ns: MomentNs
    executable: bool
    parts: list[tuple[PartStart, PartSize]]


class SyncContents(Wire, frozen=True, tag="contents"):
    """Their bytes follow in binary messages, cut anywhere."""

    files: Annotated[list[SyncContent], Meta(max_length=SYNC_ENTRIES_A_MESSAGE)]


class SyncRemoval(Wire, frozen=True, tag="removal"):
    """Of what the pod named as extra."""

    paths: Annotated[list[SyncPath], Meta(max_length=SYNC_ENTRIES_A_MESSAGE)]
    last: bool = False


class SyncDone(Wire, frozen=True, omit_defaults=False, tag="done"):
    written: int = 0
    removed: int = 0
    bytes_written: int = 0
    refused: list[str] = field(default_factory=list)  # what was left undone, and why
    error: str = ""
    hint: str = ""  # what to do about it


class JupyterProgress(Wire, frozen=True, omit_defaults=False):
    state: str  # installing, starting, running, failed
    message: str = ""


class SshKey(Wire, frozen=True):
    """A public key that is to be let in."""

    key: Annotated[str, Meta(max_length=MAX_KEY_CHARS, pattern=SSH_KEY_PATTERN)]


class SshReady(Wire, frozen=True, omit_defaults=False):
    host_key: str = ""  # as in known_hosts
    user: str = ""
    error: str = ""


class PodLogin(Wire, frozen=True, omit_defaults=False):
    """Where a browser gets in, once, within the next minute."""

    url: str
