"""Event simulators that run the platform's own scheduler over recorded or published workloads.

from leptonai.core.scheduler import QUEUE_POLICIES
from leptonai.testing.simulator import Cluster, Job, simulate_queue

jobs = [
    Job(id="long", submitted_ms=0, duration_ms=3_600_000, gpus=8),
    Job(id="short", submitted_ms=60_000, duration_ms=60_000, gpus=2),
]
outcome = simulate_queue(jobs, Cluster(gpus=8), QUEUE_POLICIES["srtf"])
print(outcome.jct_s, outcome.measures())
"""

from leptonai.testing.simulator.autoscale import Autoscaled, Requests, simulate_autoscale
from leptonai.testing.simulator.jobs import (
    Condition,
    Job,
    as_equals,
    read_jobs,
    with_uniform_deadlines,
)
from leptonai.testing.simulator.outcome import Outcome
from leptonai.testing.simulator.pack import (
    Packed,
    Pod,
    read_nodes,
    read_pods,
    simulate_pack,
)
from leptonai.testing.simulator.queue import (
    EXACT,
    UNKNOWN,
    Cluster,
    Durations,
    simulate_queue,
)

__all__ = [
    "EXACT",
    "UNKNOWN",
    "Autoscaled",
    "Cluster",
    "Condition",
    "Durations",
    "Job",
    "Outcome",
    "Packed",
    "Pod",
    "Requests",
    "as_equals",
    "read_jobs",
    "read_nodes",
    "read_pods",
    "simulate_autoscale",
    "simulate_pack",
    "simulate_queue",
    "with_uniform_deadlines",
]
