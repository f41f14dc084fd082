"""A new revision takes over as was asked, and never at the cost of those who are served."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.endpoint_life import Life, a_spec, crash

from leptonai.cli.rollout import part_of
from leptonai.core.lifecycle.endpoint import no_longer_settled, restarted
from leptonai.core.records import (
    Autoscaling,
    Endpoint,
    EndReason,
    Goal,
    Phase,
    Replica,
    Termination,
)
from leptonai.core.rollouts.asked import checked, promoted, rolled_back
from leptonai.core.rollouts.progress import ANSWERS_WITHIN_MS, WARM_UP_MS, has_requests
from leptonai.core.routing import Shadow, route_table
from leptonai.core.traffic import SERVICE_BOUNDS_MS, TrafficWindow
from leptonai.errors import Conflict, InvalidRequest
from leptonai.spec.containers import EnvVar
from leptonai.spec.endpoints import (
    AutoScaler,
    EndpointSpec,
    EndpointState,
    ResourceRequirement,
    ScaleDown,
)
from leptonai.spec.rollouts import RolloutPlan, RolloutState, Strategy

CANARY = RolloutPlan(strategy=Strategy.CANARY, steps=[10, 50], step_seconds=60)
BLUE_GREEN = RolloutPlan(strategy=Strategy.BLUE_GREEN, keep_seconds=300)
SHADOW = RolloutPlan(strategy=Strategy.SHADOW, steps=[20])
STRATEGIES = {
    "rolling": None,
    "canary": CANARY,
    "blue-green": BLUE_GREEN,
    "shadow": SHADOW,
}
every_plan = pytest.mark.parametrize("plan", STRATEGIES.values(), ids=STRATEGIES)
beside = pytest.mark.parametrize("plan", [CANARY, BLUE_GREEN, SHADOW], ids=lambda p: p.strategy)


def version(number: int, replicas: int = 2) -> EndpointSpec:
    return a_spec(replicas, envs=[EnvVar(name="VERSION", value=str(number))])


def a_life(plan: RolloutPlan | None, replicas: int = 2) -> Life:
    """With revision 1 ready and revision 2 asked for."""
    life = Life(version(1, replicas))
    life.serve()
    life.change(version(2, replicas), plan)
    return life


def told(life: Life, version: int, requests: int, failed: int = 0, **more) -> TrafficWindow:
    service = [0] * (len(SERVICE_BOUNDS_MS) + 1)
    service[4] = requests
    ended = {2: requests - failed, 5: failed}
    return TrafficWindow(
        workspace="default",
        endpoint="digits",
        version=str(version),
        start_ms=life.now_ms - 1_000,
        end_ms=life.now_ms,
        ended={code: count for code, count in ended.items() if count},
        service_ms=tuple(service),
        **more,
    )


def carry(life: Life, seconds: int, failed: int = 0) -> None:
    """Requests, of which the canary gets its part and fails some."""
    for _ in range(seconds):
        life.now_ms += 1_000
        percent = life.endpoint.rollout.percent or 0
        new = round(percent)
        life.advance([told(life, 1, 100 - new), told(life, 2, new, min(failed, new))])
        if life.endpoint.rollout.state is not RolloutState.PROGRESSING:
            return


def route(life: Life):
    families = {f"endpoint/{life.endpoint.id}": list(life.replicas.values())}
    (made,) = route_table(1, [life.endpoint], families, {"n1": "127.0.0.1"}, {}).routes
    return made


def asked_of(life: Life, decision) -> None:
    """As a person's decision is written."""
    decided = decision(life.endpoint, "by ada", life.now_ms)
    life.endpoint = no_longer_settled(decided, life.endpoint)
    life.advance()


# --- how each goes -------------------------------------------------------------------------------


