"""What public templates start, on a platform that runs."""

import ctypes.util
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from leptonai.testing.platform import RunningPlatform

RANK = Path(__file__).parent / "summing_ranks.py"
STAND_IN = """#!{python}
import json, sys
print(json.dumps(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with RunningPlatform(tmp_path_factory.mktemp("templates") / "home") as running:
        yield running


@pytest.mark.skipif(
    not (shutil.which("mpirun") and ctypes.util.find_library("mpi")),
    reason="Open MPI is not installed: apt-get install openmpi-bin",
)
def test_an_mpi_program_has_a_rank_a_worker_and_mpirun_starts_once(platform, tmp_path):
    run = f"mpirun {sys.executable} {RANK}; cat $HOSTFILE; echo $NODE_RANK of $NNODES"
    rendered = platform.answer("template", "render", "mpi", f"run={run}", "-o", "json")
    job = tmp_path / "job.json"
    job.write_text(json.dumps(rendered["spec"]))
    size = ("--num-workers", "3", "--cpu", "0.2", "--memory", "256MiB")
    done = platform.cli("job", "create", "-n", "ranks", *size, "-f", str(job), "--follow")
    lines = done.stdout.splitlines()
    assert sorted(line.partition("] ")[2] for line in lines if "rank" in line) == [
        f"rank {rank} of 3: the sum is 3" for rank in range(3)
    ]
    assert sorted(line.partition("] ")[2] for line in lines if "of 3" in line)[:3] == [
        f"{worker} of 3" for worker in range(3)
    ]
    assert {line.partition("] ")[2] for line in lines if "slots=" in line} == {"127.0.0.1 slots=3"}


@pytest.mark.parametrize(
    ("template", "program", "expected"),
    [
        (
            "vllm",
            "vllm",
            ["serve", "{model}", "--host", "127.0.0.1", "--port", "4242",
             "--tensor-parallel-size", "2", "--max-model-len", "4096"],
        ),
        (
            "sglang",
            "python3",
            ["-m", "sglang.launch_server", "--model-path", "{model}", "--host", "127.0.0.1",
             "--port", "4242", "--tp", "2"],
        ),
    ],
)  # fmt: skip
def test_an_engine_is_called_with_what_the_template_was_given(
    platform, tmp_path, template, program, expected
):
    """The engines cannot be installed everywhere: what they would be told is looked at."""
    model = "org/net $(touch pwned); 'a' \"b\""
    asked = (template, f"model={model}", "tensor_parallel=2", "-o", "json")
    spec = platform.answer("template", "render", *asked)["spec"]
    stand_in = tmp_path / program
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(stat.S_IRWXU)
    given = {each["name"]: each["value"] for each in spec["envs"]}
    told = subprocess.run(
        spec["container"]["command"],
        env=given | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PORT": "4242"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout) == [part.format(model=model) for part in expected]
    assert not (tmp_path / "pwned").exists()
