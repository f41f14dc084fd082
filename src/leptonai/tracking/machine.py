"""What a process and its children use, and what the GPUs do: read from /proc, and from NVML."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Machine:
    """Samples of what there was since the one before."""

    def __init__(self, pid: int, *, gpus: bool) -> None:
        self._pid = pid
        self._before = (time.monotonic(), self._totals())
        self._gpus = _Gpus() if gpus else None

    def sample(self) -> dict[str, float]:
        """By key: CPU, memory and disk of the process tree; network and GPUs of the machine."""
        now_s, totals = time.monotonic(), self._totals()
        then_s, before = self._before
        self._before = now_s, totals
        passed_s = max(now_s - then_s, 1e-3)

        def rate(name: str) -> float:
            return max(0.0, totals[name] - before[name]) / passed_s

        found = {
            "system/cpu_percent": 100 * rate("cpu_s"),
            "system/memory_bytes": totals["memory_bytes"],
            "system/disk_read_bytes_per_s": rate("read_bytes"),
            "system/disk_written_bytes_per_s": rate("written_bytes"),
            "system/network_received_bytes_per_s": rate("received_bytes"),
            "system/network_sent_bytes_per_s": rate("sent_bytes"),
        }
        return found | (self._gpus.sample() if self._gpus else {})

    def _totals(self) -> dict[str, float]:
        totals = dict.fromkeys(("cpu_s", "memory_bytes", "read_bytes", "written_bytes"), 0.0)
        for pid in _tree(self._pid):
            with suppress(OSError, ValueError, IndexError):  # it ended meanwhile
                fields = _stat(pid)
                # With the children that have ended, so that nothing is lost with them.
                totals["cpu_s"] += sum(map(int, fields[11:15])) / TICKS_PER_S
                totals["memory_bytes"] += int(fields[21]) * PAGE_BYTES
                io = dict(line.split(": ") for line in _lines(PROC / str(pid) / "io"))
                totals["read_bytes"] += int(io["read_bytes"])
                totals["written_bytes"] += int(io["write_bytes"])
        received, sent = _network()
        return totals | {"received_bytes": received, "sent_bytes": sent}


class _Gpus:
    """Those that this process may use; none where there is no NVML."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._devices: dict[int, Any] = {}
        with suppress(Exception):  # no driver, no library: no GPUs
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            count = pynvml.nvmlDeviceGetCount()
            for place, index in enumerate(visible(os.environ, count)):
                self._devices[place] = pynvml.nvmlDeviceGetHandleByIndex(index)

    def sample(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for place, device in self._devices.items():
            with suppress(Exception):  # not every GPU tells everything
                use = self._nvml.nvmlDeviceGetUtilizationRates(device)
                found[f"gpu/{place}/utilization_percent"] = float(use.gpu)
            with suppress(Exception):
                memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
                found[f"gpu/{place}/memory_bytes"] = float(memory.used)
            with suppress(Exception):
                power_mw = self._nvml.nvmlDeviceGetPowerUsage(device)
                found[f"gpu/{place}/power_watts"] = power_mw / 1000
        return found


def visible(environ: Mapping[str, str], count: int) -> list[int]:
    """Indices of the GPUs that CUDA shows, of those that there are."""
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [*range(count)]
    indices = []
    for part in named.split(","):
        if not part.strip().isdigit() or int(part) >= count:
            break  # as CUDA reads it: what comes after something unknown is not there
        indices.append(int(part))
    return indices


def _tree(root: int) -> list[int]:
    """A process and all below it. One look costs about 10 µs a process of the machine."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """From the state on; the name before it may hold anything."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _network() -> tuple[int, int]:
    received = sent = 0
    with suppress(OSError, ValueError, IndexError):
        for line in _lines(PROC / "net" / "dev")[2:]:
            name, _, numbers = line.partition(":")
            if name.strip() != "lo":
                fields = numbers.split()
                received += int(fields[0])
                sent += int(fields[8])
    return received, sent


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
