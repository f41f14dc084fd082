"""Control groups: the limits of an attempt, and the surest list of its processes.

Version 2, or the controllers of version 1 where a machine still has it, found in the mount table
and by the permissions of what is mounted there; a successful mkdir proves nothing (on a plain
directory it succeeds too).
"""

import errno
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from leptonai.supervisor import processes

PERIOD_US = 100_000  # of the CPU quota
MIN_QUOTA_US = 1_000  # the kernel takes no less
V1_SHARES_A_CORE = 1_024
V2_WEIGHT_A_CORE = 100
SIGNAL_ROUNDS = 20
V2_CONTROLLERS = ("memory", "cpu", "pids")
PROCESSES_PERCENT = 15  # of what the kernel has room for, to one attempt: systemd's share too


@dataclass(frozen=True, slots=True)
class Limits:
    cpu_millis: int = 0  # its fair weight; 0 is the default weight
    limit_cpu_millis: int | None = None
    limit_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where this machine lets us make groups."""

    version: Literal[0, 1, 2]  # 0: nowhere
    bases: dict[str, Path] = field(default_factory=dict)  # by controller; "" holds all of version 2
    controllers: frozenset[str] = frozenset()

    @classmethod
    def detect(cls, name: str, *, proc: Path = Path("/proc/self")) -> "Cgroups":
        """`name` is ours alone: the groups lie below a group of this name."""
        mounts = _mounts((proc / "mountinfo").read_text())
        own = _own_groups((proc / "cgroup").read_text())
        v1: dict[str, Path] = {}
        for mount in mounts:
            for controller in mount.controllers & {"memory", "cpu", "pids", "freezer"}:
                parent = _writable([mount.point, mount.place(own.get(controller, "/"))])
                if parent is not None:
                    v1[controller] = parent / name
        if "memory" in v1 or "pids" in v1:
            return cls(1, v1, frozenset(v1))
        for mount in mounts:
            if mount.version == 2:
                here = mount.place(own.get("", "/"))
                # Beside us rather than below us: a service manager that stops our own group must
                # not take the workloads with it, and a group with processes may not limit children.
                parent = _writable([mount.point, here.parent if here != mount.point else here])
                if parent is not None:
                    return cls(2, {"": parent / name}, _v2_controllers(parent))
        return cls(0)

    @property
    def limits(self) -> str:
        """How limits are enforced, for the node's record."""
        if not {"memory", "cpu"} <= self.controllers:
            return "none"
        return f"cgroup-v{self.version}"

    def create(self, name: str, limits: Limits) -> "Group":
        """A group for one attempt; the same one if it exists. Only what it needs is made: a trivial
        attempt costs one mkdir.

        Raises:
            OSError: the kernel refuses.
        """
        if self.version == 0:
            return Group(())
        if self.version == 2:
            return Group((self._create_v2(str(self.bases[""]), name, limits),))
        # The first one is the one that is asked for processes; every attempt has it.
        tracker = next(c for c in ("pids", "freezer", "memory", "cpu") if c in self.bases)
        wanted = [tracker]
        if limits.limit_memory_bytes is not None:
            wanted.append("memory")
        if limits.cpu_millis or limits.limit_cpu_millis is not None:
            wanted.append("cpu")
        # Strings, as in a folder: every start passes here, and a Path costs microseconds.
        paths = {c: f"{self.bases[c]}/{name}" for c in wanted if c in self.bases}
        for controller, path in paths.items():
            _make(path)
            if controller == "pids":
                _write(f"{path}/pids.max", max_processes())
            if controller == "memory" and limits.limit_memory_bytes is not None:
                _write(f"{path}/memory.limit_in_bytes", limits.limit_memory_bytes)
                with suppress(OSError):  # only where the kernel accounts for swap
                    _write(f"{path}/memory.memsw.limit_in_bytes", limits.limit_memory_bytes)
            if controller == "cpu":
                if limits.cpu_millis:
                    shares = limits.cpu_millis * V1_SHARES_A_CORE // 1_000
                    _write(f"{path}/cpu.shares", max(2, shares))
                if limits.limit_cpu_millis is not None:
                    _write(f"{path}/cpu.cfs_period_us", PERIOD_US)
                    _write(f"{path}/cpu.cfs_quota_us", _quota(limits.limit_cpu_millis))
        return Group(tuple(paths.values()))

    def existing(self) -> dict[str, "Group"]:
        """Every group below our name, by its own name; also those that nobody remembers."""
        found: dict[str, list[str]] = {}
        for base in self.bases.values():
            with suppress(OSError):
                for entry in os.scandir(base):
                    if entry.is_dir():
                        found.setdefault(entry.name, []).append(entry.path)
        return {name: Group(tuple(paths)) for name, paths in sorted(found.items())}

    def tidy(self) -> bool:
        """Delete our base groups where no attempt has one; False if that is worth another try: the
        kernel takes a moment to let go of the last attempt's."""
        if self.existing():
            return True
        for base in self.bases.values():
            try:
                base.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def _create_v2(self, base: str, name: str, limits: Limits) -> str:
        path = f"{base}/{name}"
        _make(path)
        # Every time, for whoever made the base may have died before this line.
        enable = " ".join(f"+{controller}" for controller in sorted(self.controllers))
        if enable:
            _write(f"{base}/cgroup.subtree_control", enable)
        if "pids" in self.controllers:
            _write(f"{path}/pids.max", max_processes())
        if limits.limit_memory_bytes is not None and "memory" in self.controllers:
            _write(f"{path}/memory.max", limits.limit_memory_bytes)
            with suppress(OSError):  # only where the kernel accounts for swap
                _write(f"{path}/memory.swap.max", 0)
        if limits.cpu_millis and "cpu" in self.controllers:
            weight = limits.cpu_millis * V2_WEIGHT_A_CORE // 1_000
            _write(f"{path}/cpu.weight", min(10_000, max(1, weight)))
        if limits.limit_cpu_millis is not None and "cpu" in self.controllers:
            _write(f"{path}/cpu.max", f"{_quota(limits.limit_cpu_millis)} {PERIOD_US}")
        return path


