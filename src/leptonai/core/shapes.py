"""Shapes: named amounts of machine; and what a workload's resource fields mean."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from leptonai.core.records import Node
from leptonai.core.resources import MIB, MILLIS, Needs
from leptonai.errors import InvalidRequest
from leptonai.spec.endpoints import ResourceRequirement
from leptonai.spec.jobs import JobSpec
from leptonai.spec.nodes import ShapeSpec
from leptonai.spec.rayclusters import RayGroup

GB = 1_000_000_000
MIB_PER_GIB = 1_024
DEFAULT_CPU_MILLIS = 250  # of a workload that names neither a shape nor resources
DEFAULT_MEMORY_BYTES = 256 * MIB
MAX_CPU_CORES = 100_000.0
MAX_MEMORY_MIB = 1 << 30
MAX_DISK_GB = 1_000_000
MAX_GPUS = 1_000.0
PURPOSES = ["pod", "deployment", "job"]


@dataclass(frozen=True, slots=True)
class Requested:
    """What the resource fields of a workload mean, for each of its replicas."""

    needs: Needs
    limit_cpu_millis: int | None = None  # None: may use what is idle
    limit_memory_bytes: int | None = None


def requested_by(spec: JobSpec | ResourceRequirement | RayGroup) -> Requested:
    """What a workload's own resource fields mean; see `resources_of`."""
    return resources_of(
        shape=spec.resource_shape,
        cpu=spec.cpu,
        memory_mib=spec.memory,
        disk_gb=spec.ephemeral_storage_in_gb,
        gpu_type=spec.accelerator_type,
        gpus=spec.accelerator_num,
    )


def resources_of(
    *,
    shape: str | None,
    cpu: float | None,
    memory_mib: int | None,
    disk_gb: int | None,
    gpu_type: str | None,
    gpus: float | None,
) -> Requested:
    """What to reserve, and what to forbid; explicit fields override those of the shape.

    Memory is limited where the user named an amount, by itself or by a ``cpu.`` shape; CPU only
    where it was named by itself, since a shape's core that others leave idle would be wasted. A
    ``gpu.`` shape names devices: its CPU and memory are reserved, not limited.

    Raises:
        InvalidRequest: the shape is unknown, or an amount is impossible anywhere.
    """
    named = _shape(shape) if shape else None
    _refuse_beyond("cpu", cpu, MAX_CPU_CORES, "cores")
    _refuse_beyond("memory", memory_mib, MAX_MEMORY_MIB, "MiB")
    _refuse_beyond("ephemeral_storage_in_gb", disk_gb, MAX_DISK_GB, "GB")
    _refuse_beyond("accelerator_num", gpus, MAX_GPUS, "GPUs")

    shape_cpu = named.cpu if named else None
    shape_memory = named.memory_in_mb if named else None
    wanted_cpu = cpu if cpu is not None else shape_cpu
    wanted_memory = memory_mib if memory_mib is not None else shape_memory
    wanted_gpus = gpus if gpus is not None else (named.accelerator_num if named else None)
    if wanted_gpus is None:
        wanted_gpus = 1.0 if gpu_type else 0.0
    devices, share = _devices(wanted_gpus)

    limited_memory = memory_mib
    if limited_memory is None and named is not None and not named.accelerator_num:
        limited_memory = shape_memory
    return Requested(
        needs=Needs(
            cpu_millis=DEFAULT_CPU_MILLIS if wanted_cpu is None else _millis(wanted_cpu),
            memory_bytes=DEFAULT_MEMORY_BYTES if wanted_memory is None else wanted_memory * MIB,
            disk_bytes=(disk_gb or 0) * GB,
            gpus=devices,
            gpu_millis=share,
            gpu_type=(gpu_type or (named.accelerator_type if named else "") or "")
            if devices
            else "",
        ),
        limit_cpu_millis=None if cpu is None else _millis(cpu),
        limit_memory_bytes=None if limited_memory is None else limited_memory * MIB,
    )