def test_a_canary_gets_its_part_then_more_then_all_while_nothing_gets_worse():
    life = a_life(CANARY, replicas=4)
    assert (life.ready_of(1), route(life).weights) == (4, {"1": 100})
    life.serve()
    assert (life.ready_of(1), life.ready_of(2)) == (4, 1)
    assert route(life).weights == {"1": 90, "2": 10}
    assert life.endpoint.state is EndpointState.UPDATING
    assert "10 % of the requests, step 1 of 2; 0 of 0 failed" in life.endpoint.message
    carry(life, 100)
    assert route(life).weights == {"1": 90, "2": 10}, "until those of the next step are ready"
    life.serve()
    assert (life.ready_of(1), life.ready_of(2)) == (4, 2)
    assert route(life).weights == {"1": 50, "2": 50}
    carry(life, 100)
    assert life.endpoint.rollout.state is RolloutState.PROMOTED
    assert life.ready_of(1) + life.ready_of(2) >= 4
    life.serve()
    assert (life.ready_of(1), life.ready_of(2), route(life).weights) == (0, 4, {})
    assert (life.endpoint.state, life.endpoint.message) == (EndpointState.READY, "")
    assert [event.reason for event in life.events][-4:] == [
        "RolloutStep", "RolloutStep", "Promoted", "Ready",
    ]  # fmt: skip


def test_a_canary_that_fails_requests_is_rolled_back_at_once_and_says_why():
    life = a_life(CANARY)
    life.serve()
    carry(life, 30, failed=3)
    rollout = life.endpoint.rollout
    assert rollout.state is RolloutState.ROLLED_BACK
    assert rollout.evidence.new.requests <= 60
    assert (life.ready_of(1), life.ready_of(2)) == (2, 0)
    assert "2" not in route(life).weights
    assert {u.version for u in route(life).upstreams} == {"1"}
    life.serve()
    assert life.endpoint.spec == version(1)
    assert life.endpoint.state is EndpointState.READY
    assert life.endpoint.message.startswith(
        "canary roll-out of revision 2 rolled back to 1: at 10 %, "
    )
    assert life.endpoint.message.endswith("failed, against 0 % of those to revision 1")
    (event,) = [event for event in life.events if event.reason == "RolledBack"]
    assert (event.severity, event.message) == ("Warning", life.endpoint.message)


def test_a_step_lasts_as_long_as_was_asked_and_until_enough_was_seen():
    life = a_life(CANARY)
    life.serve()
    carry(life, 59)
    assert life.endpoint.rollout.step == 0
    carry(life, 1)
    assert life.endpoint.rollout.step == 1
    quiet = a_life(CANARY)
    quiet.serve()
    quiet.now_ms += 3_600_000
    quiet.advance()
    assert quiet.endpoint.rollout.step == 0
    assert quiet.endpoint.message.endswith("it has had no requests yet")


def test_blue_green_switches_all_requests_at_once_and_keeps_the_old_for_a_while():
    life = a_life(BLUE_GREEN, replicas=3)
    life.place()
    life.run()
    first = next(r for r in life.living if r.revision == 2)
    life.replicas[first.id] = replace(first, ready=True)
    life.advance()
    assert route(life).weights == {"1": 100}, "not before all are ready"
    life.serve()
    assert (life.ready_of(1), life.ready_of(2)) == (3, 3)
    assert route(life).weights == {"2": 100}
    life.now_ms += 300_000
    life.advance()
    assert life.endpoint.rollout.state is RolloutState.PROMOTED
    assert (life.ready_of(1), life.ready_of(2)) == (0, 3)
    life.serve()
    assert (life.endpoint.state, route(life).weights) == (EndpointState.READY, {})


def test_after_a_switch_a_rollback_costs_no_start():
    life = a_life(BLUE_GREEN)
    life.serve()
    asked_of(life, rolled_back)
    assert (life.ready_of(1), life.ready_of(2)) == (2, 0)
    assert {u.version for u in route(life).upstreams} == {"1"}


