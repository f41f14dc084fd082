"""How long one call of the scheduler takes.

    python -m benchmarks.scheduler

Prints one JSON object: milliseconds, the best of some rounds.
"""

import json
import time

from leptonai.core.scheduler import Snapshot, schedule
from leptonai.testing.builders import a_gang, a_holding, a_node, a_snapshot

ROUNDS = 7


def main() -> None:
    full = (a_node(cpu=2), a_holding(cpu=2))
    many = [a_node(f"node-{number}", cpu=8) for number in range(1_000)]
    print(
        json.dumps(
            {
                "5_gangs_on_1_node_ms": best_ms(
                    a_snapshot(a_node(cpu=8), *(a_gang(f"job-{n}", ports=(80,)) for n in range(5)))
                ),
                "10000_waiting_alike_ms": best_ms(
                    a_snapshot(*full, *(a_gang(f"job-{n:05}") for n in range(10_000)))
                ),
                "1000_placements_on_1000_nodes_ms": best_ms(
                    a_snapshot(*many, *(a_gang(f"job-{n:05}") for n in range(1_000)))
                ),
                "400_gangs_of_2_that_span_nodes_ms": best_ms(
                    a_snapshot(
                        *many, *(a_gang(f"job-{n:05}", workers=2, cpu=5) for n in range(400))
                    )
                ),
            },
            indent=2,
        )
    )


def best_ms(snapshot: Snapshot) -> float:
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        schedule(snapshot)
        taken.append(time.perf_counter() - began)
    return round(min(taken) * 1000, 3)


if __name__ == "__main__":
    main()
