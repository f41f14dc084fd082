"""What lies on the disk of an attempt: enough to tell how it is, whoever asks and whenever.

::

    goal.run | goal.stop     whether it is wanted; a stop renames it, on a full disk too
    claim                    made once, exclusively: by the wrapper that runs it, by the stop that
                             came first, or by whoever could not start it
    status                   empty, made before the start, to be renamed where no record of the end
                             can be made anew, as on a full disk
    exited.CODE[.oom] | failed.WHY | lost
                             the record of the end
    log                      what it printed
    work/                    where it starts by default
    trees/NAME/              files laid out for it
    container                while it may have a container: the program that runs that;
    container.judged         the same, when the status is right and nothing more is asked of it

The program runs as the same user, and so may change all of this. What it does there may spoil the
record of its own end, and nothing else: whatever is no record of ours is overlooked.
"""

import errno
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from leptonai.supervisor import processes
from leptonai.supervisor.processes import Identity

CLAIM_LIMIT_BYTES = 16_384
LAST_LINE_BYTES = 500
CONTAINER_PROGRAMS = ("podman", "docker")
MAX_PATH_CHARS = 4_096
LAST_SIGNAL = 64
MODE = 0o700  # of a folder
FAILURES = {
    "claim": "the disk is full: the start could not be recorded",
    "cgroup": "the process could not enter its cgroup, and does not run without its limits",
    "directory": "the directory to start in cannot be entered",
    "start": "",  # what should have started it says why, in the log
}


class Outcome(StrEnum):
    EXITED = "Exited"
    SIGNALLED = "Signalled"
    OUT_OF_MEMORY = "OutOfMemory"
    STOPPED = "Stopped"
    NOT_STARTED = "NotStarted"
    LOST = "Lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    outcome: Outcome
    code: int | None = None
    message: str = ""
    started_at_ms: int | None = None
    finished_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Claimed:
    """It was started, and its status is not known (yet)."""

    wrapper: Identity | None  # None: its wrapper has not yet written who it is, or died before
    cgroups: tuple[str, ...]
    started_at_ms: int

    @property
    def of_this_boot(self) -> bool:
        return self.wrapper is not None and self.wrapper.boot_id == processes.boot_id()


