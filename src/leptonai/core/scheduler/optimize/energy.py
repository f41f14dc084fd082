"""Which batch size and power limit train a network with the least energy before a deadline.

Each workload is on its own here, so looking at every setting is the exact optimum; it is what
`solve` answers for a model with one required task, one node and an option for each setting. The
tables have the columns of the measurements published with Zeus (You et al., NSDI 2023).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from leptonai.core.tables import Row, read_table
from leptonai.errors import InvalidRequest, Unsatisfiable

POWER_COLUMNS = (
    "dataset", "network", "batch_size", "optimizer", "power_limit", "time_per_epoch",
    "average_power",
)  # fmt: skip
TRAINING_COLUMNS = (
    "dataset", "network", "batch_size", "optimizer", "learning_rate", "run", "target_metric",
    "target_epoch",
)  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Workload:
    dataset: str
    network: str
    gpu: str

    def __str__(self) -> str:
        return f"{self.network} on {self.dataset} with {self.gpu}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A way to train, and what it takes from the first epoch to the target."""

    batch_size: int
    optimizer: str
    learning_rate: str = ""  # "" where no training is known
    power_limit_w: float
    power_w: float
    epochs: float  # the mean of runs
    time_s: float

    @property
    def energy_j(self) -> float:
        return self.power_w * self.time_s


@dataclass(frozen=True, slots=True)
class Epochs:
    """How many a way to train needs, if every run of it reached the target."""

    learning_rate: str
    mean: float


@dataclass(frozen=True, slots=True)
class Training:
    """Of one table of training runs: what each dataset and network is trained to, and how long."""

    targets: Mapping[tuple[str, str], str]
    epochs: Mapping[tuple[str, str, int, str], tuple[Epochs, ...]]  # …, batch size, optimizer


@dataclass(frozen=True, slots=True)
class Chosen:
    workload: Workload
    setting: Setting  # the least energy of those that end in time
    fastest: Setting

    @property
    def saved(self) -> float:
        """Of the energy of the fastest setting, as a share."""
        return 1 - self.setting.energy_j / self.fastest.energy_j


@dataclass(frozen=True, slots=True)
class TooLate:
    """The deadline cannot be met."""

    workload: Workload
    fastest: Setting | None  # ends the earliest; None: nothing measured ever reached the target

    def __str__(self) -> str:
        if self.fastest is None:
            return f"{self.workload}: no measured setting reached the target in every run"
        return (
            f"{self.workload}: the earliest it can end is after {_at_least(self.fastest.time_s)} s"
        )


def choose(
    settings: Mapping[Workload, Sequence[Setting]], deadline_s: float
) -> tuple[Chosen | TooLate, ...]:
    """Equal energies are decided by time, then by the smaller batch, limit and name.

    >>> slow, fast = (
    ...     Setting(batch_size=32, optimizer="sgd", power_limit_w=limit, power_w=limit, epochs=1,
    ...             time_s=time_s)
    ...     for limit, time_s in ((100, 90), (200, 60))
    ... )  # fmt: skip
    >>> [chosen] = choose({Workload("cifar", "resnet", "v100"): [slow, fast]}, deadline_s=80)
    >>> chosen.setting.power_limit_w, chosen.setting.energy_j
    (200, 12000)
    """
    return tuple(
        _choose(workload, found, deadline_s) for workload, found in sorted(settings.items())
    )


def _choose(workload: Workload, settings: Sequence[Setting], deadline_s: float) -> Chosen | TooLate:
    if not settings:
        return TooLate(workload, None)
    fastest = min(settings, key=lambda s: (s.time_s, s.energy_j, *_name(s)))
    if fastest.time_s > deadline_s:
        return TooLate(workload, fastest)
    in_time = (setting for setting in settings if setting.time_s <= deadline_s)
    return Chosen(workload, min(in_time, key=lambda s: (s.energy_j, s.time_s, *_name(s))), fastest)


def require_any(outcomes: Sequence[Chosen | TooLate], deadline_s: float) -> None:
    """Raises Unsatisfiable where no workload can meet the deadline."""
    if any(isinstance(outcome, Chosen) for outcome in outcomes):
        return
    late = [o for o in outcomes if isinstance(o, TooLate) and o.fastest is not None]
    raise Unsatisfiable(
        f"nothing ends within {deadline_s:g} s: {'; '.join(map(str, outcomes))}",
        hint=f"give it {_at_least(min(o.fastest.time_s for o in late if o.fastest))} s"
        if late
        else "choose a target that is easier to reach",
    )


