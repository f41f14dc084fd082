"""Queueing policies over a pool of GPUs, written out as plainly as possible: what the published
reference numbers mean, to compare the scheduler with. Slow: everything is sorted at every event."""

from collections.abc import Sequence

from leptonai.testing.simulator import Job

HOUR_MS = 3_600_000


def ends_ms(jobs: Sequence[Job], gpus: int, policy: str) -> list[int]:
    """When each job ends, in whole milliseconds."""
    return _easy(jobs, gpus) if policy == "easy" else _greedy(jobs, gpus, policy)


def _greedy(jobs: Sequence[Job], gpus: int, policy: str) -> list[int]:
    preempts = policy in ("srtf", "srsf", "edf", "las", "mlfq")
    passes = policy != "fifo"
    left = [job.duration_ms for job in jobs]
    end = [0] * len(jobs)
    coming = sorted(range(len(jobs)), key=lambda i: (jobs[i].submitted_ms, i))
    active: list[int] = []
    running: set[int] = set()
    now = jobs[coming[0]].submitted_ms

    def attained(i: int) -> int:  # in GPU ms
        return (jobs[i].duration_ms - left[i]) * jobs[i].gpus

    def rank(i: int) -> tuple[float, int, int]:
        first = {
            "fifo": 0,
            "sjf": jobs[i].duration_ms,
            "srtf": left[i],
            "srsf": left[i] * jobs[i].gpus,
            "edf": jobs[i].deadline_ms or 1 << 62,
            "las": int(attained(i) >= 8 * HOUR_MS),
            "mlfq": sum(attained(i) >= limit for limit in feedback_limits()),
        }[policy]
        return first, jobs[i].submitted_ms, i

    def crossings(i: int) -> list[int]:
        """How long until it has attained as much as lets others go first."""
        limits = {"las": [8 * HOUR_MS], "mlfq": feedback_limits()}.get(policy, [])
        return [-(-(x - attained(i)) // jobs[i].gpus) for x in limits if x > attained(i)]

    while coming or active:
        times = [now + left[i] for i in running]
        times += [now + wait for i in running for wait in crossings(i)]
        if coming:
            times.append(jobs[coming[0]].submitted_ms)
        passed, now = min(times) - now, min(times)
        for i in running:
            left[i] -= passed
        for i in [i for i in running if left[i] == 0]:
            running.remove(i)
            active.remove(i)
            end[i] = now
        while coming and jobs[coming[0]].submitted_ms <= now:
            active.append(coming.pop(0))
        free = gpus if preempts else gpus - sum(jobs[i].gpus for i in running)
        chosen = set() if preempts else set(running)
        for i in sorted(set(active) - chosen, key=rank):
            if jobs[i].gpus <= free:
                chosen.add(i)
                free -= jobs[i].gpus
            elif not passes:
                break
        running = chosen
    return end


def feedback_limits() -> list[int]:
    return [HOUR_MS // 2 * 4**level for level in range(12)]


def _easy(jobs: Sequence[Job], gpus: int) -> list[int]:
    """First come, first served; who does not delay the first that waits may pass it."""
    coming = sorted(range(len(jobs)), key=lambda i: (jobs[i].submitted_ms, i))
    queue: list[int] = []
    running: dict[int, int] = {}
    end = [0] * len(jobs)
    free = gpus

    def start(i: int) -> None:
        nonlocal free
        queue.remove(i)
        running[i] = end[i] = now + jobs[i].duration_ms
        free -= jobs[i].gpus

    while coming or running or queue:
        times = [*running.values()]
        if coming:
            times.append(jobs[coming[0]].submitted_ms)
        now = min(times)
        for i in [i for i, when in running.items() if when <= now]:
            del running[i]
            free += jobs[i].gpus
        while coming and jobs[coming[0]].submitted_ms <= now:
            queue.append(coming.pop(0))
        while queue and jobs[queue[0]].gpus <= free:
            start(queue[0])
        if not queue:
            continue
        room = free
        reserved_ms = now
        for when, i in sorted((when, i) for i, when in running.items()):
            if room >= jobs[queue[0]].gpus:
                break
            room, reserved_ms = room + jobs[i].gpus, when
        spare = room - jobs[queue[0]].gpus
        for i in queue[1:]:
            in_time = now + jobs[i].duration_ms <= reserved_ms
            if jobs[i].gpus <= free and (in_time or jobs[i].gpus <= spare):
                if not in_time:
                    spare -= jobs[i].gpus
                start(i)
    return end