def shapes(nodes: Iterable[Node]) -> list[ShapeSpec]:
    """The shapes to offer: the built-in ones, and those of the GPUs that there are."""
    most: dict[str, int] = {}
    for node in nodes:
        held = node.capacity
        if held.gpus and held.gpu_type:
            most[held.gpu_type] = max(held.gpus, most.get(held.gpu_type, 0))
    offered = list(_BUILT_IN.values())
    for gpu_type, largest in sorted(most.items()):
        count = 1
        while count <= largest:
            offered.append(_gpu_shape(_slug(gpu_type), count, gpu_type))
            count *= 2
    return offered


def gpu_type_of(shape: str | None, gpu_types: Iterable[str]) -> str | None:
    """The exact type, of those that there are, that a ``gpu.`` shape means; None where it means
    none or where none fits: every word of the shape must be in the type's name."""
    match = _GPU_SHAPE.fullmatch(shape or "")
    if match is None:
        return None
    words = set(_slug(match["type"]).split("-"))
    fitting = [each for each in sorted(gpu_types) if words <= set(_slug(each).split("-"))]
    return min(fitting, key=lambda each: (len(each), each)) if fitting else None


def _builtin(name: str, cpu: int, memory_gib: int) -> ShapeSpec:
    return ShapeSpec(
        name=name,
        description=f"{cpu} {'core' if cpu == 1 else 'cores'}, {memory_gib} GiB",
        listable_in=PURPOSES,
        cpu=float(cpu),
        memory_in_mb=memory_gib * MIB_PER_GIB,
    )


_BUILT_IN = {
    shape.name: shape
    for shape in (
        _builtin("cpu.small", 1, 4),
        _builtin("cpu.medium", 2, 8),
        _builtin("cpu.large", 4, 16),
    )
}

_GPU_SHAPE = re.compile(r"gpu\.(?:(?P<count>[1-9][0-9]{0,2})x)?(?P<type>[a-z0-9][a-z0-9.-]*)")
_CORES_A_GPU = 2  # enough to feed one; small, so that the GPUs of a modest node can all be given
_MEMORY_GIB_A_GPU = 8


def _gpu_shape(slug: str, count: int, gpu_type: str) -> ShapeSpec:
    return ShapeSpec(
        name=f"gpu.{slug}" if count == 1 else f"gpu.{count}x{slug}",
        description=f"{count} x {gpu_type}",
        listable_in=PURPOSES,
        cpu=float(_CORES_A_GPU * count),
        memory_in_mb=_MEMORY_GIB_A_GPU * MIB_PER_GIB * count,
        accelerator_type=gpu_type,
        accelerator_num=float(count),
    )


def _shape(name: str) -> ShapeSpec:
    built_in = _BUILT_IN.get(name)
    if built_in is not None:
        return built_in
    match = _GPU_SHAPE.fullmatch(name)
    if match is None:
        raise InvalidRequest(
            f"there is no shape {name!r}",
            hint=f"Use one of {', '.join(_BUILT_IN)}, or gpu.TYPE or gpu.NxTYPE for N GPUs.",
        )
    return _gpu_shape(match["type"], int(match["count"] or 1), match["type"])


def _slug(gpu_type: str) -> str:
    """`NVIDIA A100-SXM4-80GB` as the word of a shape: `a100-sxm4-80gb`."""
    return re.sub(r"[^a-z0-9.]+", "-", gpu_type.lower()).removeprefix("nvidia-").strip("-")


def _devices(gpus: float) -> tuple[int, int]:
    """How many devices, and how many thousandths of each."""
    if gpus >= 1 and gpus != int(gpus):
        raise InvalidRequest(
            f"accelerator_num: {gpus} GPUs cannot be given",
            hint="Ask for whole GPUs, or for a share of one: a number below 1.",
        )
    if 0 < gpus < 1:
        return 1, max(1, round(gpus * MILLIS))
    return int(gpus), MILLIS


def _millis(cores: float) -> int:
    return max(1, round(cores * MILLIS))


def _refuse_beyond(field: str, amount: float | None, most: float, unit: str) -> None:
    if amount is not None and not 0 <= amount <= most:
        raise InvalidRequest(
            f"{field}: {amount} {unit} is out of bounds",
            hint=f"It must be between 0 and {most:g} {unit}.",
        )