@dataclass(frozen=True, slots=True)
class Group:
    """The groups of one attempt, one a controller in version 1; () where the machine has none."""

    paths: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.paths)

    def members(self) -> list[int]:
        pids: set[int] = set()
        for path in self.paths:
            with suppress(OSError):
                # A program may have made groups of its own below: a directory more, a link more.
                nested = [d for d, _, _ in os.walk(path)] if os.stat(path).st_nlink > 2 else [path]
                for directory in nested:
                    pids.update(map(int, Path(directory, "cgroup.procs").read_bytes().split()))
        return sorted(pids - {0})  # 0 is a process of a namespace that we cannot see into

    def send(self, number: signal.Signals) -> bool:
        """Signal every member; says whether there was any."""
        if not self.paths:
            return False
        if number == signal.SIGKILL and self._kill_v2():
            return bool(self.members())
        signalled: set[int] = set()
        for _ in range(SIGNAL_ROUNDS):  # a member may fork before the signal reaches it
            missed = set(self.members()) - signalled
            if not missed:
                break
            if signalled and number == signal.SIGKILL:
                # Not before the first kills: a shell that cannot fork exits with a code of its own.
                self._forbid_forks()
            with ExitStack() as stack:
                # First the handle, then the proof of membership: a pid that changed its owner in
                # between is either gone (the signal finds nobody) or again a member.
                handles = {pid: stack.enter_context(processes.handle(pid)) for pid in missed}
                for pid in missed & set(self.members()):
                    if (fd := handles[pid]) is not None:
                        processes.send(fd, number)
            signalled |= missed
        return bool(signalled)

    def oom_killed(self) -> bool:
        """Whether the kernel killed a member at the memory limit."""
        for path in self.paths:
            for name in ("memory.events", "memory.oom_control"):
                with suppress(OSError):
                    for line in Path(path, name).read_text().splitlines():
                        if line.startswith("oom_kill ") and int(line.split()[1]) > 0:
                            return True
        return False

    def remove(self) -> bool:
        """Delete the groups, below them too; False while a member lives."""
        gone = True
        for path in self.paths:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                for directory, _, _ in os.walk(path, topdown=False):
                    with suppress(OSError):
                        os.rmdir(directory)
                gone = gone and not Path(path).exists()
        return gone

    def _forbid_forks(self) -> None:
        # A fork bomb outruns any loop of kills; one that may not fork does not.
        for path in self.paths:
            with suppress(OSError):
                _write(f"{path}/pids.max", 0)

    def _kill_v2(self) -> bool:
        try:
            _write(f"{self.paths[0]}/cgroup.kill", 1)
        except OSError:  # version 1, or a kernel before 5.14
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Mount:
    version: Literal[1, 2]
    point: Path
    root: str  # of the hierarchy as far as this mount shows it
    controllers: frozenset[str]

    def place(self, group: str) -> Path:
        """Where a group of /proc/self/cgroup lies in the file system."""
        below = os.path.relpath(group, self.root)
        return self.point if below.startswith("..") else self.point / below


def _mounts(mountinfo: str) -> list[_Mount]:
    """The cgroup mounts: mountinfo tells what /proc/mounts does, and their roots."""
    mounts = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(" ", 2)
        point = Path(fields[4].encode().decode("unicode_escape"))  # a space is \\040
        if kind == "cgroup2":
            mounts.append(_Mount(2, point, fields[3], frozenset()))
        elif kind == "cgroup":
            mounts.append(_Mount(1, point, fields[3], frozenset(options.split(","))))
    return mounts


def _own_groups(text: str) -> dict[str, str]:
    """Our own group by controller, "" for version 2."""
    own = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    return own


def _writable(candidates: Sequence[Path]) -> Path | None:
    for path in candidates:
        # Moving a process into a group asks for both: to make it, and to write the common ancestor.
        if os.access(path, os.W_OK) and os.access(path / "cgroup.procs", os.W_OK):
            return path
    return None


def _v2_controllers(parent: Path) -> frozenset[str]:
    """What groups below `parent` can limit."""
    available = (parent / "cgroup.controllers").read_text().split()
    for controller in V2_CONTROLLERS:
        if controller in available:
            with suppress(OSError):  # refused where the group holds processes itself
                _write(f"{parent}/cgroup.subtree_control", f"+{controller}")
    enabled = (parent / "cgroup.subtree_control").read_text().split()
    return frozenset(enabled) & frozenset(V2_CONTROLLERS)


@cache
def max_processes() -> int:
    """Of one attempt, threads included: so many that no honest program meets it, and so few that
    one which forks without end leaves room for the rest of the machine."""
    room = min(
        int(Path("/proc/sys/kernel", name).read_text()) for name in ("pid_max", "threads-max")
    )
    return room * PROCESSES_PERCENT // 100


def _quota(limit_cpu_millis: int) -> int:
    return max(MIN_QUOTA_US, limit_cpu_millis * PERIOD_US // 1_000)


def _make(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)


def _write(path: str, value: int | str) -> None:
    # Not Path.write_text: that opens with O_CREAT, and a file that is not there must be an error.
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise OSError(error.errno, f"the kernel does not take {value}", path) from error
        raise
    finally:
        os.close(fd)
