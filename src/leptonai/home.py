"""Where one platform keeps everything: the files under $LEPTON_HOME."""

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leptonai.errors import InvalidRequest, Locked
from leptonai.processes import Process

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
OPTIONS_VARIABLE = "LEPTON_PLATFORM_OPTIONS"  # what `up` was told, for the platform, in JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformState:
    """What a running platform says of itself to whoever may read its home."""

    url: str
    gateway_url: str
    workspace: str
    pid: int
    version: str
    token_file: str
    started: str = ""  # of the process: tells it from a later one of the same pid
    blobs: str = ""  # where they lie: a directory, or a bucket's URL
    blobs_encrypted: bool = False

    @property
    def process(self) -> Process:
        return Process(self.pid, self.started)

    @property
    def shown(self) -> dict[str, Any]:
        """What people are told."""
        return {name: value for name, value in asdict(self).items() if name != "started"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What was decided at an earlier start and holds until another is asked."""

    workspaces: tuple[str, ...] = ()
    database: str = ""  # URL; "" is SQLite in the home
    blobs: str = ""  # a directory, or a bucket's URL; "" is the home's own directory
    # Whether no other was ever used here, whose records might refer to this home's blobs too.
    sole_database: bool = False


@dataclass(frozen=True, slots=True)
class Home:
    path: Path

    @classmethod
    def default(cls) -> "Home":
        named = os.environ.get("LEPTON_HOME") or "~/.leptonai"
        try:
            return cls(Path(named).expanduser().absolute())
        except (RuntimeError, OSError):  # nobody's home, or no directory that we are in
            raise InvalidRequest(
                f"nobody knows where {named} is", hint="set LEPTON_HOME to an absolute path"
            ) from None

    @property
    def place(self) -> str:
        """Which directory it is: the same after a move, and not that of a copy."""
        return place_of(self.path)

    @property
    def lock(self) -> Path:
        return self.path / "run" / "lock"

    @property
    def state_file(self) -> Path:
        return self.path / "run" / "platform.json"

    @property
    def token_file(self) -> Path:
        return self.path / "token"

    @property
    def key_file(self) -> Path:
        return self.path / "keys" / "platform.key"

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def database(self) -> Path:
        return self.path / "lepton.db"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def gateway(self) -> Path:
        return self.path / "gateway"

    @property
    def gateway_token_file(self) -> Path:
        return self.gateway / "token"

    @property
    def gateway_record(self) -> Path:
        return self.gateway / "process.json"

    @property
    def envoy(self) -> Path:
        """What Envoy reads, and the socket that it tells of itself on."""
        return self.gateway / "envoy"

    @property
    def envoy_record(self) -> Path:
        return self.gateway / "envoy.json"

    @property
    def envoy_log(self) -> Path:
        return self.path / "logs" / "envoy.log"

    @property
    def gateway_handover(self) -> Path:
        """Where the gateway hands its socket to the next."""
        return self.gateway / "handover.sock"

    @property
    def control_log(self) -> Path:
        return self.path / "logs" / "control.log"

    @property
    def access_log(self) -> Path:
        return self.path / "logs" / "access.log"

    @property
    def gateway_log(self) -> Path:
        return self.path / "logs" / "gateway.log"

    @property
    def audit_log(self) -> Path:
        return self.path / "logs" / "audit.log"

    def make(self) -> None:
        """Make the folders, for nobody else to read.

        Raises:
            InvalidRequest: the place cannot be written to, or named.
        """
        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            raise InvalidRequest(
                f"{os.fsencode(self.path).decode(errors='replace')} has characters that file names "
                f"in {sys.getfilesystemencoding()}, as here, have not",
                hint="set LC_ALL=C.UTF-8, or LEPTON_HOME to a directory with an ASCII name",
            ) from None
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for part in ("run", "logs", "gateway", "attempts", "blobs"):
                (self.path / part).mkdir(exist_ok=True, mode=0o700)
            probe = self.path / "run" / f"probe.{os.getpid()}"
            probe.write_text("can this be written?")
            probe.unlink()
        except OSError as error:
            raise InvalidRequest(
                f"cannot write to {self.path}: {error.strerror or error}",
                hint="make room on its disk, or set LEPTON_HOME to a directory of another"
                if error.errno in NO_ROOM
                else "make it writable, or set LEPTON_HOME to a directory that is",
            ) from None

    def state(self) -> PlatformState | None:
        """Of the platform that runs here, or None."""
        try:
            state = PlatformState(**self.read_record(self.state_file))
            return state if state.process.alive else None
        except (OSError, ValueError, TypeError):
            return None

    def holder(self) -> Process | None:
        """The process of the platform that runs here, even if its state got lost."""
        try:
            pid, started, *place = self.lock.read_text().split()
            process = Process(int(pid), started)
        except (OSError, ValueError):
            return None
        return process if process.alive and place in ([], [self.place]) else None

    @contextlib.contextmanager
    def locked(self, *, as_platform: bool = False) -> Iterator[None]:
        """Be the only one who runs a platform here, or ends one. However this process ends, the
        lock goes with it, for nothing that it starts inherits the lock.

        Raises:
            Locked: somebody else is.
        """
        self.make()
        with self.lock.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise self._taken() from None
            lock.truncate(0)
            if as_platform:
                me = Process.of(os.getpid())
                lock.write(f"{me.pid} {me.started} {self.place}\n")
                lock.flush()
            yield

    @property
    def is_locked(self) -> bool:
        try:
            with self.locked():
                return False
        except Locked:
            return True

    def _taken(self) -> Locked:
        state = self.state()
        if state is None:
            return Locked(
                f"a platform is starting or stopping in {self.path}",
                hint="try again in a moment, and see `leptonai status`",
            )
        return Locked(
            f"a platform already runs in {self.path} (pid {state.pid})",
            hint="see `leptonai status`, or stop it with `leptonai down`",
        )

    def config(self) -> Settled:
        """
        Raises:
            InvalidRequest: it cannot be read; going on without would use another database.
        """
        try:
            facts = json.loads(self.config_file.read_text())
            workspaces, database = facts["workspaces"], facts["database"]
            blobs = facts.get("blobs", "")
            if not (
                isinstance(database, str)
                and isinstance(blobs, str)
                and isinstance(workspaces, list)
                and all(isinstance(name, str) for name in workspaces)
            ):
                raise TypeError
            return Settled(
                workspaces=tuple(workspaces),
                database=database,
                blobs=blobs,
                sole_database=facts.get("sole_database") is True,
            )
        except FileNotFoundError:
            return Settled()
        except (OSError, ValueError, KeyError, TypeError):
            raise InvalidRequest(
                f"{self.config_file} cannot be read: it says which database, blobs and workspaces "
                "to use",
                hint="restore it; or remove it, and give --database, --blobs and --workspace to "
                "`leptonai up` if they were not the usual ones",
            ) from None

    def write_config(self, settled: Settled) -> None:
        replace_file(self.config_file, json.dumps(asdict(settled)))

    def write_state(self, state: PlatformState) -> None:
        self.write_record(self.state_file, asdict(state))

    def write_record(self, file: Path, facts: Mapping[str, Any]) -> None:
        """Note a process of this home, for those who come later.

        On a full disk into the room of the note before: what is down comes up again there, too.
        """
        text = json.dumps({**facts, "place": self.place})
        try:
            replace_file(file, text)
        except OSError as error:
            if error.errno not in NO_ROOM or not file.exists():
                raise
            with file.open("r+") as same:
                same.write(text)
                same.truncate()

    def read_record(self, file: Path) -> dict[str, Any]:
        """What was noted.

        Raises:
            OSError, ValueError, TypeError: nothing was, in this home: what is noted in a copy is a
                process of the original.
        """
        facts = dict(json.loads(file.read_text()))
        if facts.pop("place", self.place) != self.place:
            raise ValueError(f"{file} was written in another directory")
        return facts

    def forget_state(self) -> None:
        self.state_file.unlink(missing_ok=True)


def refuse_if_locked_out(home: Path) -> None:
    """
    Raises:
        InvalidRequest: this user cannot know what runs there.
    """
    if home.exists() and not os.access(home, os.X_OK):
        raise InvalidRequest(
            f"{home} may not be read by this user",
            hint="set LEPTON_HOME to a directory of yours; or LEPTON_WORKSPACE_URL and "
            "LEPTON_WORKSPACE_TOKEN to what the owner of that one gave you",
        )


def place_of(directory: Path) -> str:
    status = directory.stat()
    return f"{status.st_dev:x}.{status.st_ino:x}"


def replace_file(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
