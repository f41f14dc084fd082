"""How full a cluster gets: pods arrive one after the other, stay, and are placed or skipped.

The protocol of the openb traces (Weng et al. 2023, "Beware of Fragmentation", USENIX ATC): the
pods of a list in an order drawn by the seed, then more of them drawn from the same list, until what
has arrived asks for a given share of the cluster's GPUs. Each is placed when it arrives or is
skipped for good; pods never leave and never move.

It is the scheduler of the platform that decides, the very function: `decide` and `advance` of
`leptonai.core.scheduler`. It knows the nodes, what runs, and the sizes that were asked for so far.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from leptonai.core.resources import MIB, MILLIS, Capacity, Free, Needs
from leptonai.core.scheduler import (
    Change,
    Gang,
    Index,
    NodeView,
    Policy,
    Power,
    Running,
    Snapshot,
    Worker,
    advance,
    decide,
)
from leptonai.core.scheduler.policy import Choice, Order, Passing, Yielding
from leptonai.core.scheduler.scoring import drawn_watts, score_of
from leptonai.core.tables import Column, Row, read_table
from leptonai.errors import InvalidRequest

DEFAULT_ARRIVAL = 1.3  # as in the published results
DEFAULT_SEED = 42
MAX_ARRIVALS = 1_000_000
MAX_GPUS = 64  # of a node, and of a pod
MAX_CPU_MILLIS = 1 << 40
MAX_MEMORY_MIB = 1 << 40
STEPS = 10  # of the arrived share, up to 1: where the outcome is looked at

NODE_COLUMNS = (
    Column("sn", ("sn", "name")),
    Column("cpu_milli"),
    Column("memory_mib"),
    Column("gpu", ("gpu", "num_gpu")),
    Column("model", optional=True),
)
POD_COLUMNS = (
    Column("name"),
    Column("cpu_milli"),
    Column("memory_mib"),
    Column("num_gpu"),
    Column("gpu_milli"),
    Column("gpu_spec", optional=True),
)

# Watts, idle and busy, of the GPU types of the openb nodes. G2 and G3 stand for types that are not
# named; they are taken for A10 and A100. The CPU is a Xeon E5-2682 v4 with 32 threads a socket.
# Source: Lettich et al. 2024, "Power- and Fragmentation-aware Online Scheduling for GPU
# Datacenters", arXiv:2412.17484; from the vendors' data sheets.
CPU_WATTS = (15.0, 120.0)
CPU_MILLIS_PER_SOCKET = 32 * MILLIS
GPU_WATTS: Mapping[str, tuple[float, float]] = {
    "P100": (25.0, 250.0),
    "V100M16": (30.0, 300.0),
    "V100M32": (30.0, 300.0),
    "T4": (10.0, 70.0),
    "A10": (30.0, 150.0),
    "G2": (30.0, 150.0),
    "G3": (50.0, 400.0),
}


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    needs: Needs

    @property
    def gpu_millis(self) -> int:
        return self.needs.gpus * self.needs.gpu_millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What became of the pods. Shares are of the GPUs of all nodes."""

    choice: Choice
    seed: int
    allocated: Mapping[str, float]  # the allocated share when this share has arrived: "1.3"
    watts: Mapping[str, float] | None  # drawn then; None: not known of every node
    arrived: int  # pods
    skipped: int  # of them: for want of room
    never_fit: int  # of those skipped: larger than any node
    gpus_left: float
    decisions_per_s: float


def read_nodes(lines: Iterable[str], *, source: str) -> tuple[NodeView, ...]:
    """Nodes of a table whose header has NODE_COLUMNS.

    Raises:
        InvalidRequest: with file, line and what was expected.
    """
    nodes: list[NodeView] = []
    seen: dict[str, int] = {}
    for row in read_table(lines, source=source, columns=NODE_COLUMNS):
        name = _once(row, "sn", seen)
        gpus = _whole(row, "gpu", MAX_GPUS)
        gpu_type = row.cell("model") if gpus and "model" in row else ""
        capacity = Capacity(
            cpu_millis=_whole(row, "cpu_milli", MAX_CPU_MILLIS),
            memory_bytes=_whole(row, "memory_mib", MAX_MEMORY_MIB) * MIB,
            gpus=gpus,
            gpu_type=gpu_type,
        )
        nodes.append(NodeView(id=name, capacity=capacity, power=power_of(capacity)))
    if not any(node.capacity.gpus for node in nodes):
        raise InvalidRequest(f"{source}: no node has a GPU", hint="expected gpu above 0 in one row")
    return tuple(nodes)


