"""What becomes of a Ray cluster and its nodes, whatever happens to them."""

import subprocess

import pytest
from msgspec.structs import replace

from leptonai.core.lifecycle.ray_node import (
    HEAD_PORTS,
    NO_RAY,
    OLD_RAY,
    start_command,
    token_variables,
)
from leptonai.core.lifecycle.raycluster import LATE_MS, advance, head_of, new_raycluster, resized
from leptonai.core.lifecycle.replica import SeenEnded, SeenRunning, asked_of, observed
from leptonai.core.records import EndReason, Event, Goal, Phase, RayCluster, Replica, Termination
from leptonai.spec.containers import Container
from leptonai.spec.rayclusters import (
    RayClusterSpec,
    RayClusterState,
    RayGroup,
    RayWorkerGroup,
)

NOW = 1_000_000


def a_spec(**groups: int) -> RayClusterSpec:
    return RayClusterSpec(
        head_group_spec=RayGroup(resource_shape="cpu.small"),
        worker_group_specs=[
            RayWorkerGroup(group_name=name, min_replicas=many, resource_shape="cpu.small")
            for name, many in groups.items()
        ],
    )


class Life:
    """A cluster and its nodes, moved by what happens to them."""

    def __init__(self, spec: RayClusterSpec) -> None:
        self.cluster: RayCluster = new_raycluster(
            workspace="ws",
            name="tune",
            spec=spec,
            owner="ada",
            labels={},
            visibility="",
            now_ms=NOW,
        )
        self.replicas: dict[str, Replica] = {}
        self.events: list[Event] = []
        self.now_ms = NOW
        self.advance()

    def advance(self) -> None:
        for _ in range(20):
            step = advance(self.cluster, self.replicas.values(), self.now_ms)
            rests = step.owner == self.cluster and not step.replicas
            self.cluster = step.owner
            self.replicas |= {r.id: r for r in step.replicas}
            self.events += step.events
            assert sum(r.group == "" for r in self.living) <= 1, "two heads"
            if rests:
                return
        raise AssertionError("the lifecycle does not come to rest")

    @property
    def living(self) -> list[Replica]:
        return [r for r in self.replicas.values() if r.phase is not Phase.DONE]

    @property
    def head(self) -> Replica:
        head = head_of(self.living)
        assert head is not None
        return head

    @property
    def workers(self) -> list[str]:
        return sorted(r.name for r in self.living if r.group and r.goal is Goal.RUN)

    def each(self, change) -> None:
        for replica in self.living:
            self.replicas[replica.id] = change(replica)
        self.advance()

    def serve(self) -> None:
        """Whatever waits is placed, runs and answers."""
        for _ in range(4):
            self.each(placed)
            self.each(lambda r: observed(r, SeenRunning(self.now_ms), self.now_ms))
            self.each(
                lambda r: (
                    replace(r, ready=True, ready_at_ms=self.now_ms)
                    if r.phase is Phase.RUNNING and r.goal is Goal.RUN
                    else r
                )
            )

    def end(self, name: str, **how) -> None:
        how = {"reason": EndReason.EXITED, "exit_code": 1, "finished_at_ms": self.now_ms} | how
        self.each(
            lambda r: (
                observed(r, SeenEnded(Termination(**how)), self.now_ms) if r.name == name else r
            )
        )

    def end_stopped(self) -> None:
        how = Termination(reason=EndReason.STOPPED, finished_at_ms=self.now_ms)
        self.each(lambda r: observed(r, SeenEnded(how), self.now_ms) if r.goal is Goal.STOP else r)


def placed(replica: Replica) -> Replica:
    if replica.phase is not Phase.WAITING:
        return replica
    ports = tuple(range(2000, 2000 + len(replica.program.ports)))
    return replace(replica, phase=Phase.PLACED, node="n1", ports=ports)


def test_workers_are_asked_for_once_the_head_answers():
    life = Life(a_spec(cpu=2, gpu=1))
    assert life.workers == []
    assert life.cluster.state is RayClusterState.STARTING
    assert life.cluster.message == "the head waits for a node"
    life.each(placed)
    life.each(lambda r: observed(r, SeenRunning(NOW), NOW))
    assert life.workers == []
    life.each(lambda r: replace(r, ready=True))
    assert life.workers == ["tune-cpu-0", "tune-cpu-1", "tune-gpu-0"]
    assert life.cluster.state is RayClusterState.SCALING
    assert life.cluster.message == "0 of 3 workers are ready"
    life.serve()
    assert (life.cluster.state, life.cluster.message) == (RayClusterState.READY, "")
    assert (life.cluster.head_ready, life.cluster.ready_workers) == (True, 3)


