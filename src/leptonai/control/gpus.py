"""How busy the GPUs of some replicas are: what an endpoint may be scaled by."""

from collections.abc import Awaitable, Callable, Iterable

from leptonai.core.records import Replica
from leptonai.ports.engine import Engine

GpuUseOf = Callable[[Iterable[Replica]], Awaitable[float | None]]


async def nobody_measures(replicas: Iterable[Replica]) -> float | None:
    return None


def measured_by(engine: Engine) -> GpuUseOf:
    """The share of the time that the GPUs of those that are ready are busy now, on average; None
    where none has a GPU, or none of their nodes measures."""

    async def gpu_use(replicas: Iterable[Replica]) -> float | None:
        by_node: dict[str, list[int]] = {}
        for replica in replicas:
            if replica.ready and replica.gpus:
                by_node.setdefault(replica.node, []).extend(replica.gpus)
        shares: list[float] = []
        for node, gpus in sorted(by_node.items()):
            use = await engine.gpu_use(node)
            shares += [use[gpu] for gpu in gpus if gpu in use]
        return sum(shares) / len(shares) if shares else None

    return gpu_use
