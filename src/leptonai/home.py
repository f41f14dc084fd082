"""Where one platform keeps everything: the files under $LEPTON_HOME."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from leptonai.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformState:
    """What a running platform says of itself to whoever may read its home."""

    url: str
    gateway_url: str
    workspace: str
    pid: int
    version: str
    token_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What was decided at an earlier start and holds until another is asked."""

    workspaces: tuple[str, ...] = ()
    database: str = ""  # URL; "" is SQLite in the home


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
    def control_log(self) -> Path:
        return self.path / "logs" / "control.log"

    @property
    def gateway_log(self) -> Path:
        return self.path / "logs" / "gateway.log"

    @property
    def audit_log(self) -> Path:
        return self.path / "logs" / "audit.log"

    def make(self) -> None:
        """Make the folders, for nobody else to read.

        Raises:
            InvalidRequest: the place cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for part in ("run", "logs", "gateway"):
                (self.path / part).mkdir(exist_ok=True, mode=0o700)
            probe = self.path / "run" / f"probe.{os.getpid()}"
            probe.write_text("can this be written?")
            probe.unlink()
        except OSError as error:
            raise InvalidRequest(
                f"cannot write to {self.path}: {error.strerror or error}",
                hint="make it writable, or set LEPTON_HOME to a directory that is",
            ) from None

    def state(self) -> PlatformState | None:
        """Of the platform that runs here, or None."""
        try:
            facts = json.loads(self.state_file.read_text())
            born = facts.pop("born")
            state = PlatformState(**facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return state if is_alive(state.pid, born) else None

    def holder(self) -> int | None:
        """The process that holds the lock: the platform's, even if its state got lost."""
        try:
            pid, _, born = self.lock.read_text().strip().partition(" ")
            return int(pid) if is_alive(int(pid), born) else None
        except (OSError, ValueError):
            return None

    def config(self) -> Settled:
        """
        Raises:
            InvalidRequest: it cannot be read; going on without would use another database.
        """
        try:
            facts = json.loads(self.config_file.read_text())
            workspaces, database = facts["workspaces"], facts["database"]
            if not (
                isinstance(database, str)
                and isinstance(workspaces, list)
                and all(isinstance(name, str) for name in workspaces)
            ):
                raise TypeError
            return Settled(workspaces=tuple(workspaces), database=database)
        except FileNotFoundError:
            return Settled()
        except (OSError, ValueError, KeyError, TypeError):
            raise InvalidRequest(
                f"{self.config_file} cannot be read: it says which database and workspaces to use",
                hint="restore it; or remove it, and give --database and --workspace to "
                "`leptonai up` if they were not the usual ones",
            ) from None

    def write_config(self, settled: Settled) -> None:
        replace_file(self.config_file, json.dumps(asdict(settled)))

    def write_state(self, state: PlatformState) -> None:
        facts = asdict(state) | {"born": birth_of(state.pid)}
        replace_file(self.state_file, json.dumps(facts))

    def forget_state(self) -> None:
        self.state_file.unlink(missing_ok=True)


def replace_file(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)


def birth_of(pid: int) -> str:
    """When a process began, as text: tells it from an earlier or later one of the same number. ""
    where there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else f"{boot} {fields[19]}"


def is_alive(pid: object, born: object) -> bool:
    """Whether it is still that process, and no other one."""
    return type(pid) is int and pid > 0 and born != "" and born == birth_of(pid)
