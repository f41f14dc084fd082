"""What public templates start, on a platform that runs."""

import ctypes.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leptonai.testing.platform import RunningPlatform
from leptonai.testing.programs import write_program

RANK = Path(__file__).parent / "summing_ranks.py"
STAND_IN = """\
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
    ranks = shlex.join(["mpirun", sys.executable, str(RANK)])
    run = f"{ranks}; cat $HOSTFILE; echo $NODE_RANK of $NNODES"
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
    write_program(tmp_path / program, STAND_IN)
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


def test_what_a_template_becomes_is_started_as_what_it_is(platform, tmp_path):
    said = {"word": {"type": "string"}}
    variables = [{"name": "WORD", "value": "{{word}}"}]
    container = {"command": ["echo", "said {{word}}"]}
    small = {"cpu": 0.1, "memory": 64}
    for name, kind, content in (
        ("says", "job", {"container": container} | small),
        ("desk", "pod", {"resource_requirement": small, "envs": variables}),
        ("site", "deployment", {"resource_requirement": small, "container": container}),
    ):
        file = tmp_path / f"{name}.json"
        spec = {"content": content, "json_schema": {"properties": said}, "workload_type": kind}
        file.write_text(json.dumps(spec))
        platform.cli("template", "create", "-n", name, str(file))
    done = platform.cli("template", "start", "says", "word=hello", "-n", "one", "--follow")
    assert "said hello" in done.stdout.splitlines()
    started = platform.answer("template", "start", "desk", "word=hi", "-n", "two", "-o", "json")
    rendered = tmp_path / "rendered.json"
    told = platform.answer("template", "render", "desk", "word=hi", "-o", "json")
    rendered.write_text(json.dumps(told["spec"]))
    asked = ("pod", "create", "three", "-f", str(rendered), "--memory", "96MiB", "-o", "json")
    made = platform.answer(*asked)
    assert [each["spec"]["is_pod"] for each in (started, made)] == [True, True]
    assert started["spec"]["envs"] == made["spec"]["envs"] == [{"name": "WORD", "value": "hi"}]
    sizes = [each["spec"]["resource_requirement"] for each in (started, made)]
    assert [(size["cpu"], size["memory"]) for size in sizes] == [(0.1, 64), (0.1, 96)]
    served = platform.answer("template", "start", "site", "word=it", "-n", "four", "-o", "json")
    assert served["spec"]["api_tokens"] == [{"value_from": {"token_name_ref": "WORKSPACE_TOKEN"}}]