def read_settings(
    tables: Mapping[str, Iterable[str]],  # by the name of the file
    training: Training | None = None,
) -> dict[Workload, list[Setting]]:
    """Of one epoch, or of as many as training takes. A table without a column `gpu` is of the one
    that its name ends with: summary_power_v100.csv."""
    settings: dict[Workload, list[Setting]] = {}
    seen: dict[tuple[object, ...], Row] = {}
    for source, lines in tables.items():
        gpu_of_file = source.rpartition("/")[2].removesuffix(".csv").rpartition("_")[2]
        for row in read_table(lines, source=source, columns=POWER_COLUMNS):
            gpu = row.text("gpu") if "gpu" in row.cells else gpu_of_file
            workload = Workload(row.text("dataset"), row.text("network"), gpu)
            batch_size, optimizer = row.whole("batch_size"), row.text("optimizer")
            limit_w = row.number("power_limit")
            _once(seen, (workload, batch_size, optimizer, limit_w), row)
            known = settings.setdefault(workload, [])
            ways: tuple[Epochs, ...] = (Epochs("", 1.0),)
            if training is not None:
                way = workload.dataset, workload.network, batch_size, optimizer
                ways = training.epochs.get(way, ())
            time_per_epoch_s, power_w = row.number("time_per_epoch"), row.number("average_power")
            known += [
                Setting(
                    batch_size=batch_size,
                    optimizer=optimizer,
                    learning_rate=way_.learning_rate,
                    power_limit_w=limit_w,
                    power_w=power_w,
                    epochs=way_.mean,
                    time_s=time_per_epoch_s * way_.mean,
                )
                for way_ in ways
            ]
    return settings


def read_training(
    lines: Iterable[str], *, source: str, targets: Mapping[str, float] | None = None
) -> Training:
    """What each dataset is trained to is given, or else the hardest target that some way to train
    reached in every run: the one that the fewest runs reached, and after the most epochs."""
    runs: dict[tuple[str, str], dict[str, dict[tuple[int, str, str], list[float]]]] = {}
    seen: dict[tuple[object, ...], Row] = {}
    for row in read_table(lines, source=source, columns=TRAINING_COLUMNS):
        trained = row.text("dataset"), row.text("network")
        way = row.whole("batch_size"), row.text("optimizer"), row.text("learning_rate")
        target = f"{row.number('target_metric'):g}"
        _once(seen, (trained, way, row.text("run"), target), row)
        # "nan" is how the published table says that a run never got there.
        never = row.cells["target_epoch"].strip().lower() == "nan"
        epoch = float("inf") if never else row.number("target_epoch")
        of_target = runs.setdefault(trained, {}).setdefault(target, defaultdict(list))
        of_target[way].append(epoch)

    chosen: dict[tuple[str, str], str] = {}
    epochs: dict[tuple[str, str, int, str], tuple[Epochs, ...]] = {}
    for unknown in sorted(set(targets or ()) - {dataset for dataset, _ in runs}):
        raise InvalidRequest(
            f"{source} has no dataset {unknown!r}", hint=_one_of(d for d, _ in runs)
        )
    for trained, by_target in runs.items():
        wish = (targets or {}).get(trained[0])
        if wish is not None:
            if f"{wish:g}" not in by_target:
                what = f"{source} has no runs of {trained[0]} to {wish:g}"
                raise InvalidRequest(what, hint=_one_of(by_target))
            target = f"{wish:g}"
        else:
            sure = [t for t, ways in by_target.items() if any(map(_reached, ways.values()))]
            target = min(sure or by_target, key=lambda t: _ease(by_target[t].values()))
        chosen[trained] = target
        for (batch_size, optimizer, rate), reached in sorted(by_target[target].items()):
            if _reached(reached):
                key = (*trained, batch_size, optimizer)
                mean = sum(reached) / len(reached)
                epochs[key] = (*epochs.get(key, ()), Epochs(rate, mean))
    return Training(chosen, epochs)


def _at_least(seconds: float) -> str:
    """Rounded up, so that who asks for so much gets it."""
    return f"{math.ceil(seconds * 1_000) / 1_000:.12g}"


def _reached(epochs: Iterable[float]) -> bool:
    return max(epochs) < float("inf")


def _ease(ways: Iterable[Sequence[float]]) -> tuple[int, float]:
    """How many runs got there, then how quickly."""
    reached = [epoch for way in ways for epoch in way if epoch < float("inf")]
    return len(reached), -sum(reached)


def _name(setting: Setting) -> tuple[int, float, str, str]:
    return setting.batch_size, setting.power_limit_w, setting.optimizer, setting.learning_rate


def _once(seen: dict[tuple[object, ...], Row], key: tuple[object, ...], row: Row) -> None:
    if key in seen:
        first = seen[key]
        where = f"{first.source}:{first.line}"
        raise row.wrong(f"measures the same as {where}", expected="each setting once")
    seen[key] = row


def _one_of(names: Iterable[str]) -> str:
    return f"use one of {', '.join(sorted(set(names)))}"