@dataclass(frozen=True, slots=True)
class Folder:
    path: Path

    # Strings, not paths, where every start passes: a Path costs microseconds.
    def at(self, name: str) -> str:
        return f"{self.path}/{name}"

    @property
    def log(self) -> str:
        return self.at("log")

    def identity(self, cgroups: tuple[str, ...]) -> str:
        """What the wrapper adds to the pid and the start time in its claim."""
        first = f"{processes.boot_id()} {processes.pid_namespace()} {place_of(self.path)}"
        return "\n".join([first, *cgroups, "."])

    def prepare(self, *, work: bool = True) -> None:
        """Make what a start needs. May be repeated until the claim.

        Raises:
            OSError: the disk is full, or not writable.
        """
        os.makedirs(self.at("work") if work else self.path, exist_ok=True)
        os.close(os.open(self.at("status"), os.O_CREAT | os.O_WRONLY, 0o600))
        if not self.stop_wanted:
            # A link and no file of its own: making inodes is most of what a start costs.
            with suppress(FileExistsError):
                os.link(self.at("status"), self.at("goal.run"))

    def open_log(self) -> int:
        return os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def claim(self, text: str) -> bool:
        """Claim it so that no wrapper runs it; False if somebody was faster.

        The text appears with the claim or not at all: it is written elsewhere and linked.

        Raises:
            OSError: the disk is full, or not writable.
        """
        self.path.mkdir(exist_ok=True, parents=True)
        draft = self.at(f"claim.{os.getpid()}")
        try:
            Path(draft).write_text(text[:CLAIM_LIMIT_BYTES])
            os.link(draft, self.at("claim"))
        except FileExistsError:
            return False
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)
        return True

    def want_stop(self) -> None:
        """From here on no wrapper starts the command. A rename needs no room on the disk."""
        with suppress(FileNotFoundError):
            os.rename(self.at("goal.run"), self.at("goal.stop"))

    @property
    def stop_wanted(self) -> bool:
        return os.path.exists(self.at("goal.stop"))

    @property
    def container_program(self) -> str:
        """By its full path; "" where it has no container, or none any more."""
        for name in ("container", "container.judged"):
            with suppress(OSError), os.fdopen(open_plain(self.at(name)), errors="replace") as file:
                program = file.read(MAX_PATH_CHARS)
                # Else it was not we who wrote that, but the program that runs there.
                if os.path.basename(program) in CONTAINER_PROGRAMS:
                    return program
        return ""

    @property
    def container_judged(self) -> bool:
        return not os.path.exists(self.at("container"))

    def note_container(self, program: str) -> None:
        Path(self.at("container")).write_text(program)

    def judge_container(self) -> None:
        with suppress(FileNotFoundError):
            os.rename(self.at("container"), self.at("container.judged"))

    def forget_container(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.at("container.judged"))

    def cgroups(self) -> tuple[str, ...]:
        """Those it was started in."""
        return _read_claim(self).cgroups

    def record_oom(self, code: int) -> None:
        """Keep what only the cgroup knows, before the cgroup goes."""
        with suppress(FileNotFoundError):
            os.rename(self.at(f"exited.{code}"), self.at(f"exited.{code}.oom"))

    def record_exit(self, code: int, *, oom: bool) -> None:
        """Keep what only its container knows, before the container goes."""
        with suppress(FileNotFoundError):
            os.rename(self.at("status"), self.at(f"exited.{code}" + (".oom" if oom else "")))

    def record_not_started(self, code: int) -> None:
        """The wrapper's command was not the attempt's but what should have started that."""
        with suppress(FileNotFoundError):
            os.rename(self.at(f"exited.{code}"), self.at("failed.start"))

    def disown_exit(self, code: int) -> None:
        """The exit status is not that of the attempt's command, which has left none."""
        with suppress(FileNotFoundError):
            os.rename(self.at(f"exited.{code}"), self.at("lost"))

    def record_lost(self) -> None:
        """Only when nothing of it runs any more: after this nobody can record a status."""
        with suppress(FileNotFoundError):
            os.rename(self.at("status"), self.at("lost"))

    def read(self) -> Claimed | Ending | None:
        """What it says of itself; None: nobody has claimed it."""
        names = _names(self.path)
        if "claim" not in names:
            return None
        claim = _read_claim(self)
        started = claim.started_at_ms
        for name in names:
            kind, _, rest = name.partition(".")
            if exited := _EXITED.fullmatch(name):
                code, oom = int(exited[1]), bool(exited[2])
                return self._exited(code, oom, "goal.stop" in names, name, started)
            if kind == "failed" and rest in FAILURES:
                return Ending(
                    outcome=Outcome.NOT_STARTED,
                    message=FAILURES[rest] or self._last_line(),
                    finished_at_ms=_changed_ms(self.at(name)),
                )
            if name == "lost":
                stopped = "goal.stop" in names
                return Ending(
                    outcome=Outcome.STOPPED if stopped else Outcome.LOST,
                    started_at_ms=started,
                    finished_at_ms=_changed_ms(self.at(name)),
                )
        if claim.verb == "stopped":
            return Ending(
                outcome=Outcome.STOPPED,
                message="stopped before it started",
                finished_at_ms=started,
            )
        if claim.verb == "unstarted":
            return Ending(outcome=Outcome.NOT_STARTED, message=claim.rest, finished_at_ms=started)
        return Claimed(claim.wrapper, claim.cgroups, started)

    def _exited(self, code: int, oom: bool, stopped: bool, name: str, started: int) -> Ending:
        if stopped:
            # Also when it had time to clean up and exited with a code of its own, which is kept.
            outcome = Outcome.STOPPED
        elif oom and code != 0:
            outcome = Outcome.OUT_OF_MEMORY
        elif 128 < code <= 128 + LAST_SIGNAL:
            outcome = Outcome.SIGNALLED
        else:
            outcome = Outcome.EXITED
        cannot_run = outcome is Outcome.EXITED and code in (126, 127)
        return Ending(
            outcome=outcome,
            code=code,
            message=self._last_line() if cannot_run else "",
            started_at_ms=started,
            finished_at_ms=_changed_ms(self.at(name)),
        )

    def _last_line(self) -> str:
        """What a shell says last before it gives up with 126 or 127 is why."""
        try:
            with os.fdopen(open_plain(self.log), "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - LAST_LINE_BYTES))
                line = log.read().decode(errors="replace").strip().rpartition("\n")[2]
        except OSError:
            return ""
        # The wrapper's own words: ".../wrapper.sh: 54: exec: /etc/passwd: Permission denied".
        return line.rpartition("wrapper.sh: ")[2].partition("exec: ")[2] or line


@dataclass(frozen=True, slots=True)
class _Claim:
    verb: str
    rest: str
    wrapper: Identity | None
    cgroups: tuple[str, ...]
    started_at_ms: int


def open_plain(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a file of the folder that must be a plain one: a pipe in its place would hold us up for
    ever, and a link lead us elsewhere.

    Raises:
        OSError: it is none, or not there.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no plain file", str(path))
    return fd


def is_plain(path: str | Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


_EXITED = re.compile(r"exited\.([0-9]{1,3})(\.oom)?")
_STARTED = re.compile(r"([0-9]{1,9}) ([0-9]{1,19}) (\S+) ([0-9]{1,19})(?: ([0-9a-f.]{1,40}))?")


def place_of(path: Path) -> str:
    """Of a folder: the same after a move, and not that of a copy."""
    status = os.stat(path)
    return f"{status.st_dev:x}.{status.st_ino:x}"


def _read_claim(folder: Folder) -> _Claim:
    try:
        with os.fdopen(open_plain(folder.at("claim")), encoding="utf-8", errors="replace") as file:
            started_at_ms = os.fstat(file.fileno()).st_mtime_ns // 1_000_000
            text = file.read(CLAIM_LIMIT_BYTES)
    except OSError:  # none that we wrote, or not any more
        return _Claim("", "", None, (), 0)
    verb, _, rest = text.partition(" ")
    if verb == "started" and text.endswith("\n.\n"):
        first, *cgroups = rest.splitlines()[:-1]
        started = _STARTED.fullmatch(first)
        # In a copy of the folder it names what the original runs, which is not ours to watch.
        if started and (not started[5] or started[5] == place_of(folder.path)):
            wrapper = Identity(int(started[1]), int(started[2]), started[3], int(started[4]))
            return _Claim(verb, "", wrapper, tuple(cgroups), started_at_ms)
    if verb in ("stopped", "unstarted"):
        return _Claim(verb, rest.strip(), None, (), started_at_ms)
    # Being written, cut short by a crash, or of another folder.
    return _Claim("", "", None, (), started_at_ms)


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:  # its program has locked us out
        os.chmod(path, MODE)
        return os.listdir(path)


def _changed_ms(path: str) -> int:
    try:
        return os.stat(path).st_ctime_ns // 1_000_000  # a rename changes the inode
    except FileNotFoundError:
        return 0