def test_a_shadow_gets_copies_alone_and_reports_how_its_answers_differ():
    life = a_life(SHADOW)
    life.serve()
    made = route(life)
    assert (made.weights, made.shadow) == ({"1": 100}, Shadow(version="2", percent=20))
    life.now_ms += WARM_UP_MS
    shadows = told(life, 2, 20, 20, shadow=True, compared=20, status_differs=3, body_differs=2)
    life.advance([told(life, 1, 100), shadows])
    rollout = life.endpoint.rollout
    assert rollout.state is RolloutState.PROGRESSING, "a person decides"
    assert rollout.evidence.differences == type(rollout.evidence.differences)(
        compared=20, status=3, body=2
    )
    assert life.endpoint.message.endswith("5 of 20 answers differ")
    asked_of(life, promoted)
    life.serve()
    assert (life.ready_of(1), life.ready_of(2), route(life).shadow) == (0, 2, None)


def test_a_rolling_one_is_promoted_when_all_are_replaced():
    life = a_life(None)
    assert (life.endpoint.rollout.state, route(life).weights) == (RolloutState.PROGRESSING, {})
    life.serve()
    assert life.endpoint.rollout.state is RolloutState.PROMOTED


# --- what people decide --------------------------------------------------------------------------


@every_plan
def test_whoever_promotes_has_the_new_revision_whoever_rolls_back_the_old(plan):
    for decision, serving in ((promoted, 2), (rolled_back, 1)):
        life = a_life(plan)
        life.place()
        asked_of(life, decision)
        for _ in range(12):
            assert len(life.ready) >= 2
            life.run()
            life.answer()
            life.end_stopped()
            life.place()
        assert (life.ready_of(serving), len(life.living)) == (2, 2)
        assert life.endpoint.spec == version(serving)
        assert life.endpoint.state is EndpointState.READY


@every_plan
def test_a_rollback_after_a_promotion_starts_the_old_revision_again_without_a_gap(plan):
    life = a_life(plan)
    life.serve()
    asked_of(life, promoted)
    life.serve()
    assert life.ready_of(2) == 2
    asked_of(life, rolled_back)
    assert life.endpoint.state is EndpointState.UPDATING
    for _ in range(12):
        assert len(life.ready) >= 2
        life.place()
        life.run()
        life.answer()
        life.end_stopped()
    assert (life.ready_of(1), len(life.living)) == (2, 2)
    life.change(version(3))
    life.serve()
    assert life.ready_of(3) == 2, "no number means two revisions"


def test_each_decision_stands_however_often_it_is_asked_and_the_first_wins():
    life = a_life(CANARY)
    back = rolled_back(life.endpoint, "by ada", 1)
    assert rolled_back(back, "by bob", 2) == back
    with pytest.raises(Conflict, match="was rolled back: by ada"):
        promoted(back, "by bob", 2)
    on = promoted(life.endpoint, "by ada", 1)
    assert promoted(on, "by bob", 2) == on
    fresh = Life(version(1)).endpoint
    for decision in (promoted, rolled_back):
        with pytest.raises(Conflict, match="only had one revision"):
            decision(fresh, "by ada", 1)


def test_a_rollback_leaves_alone_what_replicas_do_not_run_by():
    life = a_life(CANARY)
    life.change(
        replace(
            life.endpoint.spec,
            allow_unauthenticated_access=True,
            resource_requirement=ResourceRequirement(min_replicas=3),
        )
    )
    assert life.endpoint.revision == 2, "which does not disturb the roll-out"
    asked_of(life, rolled_back)
    life.serve()
    assert life.endpoint.spec == replace(version(1, 3), allow_unauthenticated_access=True)
    assert life.ready_of(1) == 3


# --- what happens meanwhile ----------------------------------------------------------------------


@every_plan
def test_a_further_update_takes_over_from_the_stable_revision(plan):
    life = a_life(plan)
    life.place()
    life.change(version(3), CANARY)
    rollout = life.endpoint.rollout
    assert (rollout.revision, rollout.stable.number) == (3, 1)
    life.serve()
    assert (life.ready_of(1), life.ready_of(2), life.ready_of(3)) == (2, 0, 1)
    asked_of(life, rolled_back)
    assert life.endpoint.spec == version(1)