def test_a_cluster_without_workers_is_ready_with_its_head():
    life = Life(a_spec())
    life.serve()
    assert life.cluster.state is RayClusterState.READY


def test_a_worker_that_ends_is_started_again_alone():
    life = Life(a_spec(cpu=2))
    life.serve()
    round = life.cluster.round
    life.end("tune-cpu-1")
    assert life.workers == ["tune-cpu-0", "tune-cpu-1"]
    assert life.cluster.round == round
    assert life.cluster.message == "1 of 2 workers are ready"
    life.serve()
    assert life.cluster.state is RayClusterState.READY
    (again,) = [event for event in life.events if event.reason == "NodeRestarted"]
    assert again.message == "worker cpu-1 exited with code 1; starting it again"


def test_when_the_head_ends_its_workers_leave_and_others_come():
    life = Life(a_spec(cpu=2))
    life.serve()
    before = {r.id for r in life.living if r.group}
    ports = life.head.ports
    life.end("tune-head")
    assert life.workers == []
    assert life.head.ports == ports
    assert life.cluster.state is RayClusterState.NOT_READY
    assert life.cluster.message == "the head exited with code 1; it starts again"
    life.end_stopped()
    life.serve()
    assert life.cluster.state is RayClusterState.READY
    assert life.workers == ["tune-cpu-0", "tune-cpu-1"]
    assert not before & {r.id for r in life.living}


def test_when_the_heads_node_is_lost_another_head_is_placed():
    life = Life(a_spec(cpu=1))
    life.serve()
    gone = life.head.id
    life.end("tune-head", reason=EndReason.NODE_LOST, exit_code=None)
    assert life.head.id != gone
    assert life.head.phase is Phase.WAITING
    life.end_stopped()
    life.serve()
    assert life.cluster.state is RayClusterState.READY


def test_a_stop_ends_everything_and_a_start_begins_anew():
    life = Life(a_spec(cpu=1))
    life.serve()
    first = life.head.id
    life.cluster = resized(life.cluster, replace(life.cluster.spec, suspend=True), NOW)
    assert life.cluster.state is RayClusterState.STOPPING
    life.advance()
    assert {r.name for r in life.living if r.goal is Goal.STOP} == {"tune-cpu-0"}
    life.end_stopped()  # workers take leave of the head
    assert {r.name for r in life.living if r.goal is Goal.STOP} == {"tune-head"}
    life.cluster = resized(life.cluster, replace(life.cluster.spec, suspend=False), NOW)
    life.advance()  # the old head has not ended yet: there are never two
    assert life.cluster.message == "the head before it is still ending"
    life.cluster = resized(life.cluster, replace(life.cluster.spec, suspend=True), NOW)
    life.advance()
    life.end_stopped()
    assert (life.cluster.state, life.living) == (RayClusterState.STOPPED, [])
    life.cluster = resized(life.cluster, replace(life.cluster.spec, suspend=None), NOW + 1)
    life.advance()
    assert life.cluster.state is RayClusterState.STARTING
    life.serve()
    assert life.cluster.state is RayClusterState.READY
    assert life.head.id != first


def test_a_head_that_ends_while_it_is_stopped_stays_ended():
    life = Life(a_spec())
    life.serve()
    life.cluster = resized(life.cluster, replace(life.cluster.spec, suspend=True), NOW)
    life.end("tune-head")
    assert (life.cluster.state, life.living) == (RayClusterState.STOPPED, [])


def test_fewer_workers_means_that_those_that_serve_least_leave():
    life = Life(a_spec(cpu=2))
    life.serve()
    life.end("tune-cpu-0")
    life.cluster = resized(life.cluster, a_spec(cpu=1), NOW)
    life.advance()
    assert life.workers == ["tune-cpu-1"]
    life.cluster = resized(life.cluster, a_spec(cpu=3), NOW)
    life.advance()
    assert life.workers == ["tune-cpu-0", "tune-cpu-1", "tune-cpu-2"]


@pytest.mark.parametrize(
    ("code", "told"), [(NO_RAY, "Ray is not installed"), (OLD_RAY, "older than 2.52")]
)
def test_where_ray_is_missing_or_too_old_the_state_says_what_to_install(code, told):
    life = Life(a_spec(cpu=1))
    life.each(placed)
    life.end("tune-head", exit_code=code)
    assert life.cluster.state is RayClusterState.NOT_READY
    assert told in life.cluster.message
    assert "pip install 'ray[default]>=2.52'" in life.cluster.message


