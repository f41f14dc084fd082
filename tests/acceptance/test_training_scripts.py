"""Scripts that know nothing of Lepton, under `leptonai train`: they see all workers, and one that
saves into $LEPTON_CHECKPOINT_DIR goes on after a kill."""

import json
import os
import signal

import pytest

from leptonai.testing.platform import RunningPlatform, eventually

SUM = """\
import os
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
value = torch.tensor([10.0 + dist.get_rank()])
dist.all_reduce(value)
print(f"rank {dist.get_rank()} of {dist.get_world_size()} has {value.item():g}", flush=True)
dist.destroy_process_group()
"""

COUNT = """\
import os, pathlib, time
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
kept = pathlib.Path(os.environ["LEPTON_CHECKPOINT_DIR"], "count.pt")
count = torch.load(kept) if kept.exists() else torch.zeros(1)
begun = int(count)
while count < 8:
    step = torch.ones(1)
    dist.all_reduce(step)
    count += step / dist.get_world_size()
    dist.barrier()
    if dist.get_rank() == 0:
        torch.save(count, kept.with_suffix(".new"))
        kept.with_suffix(".new").rename(kept)
        print(f"step {int(count)} pid {os.getpid()}", flush=True)
    if not begun and count >= 3:
        time.sleep(600)  # until it is killed
    dist.barrier()
print(f"began at {begun}, ended at {int(count)}", flush=True)
dist.destroy_process_group()
"""

TELL = """\
import os
print(os.environ["TF_CONFIG"], flush=True)
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("scripts") / "home") as running:
        yield running


def started(platform, folder, program: str, *arguments: str) -> str:
    (folder / "train.py").write_text(program)
    return platform.cli("train", "--num-workers", "2", *arguments).stdout.strip()


def log_of(platform, job_id: str) -> list[str]:
    with platform.client() as client:
        assert client.jobs.wait(job_id, timeout_s=180).status.state == "Completed"
    return platform.cli("job", "log", job_id).stdout.splitlines()


def test_a_script_and_torchrun_with_a_script_see_all_workers(platform, tmp_path):
    script = str(tmp_path / "train.py")
    torchrun = ("--workdir", str(tmp_path), "torch.distributed.run", "--", "train.py")
    jobs = [started(platform, tmp_path, SUM, *how) for how in ((script,), torchrun)]
    for job_id in jobs:
        heard = sorted(line for line in log_of(platform, job_id) if "rank" in line)
        assert heard == ["[0] rank 0 of 2 has 21", "[1] rank 1 of 2 has 21"]


def test_a_script_goes_on_from_what_it_saved_when_a_worker_is_killed(platform, tmp_path):
    job_id = started(platform, tmp_path, COUNT, str(tmp_path / "train.py"))
    with platform.client() as client:

        def steps() -> list[str]:
            return [
                line
                for replica in client.jobs.replicas(job_id)
                for line in client.jobs.log(job_id, replica.id, follow=False)
                if line.startswith("step ")
            ]

        seen = eventually(steps, lambda lines: len(lines) >= 2)
        os.kill(int(seen[0].split()[-1]), signal.SIGKILL)
        ended = [line for line in log_of(platform, job_id) if "began" in line]
        assert len({line.split(" ", 1)[1] for line in ended}) == 1, "both went back as far"
        began = int(ended[0].split()[3].rstrip(","))
        assert 2 <= began < 8
        assert ended == [f"[{rank}] began at {began}, ended at 8" for rank in (0, 1)]
        (past,) = client.jobs.get(job_id).status.job_history
        assert past.exit_code == 137


def test_tensorflow_is_told_where_all_workers_listen(platform, tmp_path):
    job_id = started(platform, tmp_path, TELL, str(tmp_path / "train.py"))
    told = [json.loads(line.split(" ", 1)[1]) for line in log_of(platform, job_id)]
    assert [each["task"] for each in told] == [
        {"type": "worker", "index": 0},
        {"type": "worker", "index": 1},
    ]
    assert told[0]["cluster"] == told[1]["cluster"]
    hosts, ports = zip(*(where.split(":") for where in told[0]["cluster"]["worker"]), strict=True)
    assert set(hosts) == {"127.0.0.1"}
    assert len(set(ports)) == 2
