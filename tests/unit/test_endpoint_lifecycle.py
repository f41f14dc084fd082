"""An endpoint keeps as many servers as asked, and replaces them without a gap."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.endpoint_life import NOW, Life, a_spec, crash

from leptonai.core.lifecycle.endpoint import SURGE_PATIENCE_MS, restarted, updated
from leptonai.core.records import Goal
from leptonai.spec.containers import EnvVar
from leptonai.spec.endpoints import EndpointState, ResourceRequirement


def test_it_is_ready_when_all_its_replicas_answer():
    life = Life(a_spec(2))
    states = [life.endpoint.state]
    life.place()
    life.run()
    states.append(life.endpoint.state)
    first = life.living[0]
    life.replicas[first.id] = replace(first, ready=True)
    life.advance()
    states.append(life.endpoint.state)
    life.answer()
    states.append(life.endpoint.state)
    assert states == [
        EndpointState.STARTING,
        EndpointState.STARTING,
        EndpointState.SCALING,
        EndpointState.READY,
    ]
    assert life.endpoint.ready_replicas == 2


def test_a_crashed_replica_starts_again_at_once_then_with_growing_waits():
    life = Life(a_spec())
    waits = []
    for _ in range(4):
        life.place()
        life.run()
        life.each(lambda r: crash(r, life.now_ms))
        waits.append(life.living[0].not_before_ms - life.now_ms)
    assert waits == [0, 1_000, 2_000, 4_000]
    assert life.endpoint.state is EndpointState.NOT_READY
    assert life.endpoint.message == "replica 0 keeps ending: it last exited with code 1"


def test_one_that_was_killed_while_it_served_is_never_waited_for_long():
    life = Life(a_spec())
    waits = []
    for _ in range(8):
        life.serve()
        life.each(lambda r: crash(r, life.now_ms))
        waits.append(life.living[0].not_before_ms - life.now_ms)
    assert waits == [0, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000, 5_000]


def test_an_update_starts_the_new_before_it_stops_the_old():
    life = Life(a_spec(2))
    life.serve()
    old = {r.id for r in life.ready}
    life.change(a_spec(2, envs=[EnvVar(name="A", value="1")]))
    assert life.endpoint.state is EndpointState.UPDATING
    for _ in range(12):
        assert len(life.ready) >= 2
        assert len([r for r in life.living if r.goal is Goal.RUN]) <= 3
        life.place()
        assert len(life.ready) >= 2
        life.run()
        life.answer()
        life.end_stopped()
    assert not old & {r.id for r in life.living}
    assert (len(life.ready), life.endpoint.state) == (2, EndpointState.READY)


def test_a_change_that_replicas_do_not_see_replaces_none():
    life = Life(a_spec(1))
    life.serve()
    before = life.living
    life.change(a_spec(1, allow_unauthenticated_access=True))
    assert life.living == before


def test_without_room_for_a_surge_an_old_replica_makes_room_after_a_while():
    life = Life(a_spec(1))
    life.serve()
    old = life.living[0].id
    life.endpoint = restarted(life.endpoint, life.now_ms)
    life.advance()
    life.place(room=1)
    assert [r.id for r in life.ready] == [old]
    life.now_ms += SURGE_PATIENCE_MS
    life.advance()
    life.end_stopped()
    life.place(room=1)
    life.run()
    life.answer()
    assert [r.revision for r in life.ready] == [2]
    assert life.endpoint.state is EndpointState.READY


def test_without_room_for_a_surge_old_replicas_make_room_one_by_one():
    life = Life(a_spec(3))
    life.serve()
    life.endpoint = restarted(life.endpoint, life.now_ms)
    life.advance()
    serving = []
    for _ in range(3):
        life.now_ms += SURGE_PATIENCE_MS
        life.advance()
        serving.append(len(life.ready))
        life.end_stopped()
        life.place(room=3)
        life.run()
        life.now_ms += SURGE_PATIENCE_MS
        life.advance()
        serving.append(len(life.ready))  # the next one waits until its successor answers
        life.answer()
    assert serving == [2, 2, 2, 2, 2, 2]
    life.serve()
    assert [r.revision for r in life.ready] == [2, 2, 2]
    assert life.endpoint.state is EndpointState.READY


def test_zero_replicas_is_stopped_and_one_brings_it_back():
    life = Life(a_spec(2))
    life.serve()
    life.change(a_spec(0))
    assert life.endpoint.state is EndpointState.STOPPING
    life.end_stopped()
    assert (life.endpoint.state, life.living) == (EndpointState.STOPPED, [])
    life.change(a_spec(1))
    life.serve()
    assert life.endpoint.state is EndpointState.READY


def test_one_that_never_answers_is_reported_with_what_to_do():
    life = Life(a_spec(1))
    life.place()
    life.run()
    life.now_ms += 60_000
    life.advance()
    assert life.endpoint.state is EndpointState.NOT_READY
    assert "its command must listen on $PORT" in life.endpoint.message


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["scale", "update", "crash", "place", "run", "answer", "end", "wait"]),
            st.integers(0, 4),
        ),
        max_size=40,
    )
)
def test_whatever_happens_it_comes_to_rest_with_what_was_asked(happenings):
    life = Life(a_spec(1))
    wanted = 1
    for what, number in happenings:
        match what:
            case "scale":
                wanted = number
                life.change(
                    replace(
                        life.endpoint.spec,
                        resource_requirement=ResourceRequirement(min_replicas=number),
                    )
                )
            case "update":
                life.change(a_spec(wanted, envs=[EnvVar(name="N", value=str(number))]))
            case "crash":
                life.each(lambda r: crash(r, life.now_ms))
            case "place":
                life.place(room=number)
            case "run":
                life.run()
            case "answer":
                life.answer()
            case "end":
                life.end_stopped()
            case "wait":
                life.now_ms += 10_000
                life.advance()
        assert len([r for r in life.living if r.goal is Goal.RUN]) <= max(wanted, 1) + 5
    life.serve()
    assert len(life.ready) == wanted
    assert {r.revision for r in life.ready} <= {life.endpoint.revision}
    assert len({r.index for r in life.ready}) == wanted


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        (a_spec(1), a_spec(1, envs=[EnvVar(name="FAST", value="1")]), EndpointState.UPDATING),
        (a_spec(1), a_spec(3), EndpointState.SCALING),
        (a_spec(1), a_spec(0), EndpointState.STOPPING),
        (a_spec(0), a_spec(1), EndpointState.STARTING),
        (a_spec(1), a_spec(1), EndpointState.READY),
    ],
    ids=["another program", "more replicas", "no replicas", "some again", "nothing new"],
)
def test_what_was_just_asked_is_not_taken_for_done(before, after, state):
    life = Life(before)
    life.serve()
    asked = updated(life.endpoint, after, token_hashes=(), model_digest="", now_ms=NOW)
    assert asked.state is state


def test_a_restart_that_was_just_asked_is_not_taken_for_done():
    life = Life(a_spec(1))
    life.serve()
    assert restarted(life.endpoint, NOW).state is EndpointState.UPDATING
