"""How good a place a node is for a worker: one function for each choice; smaller is better.

Ours follows the fragmentation gradient of Weng et al. 2023, "Beware of Fragmentation: Scheduling
GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX ATC: put a worker where it makes
the fewest free GPUs useless for the workers that are usually asked for. It differs in that the
gradient is exact (no rounding, so that no order of names decides), and that CPU and memory which
run short are seen before they have run out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from leptonai.core.resources import MILLIS, Needs
from leptonai.core.scheduler.columns import Bools, Columns, Floats, Ints
from leptonai.core.scheduler.nodes import Score
from leptonai.core.scheduler.policy import Choice

RESOURCES = ("cpu", "memory", "disk")  # beside GPUs, as Columns calls them
MAX_SHARE = 1 << 20
MAX_TYPICAL = 128  # sizes that the demand is told by, the most asked for
# How much of a node's worth goes by what would fit if all that came were of one size, the rest by
# whether one more fits. Anything from 0.1 to 0.6 does about as well.
CROWDING = 0.25
# In GPUs: what a node that is left wholly free counts among places that fragment equally.
TIE_BREAK = 1e-3
# In watts: what a GPU that stays useful is worth where energy is saved. More than twice what the
# hungriest draws: it is lost for as long as its neighbours run.
WATTS_A_GPU = 1_000.0


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


# Shape letters: N nodes, D devices of a node, K kinds of GPU request,
# J steps of compute, L thousandths of a device.


@dataclass(frozen=True, slots=True)
class Typical:
    """The workers with GPUs that are usually asked for.

    All but GPUs is told by one number, compute, where the mean worker needs 1: a node has as much
    of it as the resource it has least of, a worker needs as much as the resource that it needs
    least of. So what typical workers can use of a node is looked up and not counted size by size.
    """

    kinds: tuple[tuple[int, int, str], ...]  # GPUs, thousandths of each, types
    millis_K: Floats  # of all devices of a request
    many_K: Ints  # which kinds ask for more than one device …
    devices_K: Ints  # … for how many these ask …
    each_K: Ints  # … and for how many thousandths of each
    usable_LK: Floats  # of a device with so many thousandths left, for a request of a kind
    mean: Mapping[str, float]  # that a worker needs, by column; of those that any of them needs
    steps_J: Floats  # the amounts of compute that are needed, rising
    fitting_JK: Floats  # the share of the workers of each kind that need at most so much …
    density_JK: Floats  # … and the sum of what they use of GPUs, in thousandths, per compute

    @classmethod
    def of(cls, demand: Mapping[Needs, float]) -> "Typical":
        with_gpus = [(needs, count) for needs, count in demand.items() if needs.gpus and count > 0]
        with_gpus.sort(key=lambda entry: (-entry[1], _order(entry[0])))
        del with_gpus[MAX_TYPICAL:]
        total = sum(count for _, count in with_gpus)
        shares = [(needs, count / total) for needs, count in with_gpus]
        sums = {
            name: sum(share * takes(needs)[name] for needs, share in shares) for name in RESOURCES
        }
        mean = {name: amount for name, amount in sums.items() if amount}
        kinds = sorted({_kind(needs) for needs, _ in shares})
        compute = [_compute_of(needs, mean) for needs, _ in shares]
        steps = sorted(set(compute))
        fitting_JK = np.zeros((len(steps) + 1, len(kinds)))
        density_JK = np.zeros_like(fitting_JK)
        for (needs, share), amount in zip(shares, compute, strict=True):
            at = steps.index(amount) + 1, kinds.index(_kind(needs))
            fitting_JK[at] += share
            density_JK[at] += share * needs.gpus * needs.gpu_millis / amount if amount else 0.0
        left_L = np.arange(MILLIS + 1.0)
        devices_K = np.array([gpus for gpus, _, _ in kinds], dtype=np.int64)
        each_K = np.array([millis for _, millis, _ in kinds], dtype=np.int64)
        many_K = np.flatnonzero(devices_K > 1)
        return cls(
            tuple(kinds),
            (devices_K * each_K).astype(np.float64),
            many_K,
            devices_K[many_K],
            each_K[many_K],
            np.where(left_L[:, None] >= each_K, left_L[:, None], 0.0),
            mean,
            np.array(steps, dtype=np.float64),
            fitting_JK.cumsum(axis=0),
            density_JK.cumsum(axis=0),
        )

    def __bool__(self) -> bool:
        return bool(self.kinds)


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
    woken = _gpus_in_use(columns, _gpu_after(needs, columns)) - _gpus_in_use(columns, columns.gpu)
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
    taken = takes(needs)
    # Before and after at once: most calls are about a few nodes, and cost by their number of steps.
    compute_2N = np.full(2 * len(columns.at), np.inf)
    for name, mean in typical.mean.items():
        both_2N = np.concatenate([left[name], left[name] - taken[name]])
        np.minimum(compute_2N, np.maximum(both_2N, 0) / mean, out=compute_2N)
    gpu_2ND = np.maximum(np.concatenate([columns.gpu, _gpu_after(needs, columns)]), 0)
    usable_2NK = _usable_by_kind(typical, gpu_2ND)
    if any(types for _, _, types in typical.kinds):
        asked = tuple(types for _, _, types in typical.kinds)
        allowed_NK = _allowed(asked, tuple(columns.machines.gpu_types))[columns.gpu_type]
        usable_2NK *= np.concatenate([allowed_NK, allowed_NK])
    usable_2N = _usable_millis(typical, compute_2N, usable_2NK, crowding)
    before, after = usable_2N.reshape(2, -1)
    lost: Floats = (before - after - needs.gpus * needs.gpu_millis) / MILLIS
    return lost


def _usable_millis(
    typical: Typical, compute_N: Floats, usable_NK: Floats, crowding: float
) -> Floats:
    """Of the free GPUs of each node: how much a typical worker could use, on the average.

    Args:
        usable_NK: how much each kind could use, as far as only GPUs matter.
    """
    fits_N = typical.steps_J.searchsorted(compute_N, side="right")
    usable: Floats = (usable_NK * typical.fitting_JK[fits_N]).sum(axis=1)
    if not crowding or not typical.mean:
        return usable
    # If all that came were of one size, those which need more compute for each GPU than there is
    # would use GPUs in proportion to the compute that is left, and the others all GPUs.
    scarce_NK = typical.millis_K * compute_N[:, None] / np.maximum(usable_NK, 1.0)
    enough_NK = typical.steps_J.searchsorted(scarce_NK, side="right")
    kinds_K = np.arange(len(typical.kinds))
    crowded_NK = usable_NK * typical.fitting_JK[enough_NK, kinds_K]
    density_NK = typical.density_JK[fits_N] - typical.density_JK[enough_NK, kinds_K]
    crowded_NK += compute_N[:, None] * density_NK
    crowded: Floats = np.where(usable_NK > 0, crowded_NK, 0.0).sum(axis=1)
    usable += crowding * (crowded - usable)
    return usable


def _usable_by_kind(typical: Typical, gpu_ND: Ints) -> Floats:
    """Of the free GPUs: how much those devices have that would do for a request of a kind."""
    usable_NK = np.zeros((len(gpu_ND), len(typical.kinds)))
    for gpu_N in gpu_ND.T:
        usable_NK += typical.usable_LK[gpu_N]
    if len(typical.many_K):
        there_NK = (gpu_ND[:, :, None] >= typical.each_K).sum(axis=1)
        usable_NK[:, typical.many_K] *= there_NK >= typical.devices_K
    return usable_NK


@lru_cache(maxsize=MAX_TYPICAL)
def _allowed(asked: tuple[str, ...], gpu_types: tuple[str, ...]) -> Floats:
    """[types of nodes, asked]: 1 where such GPUs are taken, else 0."""
    requests = [Needs(gpus=1, gpu_type=types) for types in asked]
    return np.array(
        [[float(needs.takes_gpu(type)) for needs in requests] for type in gpu_types],
        dtype=np.float64,
    )


def takes(needs: Needs) -> dict[str, int]:
    """By column."""
    amounts = (needs.cpu_millis, needs.memory_bytes, needs.disk_bytes)
    return dict(zip(RESOURCES, amounts, strict=True))


def _compute_of(needs: Needs, mean: Mapping[str, float]) -> float:
    amounts = takes(needs)
    return min((amounts[name] / mean[name] for name in mean if amounts[name]), default=0.0)


def _kind(needs: Needs) -> tuple[int, int, str]:
    return needs.gpus, needs.gpu_millis, needs.gpu_type


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


def _left_over(needs: Needs, columns: Columns) -> Floats:
    """What stays free of a node, as the mean of its shares of the largest node's CPU and GPUs."""
    cpu = (columns.cpu - needs.cpu_millis) / max(columns.machines.cpu_most, 1)
    gpu = columns.gpu.sum(axis=1) - needs.gpus * needs.gpu_millis
    left_over: Floats = (cpu + gpu / max(columns.machines.gpus_most * MILLIS, 1)) / 2
    return left_over


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
    most_cpu, most_gpu = (
        max(columns.machines.cpu_most, 1),
        max(columns.machines.gpus_most * MILLIS, 1),
    )
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
