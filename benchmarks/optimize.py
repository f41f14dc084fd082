"""How long the optimisation models take, and how near to the bound they come.

    python -m benchmarks.optimize

Prints one JSON object. The instances are made up, with seeds: nodes of five kinds, tasks that want
CPU, memory and GPUs in unequal proportions, more of them than fit; a node's speed sets what a task
is worth on it, its power what it takes. First value, then energy.
"""

import json
import random
import time

from leptonai.core.scheduler.optimize import (
    Answer,
    Model,
    Node,
    Objective,
    Option,
    Task,
    solve_by_classes,
    solve_exactly,
)

SEED = 7
OBJECTIVES = (Objective.THROUGHPUT, Objective.ENERGY)
MID_NODES, MID_TASKS = 10, 50
LARGE_NODES, LARGE_TASKS, LARGE_KINDS = 10_000, 100_000, 200
EXACT_LIMIT_S = 20.0

# name: CPUs, memory in GiB, GPUs, speed, power in W of the node when idle, of a GPU and of a CPU
KINDS = {
    "cpu": (128, 512, 0, 1.0, 150, 0, 3.0),
    "t4": (48, 192, 4, 1.0, 120, 65, 3.5),
    "a10": (64, 256, 4, 2.2, 140, 140, 3.2),
    "a100": (96, 1024, 8, 5.0, 300, 380, 3.0),
    "h100": (192, 2048, 8, 9.0, 400, 650, 2.5),
}


def main() -> None:
    figures: dict[str, float] = {}
    for name, kinds, nodes, tasks, solver in (
        ("exact", MID_TASKS, MID_NODES, MID_TASKS, solve_exactly),
        ("mid_by_classes", MID_TASKS, MID_NODES, MID_TASKS, solve_by_classes),
        ("large_by_classes", LARGE_KINDS, LARGE_NODES, LARGE_TASKS, solve_by_classes),
    ):
        model = a_model(nodes=nodes, tasks=tasks, kinds=kinds)
        began = time.perf_counter()
        answer = solver(model, OBJECTIVES, time_limit_s=EXACT_LIMIT_S, explain=False)
        figures[f"{name}_s"] = round(time.perf_counter() - began, 3)
        assert isinstance(answer, Answer), answer
        for goal in answer.goals:
            figures[f"{name}_{goal.objective}_gap_percent"] = round(100 * goal.gap, 4)
        figures[f"{name}_placed"] = len(answer.placements)
    print(json.dumps(figures, indent=2))


def a_model(*, nodes: int, tasks: int, kinds: int) -> Model:
    """Tasks of `kinds` kinds, about one and a half times what the nodes can hold."""
    chance = random.Random(SEED)
    names = list(KINDS)
    wants = {}
    for number in range(kinds):
        gpus = chance.choice((0, 0, 1, 1, 2, 4))
        cpus = chance.randint(1, 16) * max(1, gpus)
        work = cpus + 40 * gpus
        wants[f"kind-{number:03}"] = (
            {"cpu": cpus, "memory_gib": cpus * chance.choice((1, 2, 4, 8)), "gpu": gpus},
            work * chance.uniform(0.5, 2.0),
        )
    duration_s = 3_600.0
    return Model(
        tasks=tuple(
            Task(id=f"task-{number:06}", kind=kind, needs=wants[kind][0])
            for number in range(tasks)
            for kind in [f"kind-{number % kinds:03}"]
        ),
        nodes=tuple(
            Node(
                id=f"node-{number:05}",
                kind=name,
                rates={"cpu": KINDS[name][0], "memory_gib": KINDS[name][1], "gpu": KINDS[name][2]},
                opening_energy_j=KINDS[name][4] * duration_s,
            )
            for number in range(nodes)
            for name in [names[number % len(names)]]
        ),
        options=tuple(
            Option(
                task=kind,
                node=name,
                value=worth * (speed if needs["gpu"] else 1.0),
                energy_j=(needs["gpu"] * gpu_w + needs["cpu"] * cpu_w) * duration_s,
                duration_s=duration_s,
            )
            for kind, (needs, worth) in wants.items()
            for name, (_, _, gpus, speed, _, gpu_w, cpu_w) in KINDS.items()
            if needs["gpu"] <= gpus
        ),
    )


if __name__ == "__main__":
    main()
