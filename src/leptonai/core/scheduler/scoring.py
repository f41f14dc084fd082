"""How good a place a node is for a worker: one function for each choice; smaller is better.

Ours follows the fragmentation gradient of Weng et al. 2023, "Beware of Fragmentation: Scheduling
GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX ATC: put a worker where it makes
the fewest free GPUs useless for the workers that are usually asked for. It differs in that the
gradient is exact (no rounding, so that no order of names decides), and that CPU and memory which
run short are seen before they have run out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from leptonai.core.resources import MILLIS, Needs
from leptonai.core.scheduler.nodes import Bools, Columns, Floats, Ints, Score
from leptonai.core.scheduler.policy import Choice

MAX_SHARE = 1 << 20
MAX_TYPICAL = 128  # sizes that the demand is told by, the most asked for
# How much of a node's worth goes by what would fit if all that came were of one size, the rest by
# whether one more fits. Anything from 0.1 to 0.6 does about as well.
CROWDING = 0.25
# In GPUs: what a node that is left wholly free counts among places that fragment equally.
TIE_BREAK = 1e-3
# In watts: what it is worth that a GPU stays useful, where energy is saved.
WATTS_A_GPU = 100.0


def score_of(choice: Choice, demand: Mapping[Needs, float], seed: int) -> Score:
    """
    Args:
        demand: workers asked for up to now, by size.
        seed: of Choice.RANDOM.
    """
    if choice is Choice.RANDOM:
        return partial(random_order, seed)
    if choice in _BASELINES:
        return _BASELINES[choice]
    typical = Typical.of(demand)
    if choice is Choice.FGD:
        return partial(fragmentation_gradient, typical)
    if choice is Choice.ENERGY:
        return partial(least_power, typical)
    return partial(ours, typical) if typical else tightest


# --- ours ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Typical:
    """The workers with GPUs that are usually asked for: M sizes, of K kinds of GPU request."""

    needs: tuple[Needs, ...]
    share_M: Floats  # of all such workers
    # Of the other resources that any of them needs: the column's name, the amount, who needs none.
    amounts: tuple[tuple[str, Floats, Ints], ...]
    gpu_millis_M: Floats  # of all its devices
    kind_M: Ints
    devices_K: Ints
    millis_K: Ints  # of each device

    @classmethod
    def of(cls, demand: Mapping[Needs, float]) -> "Typical":
        with_gpus = [(needs, count) for needs, count in demand.items() if needs.gpus and count > 0]
        with_gpus.sort(key=lambda entry: (-entry[1], _order(entry[0])))
        del with_gpus[MAX_TYPICAL:]
        sizes = tuple(needs for needs, _ in with_gpus)
        counts = np.array([count for _, count in with_gpus], dtype=np.float64)
        kinds = sorted({(needs.gpus, needs.gpu_millis) for needs in sizes})
        amounts = (
            ("cpu", np.array([float(needs.cpu_millis) for needs in sizes])),
            ("memory", np.array([float(needs.memory_bytes) for needs in sizes])),
            ("disk", np.array([float(needs.disk_bytes) for needs in sizes])),
        )
        return cls(
            needs=sizes,
            share_M=counts / counts.sum() if len(counts) else counts,
            amounts=tuple(
                (name, np.maximum(amount, 1.0), np.flatnonzero(amount == 0))
                for name, amount in amounts
                if amount.any()
            ),
            gpu_millis_M=np.array([float(needs.gpus * needs.gpu_millis) for needs in sizes]),
            kind_M=np.array(
                [kinds.index((needs.gpus, needs.gpu_millis)) for needs in sizes], dtype=np.int64
            ),
            devices_K=np.array([gpus for gpus, _ in kinds], dtype=np.int64),
            millis_K=np.array([millis for _, millis in kinds], dtype=np.int64),
        )

    def __bool__(self) -> bool:
        return bool(self.needs)


def ours(typical: Typical, needs: Needs, columns: Columns) -> Floats:
    """The fewest GPUs lost to the typical workers; among equals the fullest node."""
    lost = _lost_gpus(typical, needs, columns, CROWDING)
    return lost + TIE_BREAK * _left_over(needs, columns)


def least_power(typical: Typical, needs: Needs, columns: Columns) -> Floats:
    """The fewest watts more, where a GPU that is lost to the typical workers counts as
    WATTS_A_GPU. Nodes whose power is not known cost none.

    Source: the weighted sum of Lettich et al. 2024, "Power- and Fragmentation-aware Online
        Scheduling for GPU Datacenters", arXiv:2412.17484; here in watts and with our gradient.
    """
    return added_watts(needs, columns) + WATTS_A_GPU * ours(typical, needs, columns)


def added_watts(needs: Needs, columns: Columns) -> Floats:
    """How much more a node draws with this worker: sockets and GPUs that wake up for it."""
    power, socket = columns.power, columns.power.cpu_millis_per_socket
    used = columns.cpu_total - columns.cpu
    sockets = -(-(used + needs.cpu_millis) // socket) + (-used // socket)
    woken = (_gpus_in_use(columns, _gpu_after(needs, columns)) - _gpus_in_use(columns, columns.gpu))
    return sockets * power.by_socket + woken * power.by_gpu


def drawn_watts(columns: Columns) -> Floats:
    """What each node draws now."""
    power = columns.power
    sockets = -(-(columns.cpu_total - columns.cpu) // power.cpu_millis_per_socket)
    in_use = _gpus_in_use(columns, columns.gpu)
    return power.idle + sockets * power.by_socket + in_use * power.by_gpu


def _gpus_in_use(columns: Columns, gpu_ND: Ints) -> Ints:
    in_use: Ints = (_devices_there(columns) & (gpu_ND < MILLIS)).sum(axis=1)
    return in_use


def _lost_gpus(typical: Typical, needs: Needs, columns: Columns, crowding: float) -> Floats:
    """How many GPUs the typical workers could use before and not after, beside those it takes."""
    left = {"cpu": columns.cpu, "memory": columns.memory, "disk": columns.disk}
    takes = {"cpu": needs.cpu_millis, "memory": needs.memory_bytes, "disk": needs.disk_bytes}
    after = {name: left[name] - takes[name] for name in left}
    gpu_after = _gpu_after(needs, columns)
    allowed_NM = _allowed(typical.needs, columns)
    before = _usable_millis(typical, left, columns.gpu, allowed_NM, crowding)
    still = _usable_millis(typical, after, gpu_after, allowed_NM, crowding)
    return (before - still - needs.gpus * needs.gpu_millis) / MILLIS


def _usable_millis(
    typical: Typical,
    left: Mapping[str, Ints],
    gpu_ND: Ints,
    allowed_NM: Bools | None,
    crowding: float,
) -> Floats:
    """Of the free GPUs of each of N nodes: how much a typical worker could use, on the average."""
    there_NDK = gpu_ND[:, :, None] >= typical.millis_K
    usable_NK = np.where(there_NDK, gpu_ND[:, :, None], 0).sum(axis=1)
    usable_NK[there_NDK.sum(axis=1) < typical.devices_K] = 0
    usable_NM = usable_NK[:, typical.kind_M].astype(np.float64)
    copies_NM = np.full(usable_NM.shape, np.inf)  # that the other resources allow; not rounded
    for name, amount_M, none_M in typical.amounts:
        of_one_NM = left[name][:, None] / amount_M
        of_one_NM[:, none_M] = np.inf
        np.minimum(copies_NM, of_one_NM, out=copies_NM)
    usable_NM[copies_NM < 1] = 0
    if allowed_NM is not None:
        usable_NM *= allowed_NM
    usable = usable_NM @ typical.share_M
    if crowding:
        crowded_NM = np.minimum(usable_NM, copies_NM * typical.gpu_millis_M)
        usable += crowding * (crowded_NM @ typical.share_M - usable)
    return usable


def _gpu_after(needs: Needs, columns: Columns) -> Ints:
    """What the devices have left with this worker, which takes the fullest that suffice."""
    if not needs.gpus or not columns.gpu.shape[1]:
        return columns.gpu
    fitting = np.where(columns.gpu >= needs.gpu_millis, columns.gpu, MILLIS + 1)
    after = columns.gpu.copy()
    rows = np.arange(len(after))
    if needs.gpus == 1:
        after[rows, fitting.argmin(axis=1)] -= needs.gpu_millis
    else:
        chosen = fitting.argsort(axis=1, kind="stable")[:, : needs.gpus]
        after[rows[:, None], chosen] -= needs.gpu_millis
    return after


def _allowed(sizes: Sequence[Needs], columns: Columns) -> Bools | None:
    """[nodes, sizes]: whose GPUs are of a type that it takes; None: all of all."""
    if not any(needs.gpu_type for needs in sizes):
        return None
    of_type = np.array(
        [[needs.takes_gpu(kind) for needs in sizes] for kind in columns.gpu_types], dtype=np.bool_
    )
    return of_type[columns.gpu_type]


def _left_over(needs: Needs, columns: Columns) -> Floats:
    """What stays free of a node, as the mean of its shares of the largest node's CPU and GPUs."""
    cpu = (columns.cpu - needs.cpu_millis) / max(columns.cpu_most, 1)
    gpu = columns.gpu.sum(axis=1) - needs.gpus * needs.gpu_millis
    return (cpu + gpu / max(columns.gpus_most * MILLIS, 1)) / 2