def read_pods(lines: Iterable[str], *, source: str) -> tuple[Pod, ...]:
    """Pods of a table whose header has POD_COLUMNS.

    Raises:
        InvalidRequest: with file, line and what was expected.
    """
    pods: list[Pod] = []
    seen: dict[str, int] = {}
    for row in read_table(lines, source=source, columns=POD_COLUMNS):
        name = _once(row, "name", seen)
        gpus = _whole(row, "num_gpu", MAX_GPUS)
        millis = MILLIS
        if gpus == 1:
            millis = row.whole("gpu_milli")
            if millis > MILLIS:
                raise row.is_not("gpu_milli", f"at most {MILLIS}, a whole GPU")
        needs = Needs(
            cpu_millis=_whole(row, "cpu_milli", MAX_CPU_MILLIS),
            memory_bytes=_whole(row, "memory_mib", MAX_MEMORY_MIB) * MIB,
            gpus=gpus,
            gpu_millis=millis,
            gpu_type=row.cell("gpu_spec") if gpus and "gpu_spec" in row else "",
        )
        pods.append(Pod(name, needs))
    if not any(pod.needs.gpus for pod in pods):
        what = f"{source}: no pod asks for a GPU"
        raise InvalidRequest(what, hint="expected num_gpu above 0 in one row")
    return tuple(pods)


def power_of(capacity: Capacity) -> Power | None:
    """None where the type of its GPUs is not in GPU_WATTS."""
    gpu_idle, gpu_busy = GPU_WATTS.get(capacity.gpu_type, (0.0, 0.0))
    if capacity.gpus and not gpu_busy:
        return None
    cpu_idle, cpu_busy = CPU_WATTS
    return Power(
        cpu_idle=cpu_idle,
        cpu_busy=cpu_busy,
        cpu_millis_per_socket=CPU_MILLIS_PER_SOCKET,
        gpu_idle=gpu_idle,
        gpu_busy=gpu_busy,
    )


def arrivals(pods: Sequence[Pod], gpu_millis: int, arrival: float, seed: int) -> list[Pod]:
    """The pods in the order of a draw, cut off or drawn again to ask for this share of so many
    thousandths of GPUs: up to the first that would exceed it."""
    rng = np.random.default_rng(seed)
    by_name = sorted(pods, key=lambda pod: pod.name)
    asked, most = 0, arrival * gpu_millis
    order: list[Pod] = []
    first = rng.permutation(len(by_name)).tolist()
    while True:
        for at in first:
            asked += by_name[at].gpu_millis
            if asked > most:
                return order
            if len(order) >= MAX_ARRIVALS:
                what = f"{MAX_ARRIVALS:,} pods ask for {asked / gpu_millis:.3g} of the GPUs"
                raise InvalidRequest(what, hint="use a smaller --arrival, or fewer nodes")
            order.append(by_name[at])
        first = rng.integers(len(by_name), size=1_000).tolist()