def test_a_head_that_keeps_ending_or_does_not_answer_is_reported():
    life = Life(a_spec())
    for _ in range(3):
        life.each(placed)
        life.end("tune-head")
    assert "the head keeps ending: it last exited with code 1" in life.cluster.message
    assert life.head.not_before_ms > life.now_ms  # and is not started in a hurry
    life.each(lambda r: observed(r, SeenRunning(NOW), NOW))
    life = Life(a_spec())
    life.each(placed)
    life.each(lambda r: observed(r, SeenRunning(NOW), NOW))
    assert advance(life.cluster, life.living, NOW).wake_at_ms == NOW + LATE_MS
    life.now_ms = NOW + LATE_MS
    life.advance()
    assert life.cluster.state is RayClusterState.NOT_READY
    assert "does not answer after 180 s" in life.cluster.message


def test_what_was_asked_for_a_node_is_what_its_group_says():
    life = Life(a_spec(cpu=1))
    life.serve()
    (worker,) = (r for r in life.living if r.group)
    assert asked_of(life.head, life.cluster) == life.cluster.spec.head_group_spec
    assert asked_of(worker, life.cluster) == life.cluster.spec.groups[0]
    assert asked_of(worker, None) is None


# --- what a node runs ----------------------------------------------------------------------------


def test_nodes_get_the_ports_that_they_were_given_and_no_secret_on_their_command_line():
    life = Life(a_spec(cpu=1))
    life.serve()
    head = life.head
    (worker,) = (r for r in life.living if r.group)
    assert len(head.ports) == HEAD_PORTS
    said = start_command(head, head, address="10.0.0.1", head_address="10.0.0.1")
    assert said[said.index("ray") + 1 :] == (
        "--node-ip-address=10.0.0.1",
        "--num-cpus=1",
        "--num-gpus=0",
        "--object-store-memory=1288490188",
        "--head",
        "--port=2001",
        "--dashboard-host=10.0.0.1",
        "--dashboard-port=2000",
        "--dashboard-agent-listen-port=2002",
        "--ray-client-server-port=2003",
        "--",
    )
    said = start_command(worker, head, address="10.0.0.2", head_address="10.0.0.1")
    assert said[-3:] == ("--address=10.0.0.1:2001", "--dashboard-agent-listen-port=2000", "--")
    assert token_variables("secret") == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"}


def ran(tmp_path, ray: str | None, *command: str) -> subprocess.CompletedProcess[str]:
    """What a head's program does, where `ray` is this script."""
    group = RayGroup(container=Container(command=list(command)))
    life = Life(RayClusterSpec(head_group_spec=group))
    life.each(placed)
    (tmp_path / "bin").mkdir()
    if ray is not None:
        (tmp_path / "bin" / "ray").write_text(f"#!/bin/sh\n{ray}\n")
        (tmp_path / "bin" / "ray").chmod(0o755)
    for name in ("dirname", "mktemp", "rm", "sleep"):
        (tmp_path / "bin" / name).symlink_to(f"/usr/bin/{name}")
    return subprocess.run(
        start_command(life.head, life.head, address="127.0.0.1", head_address="127.0.0.1"),
        env={"PATH": str(tmp_path / "bin"), "LEPTON_REPLICA_ID": f"t-{tmp_path.name[-5:]}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


NEW_ENOUGH = 'if [ "$1" = --version ]; then echo "ray, version 2.52.1"; exit; fi\n'


def test_a_node_without_ray_or_with_one_that_asks_nobody_starts_nothing(tmp_path):
    assert ran(tmp_path, None).returncode == NO_RAY


@pytest.mark.parametrize("version", ["2.51.9", "1.99.0", "nonsense", "2"])
def test_an_older_ray_is_refused(tmp_path, version):
    done = ran(tmp_path, f'echo "ray, version {version}"')
    assert done.returncode == OLD_RAY, done
    assert "start" not in done.stdout


def test_the_users_command_runs_first_and_ray_only_if_it_succeeds(tmp_path):
    done = ran(tmp_path, NEW_ENOUGH + 'echo "ray $*"', "/bin/sh", "-c", "echo 'first;  $HOME'")
    first, ray = done.stdout.splitlines()
    assert first == "first;  $HOME"
    assert ray.startswith("ray start --block")
    assert "--dashboard-port=2000" in ray
    assert done.returncode == 0


def test_where_the_users_command_fails_ray_does_not_start(tmp_path):
    done = ran(tmp_path, NEW_ENOUGH + 'echo "ray $*"', "/bin/sh", "-c", "exit 127")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "the command before Ray ended with 127\n"


def test_rays_directory_goes_with_it(tmp_path):
    done = ran(tmp_path, NEW_ENOUGH + 'for a; do echo "$a"; done; exit 3')
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("--temp-dir=")]
    directory = told.removeprefix("--temp-dir=").removesuffix("/r")
    assert done.returncode == 3
    assert subprocess.run(["/bin/ls", directory], capture_output=True, check=False).returncode
