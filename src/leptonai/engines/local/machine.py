"""This machine, as the platform records it."""

import ctypes
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from leptonai.core.resources import MILLIS, Capacity
from leptonai.ports.engine import Machine


@dataclass(frozen=True, slots=True)
class Gpus:
    count: int = 0
    type: str = ""
    driver: str = ""
    clique: str = ""  # machines of one are in one NVLink domain


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
        switch=gpus.clique,
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
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        count = pynvml.nvmlDeviceGetCount()
        if not count:
            return Gpus(driver=driver)
        first = pynvml.nvmlDeviceGetHandleByIndex(0)
        return Gpus(count, _text(pynvml.nvmlDeviceGetName(first)), driver, _clique(pynvml, first))
    except pynvml.NVMLError:
        return Gpus()
    finally:
        pynvml.nvmlShutdown()


def clique_name(cluster: bytes, clique: int) -> str:
    """Of a partition of an NVLink fabric, as NVIDIA's own tools name it; "" if there is none."""
    return f"{UUID(bytes=cluster)}.{clique}" if any(cluster) else ""


def _clique(nvml: Any, device: Any) -> str:
    fabric = nvml.c_nvmlGpuFabricInfo_t()
    try:
        nvml.nvmlDeviceGetGpuFabricInfo(device, ctypes.byref(fabric))
    except nvml.NVMLError:  # an older driver, or a GPU without a fabric between machines
        return ""
    if fabric.state != nvml.NVML_GPU_FABRIC_STATE_COMPLETED or fabric.status != nvml.NVML_SUCCESS:
        return ""
    return clique_name(bytes(fabric.clusterUuid), fabric.cliqueId)


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
