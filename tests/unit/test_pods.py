"""What pods are asked for, how they live, who enters them, and when they are idle."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.endpoint_life import Life, crash

from leptonai.control.loops.pods import told
from leptonai.core.access import Action, Allow, Principal, Resource, Role, decide
from leptonai.core.doors import cookie, is_cookie, read_ticket, ticket
from leptonai.core.lifecycle.endpoint import last_replica
from leptonai.core.lifecycle.program import program_of_endpoint
from leptonai.core.lifecycle.replica import SeenEnded, observed
from leptonai.core.pods import BUSY_CPU_MILLIS, busy, checked_pod, idleness, stopped_for_idleness
from leptonai.core.records import (
    Endpoint,
    EndReason,
    Goal,
    Phase,
    PodSeen,
    Replica,
    Termination,
)
from leptonai.core.routing import PodDoor, drain_bound_ms, route_table, without_keys
from leptonai.errors import InvalidRequest
from leptonai.spec.endpoints import EndpointSpec, EndpointState
from leptonai.spec.pods import PodActivity, PodNote, PodPlan, PodReport

NONCE = "0123456789abcdef" * 2
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDk0 me@here"


def a_spec(**fields: object) -> EndpointSpec:
    return checked_pod(msgspec.convert({"is_pod": True, **fields}, EndpointSpec))


def sized(cpu: float, replicas: int = 1) -> EndpointSpec:
    return a_spec(resource_requirement={"cpu": cpu, "min_replicas": replicas})


def a_life() -> Life:
    life = Life(sized(1.0))
    life.serve()
    return life


# --- how it lives ---------------------------------------------------------------------------------


def test_a_pod_is_one_replica_that_lives_in_its_files() -> None:
    life = a_life()
    (replica,) = life.ready
    assert life.endpoint.state is EndpointState.READY
    assert replica.program.pod
    plan = msgspec.json.decode(replica.program.command[-1], type=PodPlan)
    assert plan.ports == [2222, 18888, 18889]
    assert len(replica.program.ports) == 1 + len(plan.ports)


def test_a_pod_finds_its_volumes_and_buckets() -> None:
    mount = {"path": "/d", "from": "node-local", "mount_path": "/mnt/d"}
    bucket = {"data_source_name": "pets", "attachments": [{"mode": "awsProfile"}]}
    life = Life(a_spec(mounts=[mount], storage_attachments=[bucket]))
    program = program_of_endpoint(life.endpoint)
    assert [(each.path, each.at) for each in program.mounts] == [("/d", "/mnt/d")]
    assert [each.data_source_name for each in program.attachments] == ["pets"]


def test_a_variable_asks_for_jupyterlab_where_a_client_knows_no_setting() -> None:
    asked = [{"name": "LEPTON_POD_JUPYTER", "value": "true"}]
    settings = a_spec(envs=asked).pod
    assert settings is not None and settings.jupyter
    refused = a_spec(envs=asked, pod={"jupyter": False, "ssh_listen": "::1"}).pod
    assert (refused.jupyter, refused.ssh_listen) == (False, "::1")
    assert a_spec(envs=[{"name": "LEPTON_POD_JUPYTER", "value": "false"}]).pod is None


def test_stopped_and_started_it_is_on_the_node_of_its_files() -> None:
    life = a_life()
    life.change(sized(1.0, replicas=0))
    life.end_stopped()
    assert (life.endpoint.state, life.living) == (EndpointState.STOPPED, [])
    assert life.endpoint.pod == PodSeen(node="n1")
    life.now_ms += 1
    life.change(sized(1.0))
    (replica,) = life.living
    assert replica.program.allowed_nodes == ("n1",)


def test_before_it_ran_it_may_be_anywhere() -> None:
    (replica,) = Life(sized(1.0)).living
    assert replica.program.allowed_nodes == ()


def test_another_size_ends_the_old_replica_before_the_new_one_begins() -> None:
    life = a_life()
    (old,) = life.living
    life.now_ms += 1
    life.change(sized(2.0))
    assert [(r.id, r.goal) for r in life.living] == [(old.id, Goal.STOP)]
    life.end_stopped()
    (new,) = life.living
    assert (new.goal, new.revision) == (Goal.RUN, old.revision + 1)


@given(st.lists(st.sampled_from(["stop", "start", "resize", "serve", "crash", "end"]), max_size=12))
def test_its_files_are_never_two_replicas(steps: list[str]) -> None:
    life = a_life()
    cpu = 1.0
    for step in steps:
        life.now_ms += 1_000
        match step:
            case "stop":
                life.change(sized(cpu, replicas=0))
            case "start":
                life.change(sized(cpu))
            case "resize":
                cpu = 3.0 - cpu
                life.change(sized(cpu))
            case "serve":
                life.serve()
            case "crash":
                life.each(lambda r: crash(r, life.now_ms))
            case "end":
                life.end_stopped()
        assert len(life.living) <= 1
    life.change(sized(cpu))
    for _ in range(3):
        life.now_ms += 100_000
        life.serve()
    assert len(life.ready) == 1


def test_one_that_crashed_goes_on_where_it_was() -> None:
    life = a_life()
    how = Termination(reason=EndReason.EXITED, exit_code=1, finished_at_ms=life.now_ms)
    life.each(lambda r: observed(r, SeenEnded(how), life.now_ms))
    (replica,) = life.living
    assert (replica.phase, replica.node, replica.attempt) == (Phase.PLACED, "n1", 1)


def test_what_a_pod_costs_to_leave_is_nothing_to_wait_for() -> None:
    life = a_life()
    assert drain_bound_ms(life.endpoint, life.ready[0]) == 0
    assert drain_bound_ms(None, life.ready[0]) == 0


def test_what_is_left_of_one_whose_replicas_are_forgotten_lies_on_its_node() -> None:
    left = last_replica(a_life().endpoint, 5)
    assert (left.phase, left.node, left.program.pod) == (Phase.DONE, "n1", True)


def test_how_long_it_may_idle_is_no_reason_to_start_it_anew() -> None:
    life = a_life()
    size = {"cpu": 1.0, "min_replicas": 1}
    life.change(a_spec(resource_requirement=size, pod={"idle_stop_seconds": 600}))
    assert life.endpoint.revision == 1
    assert program_of_endpoint(life.endpoint).command == life.ready[0].program.command


# --- what it may be asked for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {"resource_requirement": {"min_replicas": 2}},
        {"model": "digits"},
        {"workdir": "sha256:" + "0" * 64},
        {"api_tokens": [{"value": "x" * 20}]},
        {"allow_unauthenticated_access": True},
        {"container": {"ports": [{"container_port": 80}, {"container_port": 80}]}},
        {"pod": {"ssh_keys": ['command="rm" ' + KEY]}},
        {"pod": {"ssh_keys": [KEY + "\nssh-rsa AAAA"]}},
        {"pod": {"ssh_keys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]}},
        {"pod": {"ssh_listen": "example.org"}},
    ],
)
def test_what_makes_no_pod_is_refused(asked: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        a_spec(**asked)


def test_what_clients_send_for_servers_is_left_out() -> None:
    spec = a_spec(
        auto_scaler={"scale_down": {"no_traffic_timeout": 3600}},
        api_tokens=[],
        resource_requirement={"max_replicas": 3},
        pod={"ssh_keys": [KEY]},
    )
    assert (spec.auto_scaler, spec.api_tokens) == (None, None)
    assert spec.resource_requirement.max_replicas is None


# --- who enters it --------------------------------------------------------------------------------


def a_running_pod() -> tuple[Endpoint, Replica]:
    life = a_life()
    pod = replace(life.endpoint, pod=replace(life.endpoint.pod, ports=((2222, 7), (18889, 9))))
    return pod, replace(life.ready[0], ports=(5, 7, 8, 9))


def routes_of(*tokens: str, keys: bool = True):
    pod, replica = a_running_pod()
    door = PodDoor(token_sha256=tokens, key="the-key")
    table = route_table(
        1, [pod], {replica.parent: [replica]}, {"n1": "10.0.0.1"}, {}, doors={pod.id: door}
    )
    return {route.at: route for route in (table if keys else without_keys(table)).routes}


def test_the_gateway_lets_in_who_may_change_the_pod_and_nobody_else() -> None:
    routes = routes_of("a", "b")
    assert set(routes) == {"e", "lab"}
    for route in routes.values():
        assert (route.token_sha256, route.workspace_tokens, route.public) == (
            ("a", "b"),
            False,
            False,
        )
        assert route.expecting
    assert [(u.host, u.port) for u in routes["e"].upstreams] == [("10.0.0.1", 5)]
    assert [(u.host, u.port) for u in routes["lab"].upstreams] == [("10.0.0.1", 9)]
    assert (routes["e"].credential, routes["e"].browser_key) == ("Bearer the-key", "")
    assert (routes["lab"].credential, routes["lab"].browser_key) == ("token the-key", "the-key")


def test_the_gateway_serves_the_port_that_is_to_be_proxied() -> None:
    pod, replica = a_running_pod()
    spec = a_spec(container={"ports": [proxied(8080)]})
    pod = replace(pod, spec=spec, pod=replace(pod.pod, ports=((8080, 6), *pod.pod.ports)))
    door = PodDoor(token_sha256=("a",), key="the-key")
    table = route_table(
        1, [pod], {replica.parent: [replica]}, {"n1": "10.0.0.1"}, {}, doors={pod.id: door}
    )
    (route,) = [route for route in table.routes if route.at == "port"]
    assert [(u.host, u.port) for u in route.upstreams] == [("10.0.0.1", 6)]
    assert (route.token_sha256, route.workspace_tokens, route.public) == (("a",), False, False)
    assert (route.credential, route.browser_key) == ("", ""), "what runs there learns no key"


def proxied(number: int) -> dict[str, object]:
    return {"container_port": number, "expose_strategies": ["IngressProxy"]}


def test_one_port_is_proxied_at_most() -> None:
    with pytest.raises(InvalidRequest, match="several are IngressProxy"):
        a_spec(container={"ports": [proxied(8080), proxied(9090)]})


def test_people_who_read_the_table_find_no_key_in_it() -> None:
    assert "the-key" not in repr(routes_of("a", keys=False))


def test_a_member_may_not_change_the_pod_of_another() -> None:
    pod = Resource(kind="endpoint", workspace="w", id="p", owner="ada")
    assert isinstance(decide(Principal("ada", Role.MEMBER, "w"), Action.UPDATE, pod), Allow)
    assert not isinstance(decide(Principal("bob", Role.MEMBER, "w"), Action.UPDATE, pod), Allow)


@given(st.integers(10**9, 10**11), st.text(max_size=20))
def test_a_word_opens_its_own_door_for_its_own_purpose_in_its_own_time(at: int, other: str) -> None:
    word, kept = ticket("key", at, NONCE), cookie("key", at, NONCE)
    assert read_ticket("key", word, at - 1) == (at, NONCE)
    assert is_cookie("key", kept, at - 1)
    assert read_ticket("key", word, at) is None
    assert not is_cookie("key", kept, at)
    assert read_ticket("key", kept, at - 1) is None
    assert not is_cookie("key", word, at - 1)
    if other != "key":
        assert read_ticket(other, word, at - 1) is None


@given(st.integers(0, 200), st.characters())
def test_a_word_that_was_changed_opens_nothing(place: int, letter: str) -> None:
    word = ticket("key", 1_800_000_000, NONCE)
    changed = word[: place % len(word)] + letter + word[place % len(word) + 1 :]
    assert (read_ticket("key", changed, 0) is None) == (changed != word)
    assert read_ticket("", word, 0) is None


# --- when it is idle ------------------------------------------------------------------------------

activities = st.builds(
    PodActivity,
    sessions=st.integers(0, 2),
    forwards=st.integers(0, 2),
    ssh=st.integers(0, 2),
    kernels=st.integers(0, 2),
    cpu_millis=st.integers(0, 2 * BUSY_CPU_MILLIS),
    quiet_s=st.integers(0, 5),
)


def an_idle_pod(limit_s: int | None) -> Endpoint:
    settings = {"idle_stop_seconds": limit_s} if limit_s else {}
    pod = a_life().endpoint
    return replace(pod, spec=a_spec(pod=settings))


@given(st.lists(activities, min_size=1, max_size=40), st.integers(60, 300))
def test_it_is_stopped_once_nothing_went_on_for_as_long_as_was_said(
    seen: list[PodActivity], limit_s: int
) -> None:
    pod = an_idle_pod(limit_s)
    now_ms, last_busy_ms = 10_000_000, 0
    for activity in seen:
        now_ms += 30_000
        found = idleness(pod, activity, now_ms)
        last_busy_ms = max(
            last_busy_ms, now_ms if busy(activity) else now_ms - 1000 * activity.quiet_s
        )
        idle_ms = now_ms - last_busy_ms
        if busy(activity):
            assert not found.stop
        if found.stop:
            assert idle_ms >= 1000 * limit_s - 2_000 - 30_000
            return
        pod = replace(pod, pod=replace(pod.pod, idle_since_ms=found.since_ms))
        assert idle_ms <= 1000 * limit_s + 30_000


def test_without_a_limit_it_is_never_stopped() -> None:
    found = idleness(an_idle_pod(None), PodActivity(quiet_s=10**6), 10**12)
    assert (found.stop, found.look_at_ms) == (False, None)


def test_stopped_for_idleness_it_is_as_its_user_would_have_left_it() -> None:
    stopped = stopped_for_idleness(an_idle_pod(60), 7)
    assert (stopped.wanted, stopped.pod) == (0, PodSeen(node="n1"))


def test_what_a_pod_tells_becomes_an_event_once() -> None:
    pod = a_life().endpoint
    notes = [PodNote(number=n, reason="R", message=f"m{n}\x1b[1m") for n in (1, 2)]
    report = PodReport(version=2, activity=PodActivity(), jupyter="running", notes=notes[:1])
    seen, events = told(pod, "p.0", report)
    assert [event.message for event in events] == ["m1[1m"]
    pod = replace(pod, pod=seen)
    seen, events = told(pod, "p.0", msgspec.structs.replace(report, notes=notes))
    assert [event.message for event in events] == ["m2[1m"]
    # Another attempt counts anew.
    _, events = told(replace(pod, pod=seen), "p.1", report)
    assert len(events) == 1
