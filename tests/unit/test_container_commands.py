"""Command lines for podman and docker, and which of the two is taken, without either of them."""

import asyncio
import os
import resource
from pathlib import Path

import pytest

from leptonai.engines.local.containers import (
    Containers,
    NoRuntime,
    Runtime,
    client_environment,
    find_runtime,
)
from leptonai.engines.local.mounts import Found
from leptonai.ports.engine import Attempt

PODMAN = Runtime("/usr/bin/podman", ("--user", "0:0"))
DOCKER = Runtime("/usr/bin/docker", ("--user", "1000:1000"))


def line(runtime: Runtime, env: dict[str, str] | None = None, **fields) -> list[str]:
    attempt = Attempt(id="j-0.0", node="local", command=("python", "a b.py"), image="i:1", **fields)
    made = Containers("lepton-1").command(
        runtime, attempt, env=env or {}, mounts=["/h/w"], directory="/h/w"
    )
    return list(made)


def after(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_a_container_has_a_name_its_files_and_the_command_as_it_was_typed():
    assert line(PODMAN) == [
        *("/usr/bin/podman", "run", "--name", "lepton-1-j-0.0", "--user", "0:0"),
        *("--network", "host", "--init", "--security-opt", "label=disable"),
        *("--volume", "/h/w:/h/w", "--workdir", "/h/w"),
        *("--entrypoint", "python", "i:1", "a b.py"),
    ]


def test_volumes_are_where_they_are_wanted():
    attempt = Attempt(id="j-0.0", node="local", command=("true",), image="i:1")
    found = [Found(Path("/v/a"), "/mnt/a", False), Found(Path("/v/b"), "/mnt/b", True)]
    made = Containers("lepton-1").command(
        PODMAN, attempt, env={}, mounts=[], directory="/h/w", volumes=found
    )
    assert after(list(made), "--volume") == ["/v/a:/mnt/a", "/v/b:/mnt/b:ro"]


def test_podman_names_each_gpu_and_docker_all_at_once():
    assert after(line(PODMAN, gpus=(1, 3)), "--device") == ["nvidia.com/gpu=1", "nvidia.com/gpu=3"]
    assert after(line(DOCKER, gpus=(1, 3)), "--gpus") == ['"device=1,3"']
    for runtime in (PODMAN, DOCKER):
        assert not {"--device", "--gpus"} & set(line(runtime))


def test_the_other_workers_are_found_by_name():
    made = line(PODMAN, hosts={"j-0.j-job-svc": "10.0.0.1", "j-1.j-job-svc": "10.0.0.2"})
    assert after(made, "--add-host") == ["j-0.j-job-svc:10.0.0.1", "j-1.j-job-svc:10.0.0.2"]


def test_limits_are_the_containers():
    made = line(DOCKER, cpu_millis=500, limit_cpu_millis=1_500, limit_memory_bytes=1 << 30)
    assert after(made, "--cpu-shares") == ["512"]
    assert after(made, "--cpus") == ["1.5"]
    assert after(made, "--memory") == ["1073741824"]


def test_a_variable_is_passed_by_name_unless_its_client_would_read_it():
    env = {"KEY": "s3cret", "HOME": "/inside"}
    assert after(line(DOCKER, env), "--env") == ["HOME=/inside", "KEY"]
    ours = {"HOME": "/outside", "DOCKER_HOST": "d"}
    assert client_environment(ours, env) == {**ours, "KEY": "s3cret"}


# --- which program -------------------------------------------------------------------------------


def programs(monkeypatch: pytest.MonkeyPatch, directory: Path, **scripts: str) -> None:
    """These are all the programs of the machine."""
    for name, script in scripts.items():
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))


def test_without_a_program_images_cannot_be_run(monkeypatch, tmp_path):
    programs(monkeypatch, tmp_path)
    assert asyncio.run(find_runtime()) == NoRuntime(
        "neither podman nor docker is installed", hint="install podman"
    )


def test_docker_without_its_daemon_is_no_runtime(monkeypatch, tmp_path):
    programs(monkeypatch, tmp_path, docker="echo null; echo Cannot connect. >&2; exit 1")
    found = asyncio.run(find_runtime())
    assert isinstance(found, NoRuntime)
    assert found.because == f"{tmp_path}/docker has no daemon: Cannot connect."


@pytest.mark.parametrize(
    ("says", "user"),
    [
        ('["name=seccomp,profile=builtin"]', f"{os.getuid()}:{os.getgid()}"),
        ('["name=rootless"]', "0:0"),
    ],
)
def test_docker_runs_as_this_user_whoever_its_daemon_is(monkeypatch, tmp_path, says, user):
    programs(monkeypatch, tmp_path, docker=f"echo '{says}'")
    assert asyncio.run(find_runtime()) == Runtime(
        f"{tmp_path}/docker", ("--log-driver", "none", "--ipc", "host", "--user", user)
    )


def test_docker_is_taken_where_podman_starts_nothing(monkeypatch, tmp_path):
    programs(monkeypatch, tmp_path, podman="exit 126", docker="echo null")
    found = asyncio.run(find_runtime())
    assert isinstance(found, Runtime)
    assert found.program == f"{tmp_path}/docker"


def test_podman_takes_another_runtime_where_its_own_starts_nothing(monkeypatch, tmp_path):
    podman = 'case "$*" in *--runtime\\ runc*) exit 0;; esac; echo crun: no; exit 126'
    programs(monkeypatch, tmp_path, podman=podman, crun="", runc="")
    found = asyncio.run(find_runtime())
    assert isinstance(found, Runtime)
    assert found.options[:4] == ("--runtime", "runc", "--log-driver", "passthrough")


def test_podman_that_cannot_hand_a_file_on_copies_the_output(monkeypatch, tmp_path):
    podman = 'case "$*" in *passthrough*) exit 125;; esac'
    programs(monkeypatch, tmp_path, podman=podman)
    found = asyncio.run(find_runtime())
    assert isinstance(found, Runtime)
    assert found.options[:2] == ("--log-driver", "none")


def test_podman_asks_for_no_more_than_this_process_may_have(monkeypatch, tmp_path):
    programs(monkeypatch, tmp_path, podman="")
    found = asyncio.run(find_runtime())
    assert isinstance(found, Runtime)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert f"nofile={files}:{files}" in found.options


def test_podman_that_starts_nothing_is_told_in_its_own_words(monkeypatch, tmp_path):
    programs(monkeypatch, tmp_path, podman="echo warning; echo Error: no user namespaces; exit 125")
    found = asyncio.run(find_runtime())
    assert isinstance(found, NoRuntime)
    assert found.because == f"{tmp_path}/podman cannot start containers: Error: no user namespaces"


def test_a_program_is_not_left_behind_when_nobody_waits_for_its_answer(monkeypatch, tmp_path):
    programs(monkeypatch, tmp_path, podman=f"echo $$ > {tmp_path}/pid; exec /bin/sleep 600")

    async def main():
        asks = asyncio.create_task(find_runtime())
        async with asyncio.timeout(20):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                await asyncio.sleep(0.01)
        asks.cancel()
        await asyncio.gather(asks, return_exceptions=True)

    asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
