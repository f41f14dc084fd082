"""The platform is killed again and again under load, and nobody notices but the clock.

1,000 jobs are submitted by 32 clients at once, while the control plane gets `kill -9` five times
and is started again. Every acknowledged job ends exactly once, in the right state.
"""

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from leptonai.spec.containers import Container
from leptonai.spec.jobs import JobSpec, JobState, LeptonJob
from leptonai.spec.metadata import Metadata
from leptonai.testing.platform import RunningPlatform

JOBS = int(os.environ.get("LEPTON_KILL_JOBS", "1000"))
CLIENTS = 32
KILLS = 5
PATIENCE_S = 300

# Each notes that it ran: `$0` is the job's own number, `$1` the folder of the notes.
SCRIPTS = {
    "succeeds": 'echo x >> "$1/$0"',
    "fails": 'echo x >> "$1/$0"; exit 3',
    "outlives": 'echo x >> "$1/$0"; sleep 4',
    "daemonises": 'echo x >> "$1/$0"; setsid sleep 600 & echo $! > "$1/$0.child"; sleep 0.2',
    "orphaned": 'echo x >> "$1/$0"; kill -9 $PPID; sleep 600',
    "stopped": 'echo x >> "$1/$0"; sleep 600',
}
EXPECTED = {
    "succeeds": JobState.COMPLETED,
    "fails": JobState.FAILED,
    "outlives": JobState.COMPLETED,
    "daemonises": JobState.COMPLETED,
    "orphaned": JobState.FAILED,
    "stopped": JobState.STOPPED,
}
RARE = ("outlives", "daemonises", "orphaned", "stopped")


def kind_of(number: int) -> str:
    """Mostly quick ones, and one of each rare kind in every 40."""
    place = number % 40
    if place < len(RARE):
        return RARE[place]
    return "fails" if place % 4 == 0 else "succeeds"


def a_job(number: int, notes: Path) -> LeptonJob:
    kind = kind_of(number)
    command = ["sh", "-c", SCRIPTS[kind], str(number), str(notes)]
    return LeptonJob(
        metadata=Metadata(id=f"{kind}-{number}"),
        spec=JobSpec(container=Container(command=command)),
    )


def test_every_acknowledged_job_ends_exactly_once_in_the_right_state(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    with RunningPlatform(tmp_path / "home") as platform:
        acknowledged: dict[int, str] = {}
        # Each keeps trying while the platform is down, which comes back where it was.
        theirs = [platform.client(retry_for_s=120) for _ in range(CLIENTS)]
        submitted = threading.Event()

        def submit(client_number: int) -> None:
            client = theirs[client_number]
            for number in range(client_number, JOBS, CLIENTS):
                job = client.jobs.create(a_job(number, notes))
                acknowledged[number] = job.metadata.id
                if kind_of(number) == "stopped":
                    client.jobs.stop(job.metadata.id)  # retried while the platform is down

        def killer() -> None:
            for _ in range(KILLS):
                submitted.wait(1.0)
                platform.kill()
                platform.up()

        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            killing = pool.submit(killer)
            clients = [pool.submit(submit, number) for number in range(CLIENTS)]
            for client in clients:
                client.result()
            submitted.set()
            killing.result()

        client = platform.client()
        jobs = wait_for_all(client, set(acknowledged.values()))
        assert len(acknowledged) == JOBS
        assert set(jobs) == set(acknowledged.values()), "nothing else was made"
        wrong = {
            id: (jobs[id].status.state, jobs[id].status.message, jobs[id].status.exit_code)
            for number, id in acknowledged.items()
            if jobs[id].status.state is not EXPECTED[kind_of(number)]
        }
        assert wrong == {}
        exit_codes = Counter(
            (kind_of(number), jobs[id].status.exit_code)
            for number, id in acknowledged.items()
            if kind_of(number) in ("succeeds", "fails", "outlives", "daemonises")
        )
        assert {code for kind, code in exit_codes if kind == "fails"} == {3}
        assert {code for kind, code in exit_codes if kind != "fails"} == {0}
        runs = {n: len((notes / str(n)).read_text().split()) for n in ran(acknowledged, notes)}
        assert {n: count for n, count in runs.items() if count != 1} == {}, "no job ran twice"
        must_run = {n for n in acknowledged if kind_of(n) != "stopped"}
        assert must_run <= set(runs), "each ran once"
        orphans = [id for n, id in acknowledged.items() if kind_of(n) == "orphaned"]
        assert {"gone without an exit status" in jobs[id].status.message for id in orphans} == {
            True
        }
        children = [int(path.read_text()) for path in notes.glob("*.child")]
        assert [pid for pid in children if is_sleeping(pid)] == [], "nothing is left behind"


def wait_for_all(client, ids: set[str]) -> dict[str, LeptonJob]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        jobs = {job.metadata.id: job for job in client.jobs.list()}
        final = {JobState.COMPLETED, JobState.FAILED, JobState.STOPPED}
        waiting = [id for id in ids if id not in jobs or jobs[id].status.state not in final]
        if not waiting:
            return jobs
        assert time.monotonic() < deadline, f"{len(waiting)} jobs do not end: {waiting[:5]}"
        time.sleep(0.5)


def ran(acknowledged: dict[int, str], notes: Path) -> list[int]:
    return [number for number in acknowledged if (notes / str(number)).exists()]


def is_sleeping(pid: int) -> bool:
    """Whether it still is the child that a job left behind."""
    try:
        return b"sleep\x00600" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