def tightest(needs: Needs, columns: Columns) -> Floats:
    """What is ours as long as no demand is known: the fewest free GPUs are left over, then the
    least CPU. Large holes stay large, and work without GPUs keeps away from them."""
    gpus = np.maximum(columns.gpu, 0).sum(axis=1) * (MAX_SHARE / MILLIS)
    cpu = (columns.cpu - needs.cpu_millis) / np.maximum(needs.cpu_millis, MILLIS)
    score: Floats = gpus + np.minimum(cpu, MAX_SHARE - 1)
    return score


# --- what ours is compared with ------------------------------------------------------------------


def fragmentation_gradient(typical: Typical, needs: Needs, columns: Columns) -> Floats:
    """FGD as published, but exact: there the gradient is rounded to one of a hundred steps, and
    the smallest name goes first."""
    return _lost_gpus(typical, needs, columns, crowding=0.0)


def best_fit(needs: Needs, columns: Columns) -> Floats:
    """The least left over, of the shares of the largest node's CPU and GPUs."""
    return _left_over(needs, columns)


def dot_product(needs: Needs, columns: Columns) -> Floats:
    """The smallest product of what is free and what is asked, as shares of the largest node's.

    Source: Panigrahy et al. 2011, "Heuristics for Vector Bin Packing"; the direction is FGD's.
    """
    most_cpu, most_gpu = max(columns.cpu_most, 1), max(columns.gpus_most * MILLIS, 1)
    cpu = (columns.cpu / most_cpu) * (needs.cpu_millis / most_cpu)
    gpu = columns.gpu.sum(axis=1) / most_gpu * (needs.gpus * needs.gpu_millis / most_gpu)
    score: Floats = cpu + gpu
    return score


