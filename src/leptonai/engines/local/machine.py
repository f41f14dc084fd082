"""This machine, as the platform records it."""

import ctypes
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from leptonai.core.resources import MILLIS, Capacity
from leptonai.ports.engine import Machine


@dataclass(frozen=True, slots=True)
class Gpus:
    count: int = 0
    type: str = ""
    driver: str = ""


def describe(home: Path, *, id: str, node: str, group: str, limits: str, gpus: Gpus) -> Machine:
    facts = {
        "os": _os_name(),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "hostname": platform.node(),
        "home": str(home),
    }
    if gpus.driver:
        facts["gpu_driver"] = gpus.driver
    return Machine(
        id=node,
        group=group,
        capacity=Capacity(
            cpu_millis=len(os.sched_getaffinity(0)) * MILLIS,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            disk_bytes=shutil.disk_usage(home).total,
            gpus=gpus.count,
            gpu_type=gpus.type,
        ),
        provider_id=id,
        limits=limits,
        facts={name: value for name, value in facts.items() if value},
    )


def find_gpus() -> Gpus:
    """The NVIDIA devices, through NVML where its library exists; else none.

    Takes some tens of milliseconds where there is a driver, and almost nothing where there is none.
    """
    try:
        ctypes.CDLL("libnvidia-ml.so.1")  # first, so that nothing is imported in vain
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no binding, no driver: no GPU
        return Gpus()
    try:
        count = pynvml.nvmlDeviceGetCount()
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)) if count else ""
        driver = pynvml.nvmlSystemGetDriverVersion()
        return Gpus(count, _text(name), _text(driver))
    except pynvml.NVMLError:
        return Gpus()
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