@every_plan
def test_an_update_to_what_the_stable_revision_runs_is_a_rollback(plan):
    life = a_life(plan)
    stable = {r.id for r in life.ready}
    life.change(version(1))
    life.serve()
    assert {r.id for r in life.ready} == stable
    assert life.endpoint.rollout.state is RolloutState.ROLLED_BACK


@beside
def test_a_stop_decides_nothing_and_the_step_begins_anew_afterwards(plan):
    life = a_life(plan)
    life.serve()
    life.change(version(2, 0))
    life.serve()
    assert (life.endpoint.state, life.living) == (EndpointState.STOPPED, [])
    assert life.endpoint.rollout.state is RolloutState.PROGRESSING
    life.change(version(2, 2))
    life.serve()
    assert (life.ready_of(1), life.ready_of(2) > 0) == (2, True)
    assert life.endpoint.rollout.step_since_ms == life.now_ms


def sleeping(life: Life, asleep: bool) -> None:
    """As its autoscaler decides."""
    life.endpoint = replace(life.endpoint, autoscaling=Autoscaling(desired=0 if asleep else 1))
    life.serve()


def test_a_canary_of_an_endpoint_that_keeps_falling_asleep_goes_on_whenever_it_wakes():
    scaler = AutoScaler(scale_down=ScaleDown(no_traffic_timeout=60))
    life = Life(replace(version(1, 1), auto_scaler=scaler))
    life.serve()
    life.change(replace(version(2, 1), auto_scaler=scaler), CANARY)
    life.serve()
    steps = set()
    for _ in range(20):
        carry(life, 25)
        if life.endpoint.rollout.state is not RolloutState.PROGRESSING:
            break
        steps.add(life.endpoint.rollout.step)
        sleeping(life, True)
        assert (life.endpoint.asleep, life.living) == (True, [])
        life.now_ms += 3_600_000  # which is no part of the step
        life.advance()
        sleeping(life, False)
        assert life.endpoint.rollout.step_since_ms == life.now_ms
    assert life.endpoint.rollout.state is RolloutState.PROMOTED
    assert steps == {0, 1}


@pytest.mark.parametrize(
    ("plan", "there"), [(CANARY, {1, 2}), (BLUE_GREEN, {2}), (SHADOW, {1})], ids=str
)
def test_replicas_without_requests_are_no_capacity(plan, there):
    life = a_life(plan)
    for r in life.living:
        assert has_requests(life.endpoint, r) is (r.revision == 1 or plan is CANARY)
    life.serve()
    assert {r.revision for r in life.living if has_requests(life.endpoint, r)} == there


@beside
def test_a_revision_whose_replicas_keep_ending_is_rolled_back_and_nobody_notices(plan):
    life = a_life(plan)
    for _ in range(3):
        life.place()
        life.run()
        assert life.ready_of(1) == 2
        life.each(lambda r: crash(r, life.now_ms) if r.revision == 2 else r)
    assert life.endpoint.rollout.state is RolloutState.ROLLED_BACK
    assert life.endpoint.rollout.message.endswith("keeps ending: it last exited with code 1")
    assert [r.revision for r in life.living] == [1, 1]


def test_a_rolling_one_is_given_up_where_only_old_replicas_serve():
    life = a_life(None)
    for _ in range(3):
        life.place()
        life.run()
        assert life.ready_of(1) == 2
        life.each(lambda r: crash(r, life.now_ms) if r.revision == 2 else r)
    assert life.endpoint.rollout.state is RolloutState.ROLLED_BACK
    assert life.endpoint.spec == version(1)
    assert life.events[-1].message == (
        "rolling roll-out of revision 2 rolled back to 1: its replica 0 keeps ending: it last "
        "exited with code 1"
    )
    life.serve()
    assert (life.ready_of(1), len(life.living), life.endpoint.state) == (2, 2, EndpointState.READY)