def simulate_pack(
    nodes: Sequence[NodeView],
    pods: Sequence[Pod],
    choice: Choice = Choice.OURS,
    *,
    arrival: float = DEFAULT_ARRIVAL,
    seed: int = DEFAULT_SEED,
    placed: Callable[[int, int], None] | None = None,
) -> Packed:
    """Equal arguments give equal outcomes, but for `decisions_per_s`.

    Args:
        nodes: at least one with a GPU.
        pods: at least one that asks for a GPU.
        arrival: what arrives, as a share of the GPUs there are.
        seed: of the order of arrival, and of Choice.RANDOM.
        placed: told how many pods had their turn, and of how many.
    """
    gpu_millis = sum(node.capacity.gpus for node in nodes) * MILLIS
    order = arrivals(pods, gpu_millis, arrival, seed)
    policy = Policy(
        order=Order.ARRIVAL, passing=Passing.ALWAYS, yielding=Yielding.NEVER, choice=choice
    )
    index = Index.of(Snapshot(now_ms=0, nodes=tuple(nodes)), policy)
    demand: Counter[Needs] = Counter()
    any_device = np.random.default_rng(seed) if choice is Choice.RANDOM else None
    looks = _looks(arrival)
    with_power = all(node.power is not None for node in nodes)
    allocated_at: dict[str, float] = {}
    watts_at: dict[str, float] = {}
    arrived = allocated = skipped = 0
    seconds = 0.0

    def look(label: str) -> None:
        allocated_at[label] = allocated / gpu_millis
        watts_at[label] = float(drawn_watts(index.nodes.columns()).sum())

    for number, pod in enumerate(order):
        while looks and (arrived + pod.gpu_millis) > looks[0][0] * gpu_millis:
            look(looks.pop(0)[1])
        began = perf_counter()
        demand[pod.needs] += 1
        if choice is Choice.RANDOM:  # a draw for each pod
            index.nodes.score_by(score_of(choice, {}, seed * MAX_ARRIVALS + number))
        elif number + 1 & number == 0:  # what is known of the demand has doubled
            index = advance(index, Change(demand=demand))
        index, is_placed = _arrive(index, pod, number, any_device)
        seconds += perf_counter() - began
        arrived += pod.gpu_millis
        allocated += pod.gpu_millis if is_placed else 0
        skipped += not is_placed
        if placed is not None:
            placed(number + 1, len(order))
    for _, label in looks:
        look(label)
    return Packed(
        choice=choice,
        seed=seed,
        allocated=allocated_at,
        watts=watts_at if with_power else None,
        arrived=len(order),
        skipped=skipped,
        never_fit=_never_fit(nodes, order),
        gpus_left=(gpu_millis - allocated) / MILLIS,
        decisions_per_s=len(order) / seconds if seconds else 0.0,
    )


def _arrive(
    index: Index, pod: Pod, number: int, any_device: np.random.Generator | None
) -> tuple[Index, bool]:
    """
    Args:
        any_device: draws the GPU, too, on the node that was chosen, as Random does where it was
            published; None: the scheduler's choice.
    """
    id = f"{number:07d}"
    worker = Worker(replica=id, needs=pod.needs)
    gang = Gang(id=id, name=pod.name, workers=(worker,))
    index = advance(index, Change(queued=(gang,)))
    plan = decide(index, number)
    if not plan.places:
        return advance(index, Change(gone=(id,))), False
    (assignment,) = plan.places[0].assignments
    if any_device is not None and pod.needs.gpus == 1:
        left = index.nodes.free(index.nodes.machines.at[assignment.node]).gpu_millis
        fitting = [device for device, millis in enumerate(left) if millis >= pod.needs.gpu_millis]
        assignment = replace(assignment, gpus=(fitting[int(any_device.integers(len(fitting)))],))
    running = Running(gang=gang, held=((worker, assignment),), started_at_ms=number)
    return advance(index, Change(running=(running,))), True


def _looks(arrival: float) -> list[tuple[float, str]]:
    """At which arrived shares to look, and what they are called."""
    shares = [step / STEPS for step in range(1, int(arrival * STEPS + 1e-9) + 1)]
    looks = [(share, f"{share:.1f}") for share in shares]
    if not shares or arrival > shares[-1] + 1e-9:
        looks.append((arrival, f"{arrival:g}"))
    return looks


def _never_fit(nodes: Sequence[NodeView], order: Sequence[Pod]) -> int:
    kinds = {Free.all_of(node.capacity) for node in nodes}
    sizes = Counter(pod.needs for pod in order)
    return sum(
        count for needs, count in sizes.items() if not any(free.fits(needs) for free in kinds)
    )


def _once(row: Row, column: str, seen: dict[str, int]) -> str:
    name = row.text(column)
    if name in seen:
        what = f"{row.header(column)} {name!r} is there twice"
        raise row.wrong(what, expected=f"another one than in line {seen[name]}")
    seen[name] = row.line
    return name


def _whole(row: Row, column: str, most: int) -> int:
    number = row.whole(column, zero=True)
    if number > most:
        raise row.is_not(column, f"at most {most:,}")
    return number