def packing(needs: Needs, columns: Columns) -> Floats:
    """GPUs in use go first, then idle GPUs of nodes in use, then idle nodes.

    Source: Weng et al. 2022, "MLaaS in the Wild", USENIX NSDI.
    """
    gpu = columns.gpu
    in_use = (gpu > 0) & (gpu < MILLIS)
    fits_in_use = (in_use & (gpu >= needs.gpu_millis)).any(axis=1) & (needs.gpus == 1)
    node_in_use = gpu.sum(axis=1) < columns.gpus_total * MILLIS
    tier = np.where(fits_in_use, 0, np.where(node_in_use, 1, 2))
    return tier + _left_over(needs, columns) / 2


def clustering(needs: Needs, columns: Columns) -> Floats:
    """Nodes with the same GPU requests go first, as far as what is left of a GPU shows them.

    Source: Xiao et al. 2018, "Gandiva", USENIX OSDI, as in FGD's comparison.
    """
    used = np.where(_devices_there(columns), MILLIS - columns.gpu, 0)
    alike = ((used > 0) & (used % needs.gpu_millis == 0)).any(axis=1) & (needs.gpus > 0)
    idle = used.sum(axis=1) == 0
    tier = np.where(alike, 0, np.where(idle, 1, 2)) if needs.gpus else np.zeros(len(used))
    return tier + _left_over(needs, columns) / 2


def random_order(seed: int, needs: Needs, columns: Columns) -> Floats:
    """An order of the nodes without any reason, another one for each seed."""
    # The finaliser of SplitMix64 (Steele et al. 2014): each node's draw depends on it alone.
    bits: NDArray[np.uint64] = columns.at.astype(np.uint64) + np.uint64(seed) * np.uint64(1 << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    bits = bits ^ (bits >> np.uint64(31))
    return (bits >> np.uint64(11)).astype(np.float64) / (1 << 53)


_BASELINES: Mapping[Choice, Score] = {
    Choice.BEST_FIT: best_fit,
    Choice.DOT_PRODUCT: dot_product,
    Choice.PACKING: packing,
    Choice.CLUSTERING: clustering,
}


def _devices_there(columns: Columns) -> Bools:
    there: Bools = np.arange(columns.gpu.shape[1]) < columns.gpus_total[:, None]
    return there


def _order(needs: Needs) -> tuple[int | str, ...]:
    return (
        needs.gpus,
        needs.gpu_millis,
        needs.cpu_millis,
        needs.memory_bytes,
        needs.disk_bytes,
        needs.gpu_type,
    )