def test_a_rolling_one_of_which_a_part_serves_or_with_nothing_to_go_back_to_waits_for_its_user():
    def one_of_two_crashes(life: Life) -> None:
        life.each(lambda r: crash(r, life.now_ms) if r.revision == 2 and not r.ready else r)

    for ready_of_old, ready_of_new in ((1, 1), (0, 0)):
        life = a_life(None)
        if not ready_of_old:
            life.each(lambda r: replace(r, ready=False))
        else:
            life.place(room=3)
            life.run()
            life.answer()
            life.end_stopped()
        for _ in range(4):
            life.place()
            life.run()
            one_of_two_crashes(life)
        assert (life.ready_of(1), life.ready_of(2)) == (ready_of_old, ready_of_new)
        assert life.endpoint.rollout.state is RolloutState.PROGRESSING
        assert "keeps ending" in life.endpoint.message


@every_plan
def test_a_revision_that_does_not_answer_is_given_up_in_the_end(plan):
    life = a_life(plan)
    life.place()
    life.run()
    life.now_ms += ANSWERS_WITHIN_MS
    life.advance()
    assert life.endpoint.rollout.message.endswith("did not answer within 600 s")
    life.end_stopped()
    assert [r.revision for r in life.living] == [1, 1]


def test_where_those_that_should_get_requests_are_away_the_others_get_them():
    life = a_life(CANARY)
    life.serve()
    life.each(lambda r: replace(r, ready=False) if r.revision == 2 else r)
    assert route(life).weights == {"1": 90}
    life.each(lambda r: replace(r, ready=r.revision == 2))
    assert route(life).weights == {"2": 10}
    switched = a_life(BLUE_GREEN)
    switched.serve()
    switched.each(lambda r: replace(r, ready=r.revision == 1))
    assert (route(switched).weights, len(route(switched).upstreams)) == ({}, 2)


def test_a_restart_waits_until_it_is_clear_of_what():
    life = a_life(CANARY)
    with pytest.raises(Conflict, match="under way"):
        restarted(life.endpoint, life.now_ms)
    assert restarted(a_life(None).endpoint, 1).revision == 3


def test_another_control_plane_goes_on_from_the_record_alone():
    life = a_life(CANARY)
    life.serve()
    carry(life, 10, failed=0)
    kept = life.endpoint
    life.endpoint = msgspec.json.decode(msgspec.json.encode(kept), type=Endpoint)
    assert life.endpoint == kept
    carry(life, 30, failed=5)
    rollout = life.endpoint.rollout
    assert rollout.state is RolloutState.ROLLED_BACK
    assert rollout.evidence.new.requests > 100, "what was seen before counts"


def test_the_number_of_replicas_may_change_on_the_way():
    life = a_life(BLUE_GREEN)
    life.serve()
    life.change(version(2, 4))
    life.serve()
    assert (life.ready_of(1), life.ready_of(2)) == (4, 4)
    life.change(version(2, 1))
    life.serve()
    assert (life.ready_of(1), life.ready_of(2)) == (1, 1)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(STRATEGIES)),
    st.lists(
        st.tuples(
            st.sampled_from(
                ["scale", "update", "crash", "place", "run", "answer", "end", "wait", "carry",
                 "fail", "promote", "rollback", "lose"]
            ),
            st.integers(0, 4),
        ),
        max_size=40,
    ),
)  # fmt: skip
def test_whatever_happens_it_serves_on_and_one_revision_is_left_in_the_end(name, happenings):
    life = a_life(STRATEGIES[name])
    for what, number in happenings:
        match what:
            case "scale":
                requirement = ResourceRequirement(min_replicas=number)
                life.change(replace(life.endpoint.spec, resource_requirement=requirement))
            case "update":
                plans = list(STRATEGIES.values())
                life.change(version(number, life.endpoint.spec.replicas), plans[number % 4])
            case "crash":
                life.each(lambda r: crash(r, life.now_ms) if r.revision != 1 else r)
            case "place":
                life.place(room=100 if number else 2)
            case "run":
                life.run()
            case "answer":
                life.answer()
            case "end":
                life.end_stopped()
            case "wait":
                life.now_ms += 100_000 * number
                life.advance()
            case "carry" | "fail":
                carry(life, number, failed=5 if what == "fail" else 0)
            case "promote" | "rollback":
                decision = promoted if what == "promote" else rolled_back
                try:
                    asked_of(life, decision)
                except Conflict:
                    continue
            case "lose":
                for replica in [r for r in life.living if r.index == number]:
                    life.replicas[replica.id] = _lost(replica, life.now_ms)
                life.advance()
        _check_route(life)
    life.serve()
    if life.endpoint.rollout.state is RolloutState.PROGRESSING:
        asked_of(life, promoted)
        life.serve()
    wanted = life.endpoint.spec.replicas
    assert (len(life.ready), len(life.living)) == (wanted, wanted)
    assert {r.revision for r in life.ready} <= {life.endpoint.revision}
    assert life.endpoint.rollout.percent is None


def _lost(replica: Replica, now_ms: int) -> Replica:
    how = Termination(reason=EndReason.NODE_LOST, finished_at_ms=now_ms)
    if replica.phase not in (Phase.PLACED, Phase.RUNNING):
        return replica
    return replace(
        replica, phase=Phase.ENDED, ready=False, terminations=(*replica.terminations, how)
    )


def _check_route(life: Life) -> None:
    """If anything is ready, somebody answers; and who is told to stop is asked no more."""
    made = route(life)
    serving = {r.id for r in life.ready}
    assert {u.replica for u in made.upstreams} == serving
    if made.weights:
        assert any(made.weights.get(u.version, 0) > 0 for u in made.upstreams)
    assert all(r.goal is Goal.RUN for r in life.ready)


# --- what is no plan -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (RolloutPlan(strategy=Strategy.CANARY, steps=[50, 10]), "rollout.steps"),
        (RolloutPlan(strategy=Strategy.CANARY, steps=[10, 10]), "rollout.steps"),
        (RolloutPlan(strategy=Strategy.CANARY, steps=[100]), "rollout.steps"),
        (RolloutPlan(strategy=Strategy.SHADOW, steps=[10, 20]), "a shadow has no steps"),
        (RolloutPlan(steps=[10]), "rollout.steps: means nothing to a rolling"),
        (RolloutPlan(strategy=Strategy.BLUE_GREEN, step_seconds=3), "rollout.step_seconds"),
        (RolloutPlan(strategy=Strategy.CANARY, keep_seconds=3), "rollout.keep_seconds"),
    ],
)
def test_what_cannot_be_meant_is_refused(plan, words):
    with pytest.raises(InvalidRequest, match=words):
        checked(plan)


@pytest.mark.parametrize(
    ("plan", "steps"),
    [
        (RolloutPlan(strategy=Strategy.CANARY), [10, 50]),
        (RolloutPlan(strategy=Strategy.CANARY, steps=[5, 100]), [5]),
        (RolloutPlan(strategy=Strategy.SHADOW), [100]),
        (RolloutPlan(), None),
    ],
)
def test_what_a_plan_leaves_open_is_filled_in(plan, steps):
    assert checked(plan).steps == steps
    assert checked(checked(plan)) == checked(plan)


@pytest.mark.parametrize(
    ("count", "of", "shown"),
    [
        (0, 9, ""),
        (2, 2160, "(0.093 %)"),
        (9, 200, "(4.5 %)"),
        (99, 100, "(99 %)"),
        (9, 9, "(100 %)"),
    ],
)
def test_a_share_is_shown_in_two_digits_or_whole(count, of, shown):
    assert part_of(count, of) == (str(count), shown)
