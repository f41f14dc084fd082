"""What becomes of a roll-out: one step after the other."""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from msgspec.structs import replace

from leptonai.core.lifecycle.replica import CRASH_LOOP, crashes_of, describe_end
from leptonai.core.records import Endpoint, Event, Goal, Phase, Replica, Severity, event_of
from leptonai.core.rollouts.asked import ALL, ended, promoted, rolled_back
from leptonai.core.rollouts.evidence import (
    NoWorse,
    Worse,
    added,
    compared,
    counted,
    evidence_of_step,
    percent_text,
    seen_of,
    verdict,
)
from leptonai.core.rollouts.values import Evidence, Rollout
from leptonai.core.rollouts.words import outcome_text, progress_text
from leptonai.core.traffic import REPORT_MS, TrafficWindow
from leptonai.spec.rollouts import DEFAULT_STEP_S, RolloutState, Strategy

ANSWERS_WITHIN_MS = 600_000  # of the start of a replica, or its revision is given up
WARM_UP_MS = 5_000  # of each step, in which nobody judges how long requests take


def candidate(endpoint: Endpoint) -> Rollout | None:
    """The roll-out, while its new revision runs beside the stable one."""
    rollout = endpoint.rollout
    if rollout is None or rollout.state is not RolloutState.PROGRESSING:
        return None
    return None if rollout.plan.strategy is Strategy.ROLLING else rollout


def candidates_wanted(rollout: Rollout, wanted: int) -> int:
    """How many replicas of the new revision there are to be, beside those of the stable one."""
    if rollout.plan.strategy is Strategy.BLUE_GREEN:
        return wanted
    return ceil(wanted * _percent_of_step(rollout) / ALL)


def weights(endpoint: Endpoint, serving: Mapping[str, int]) -> dict[str, float]:
    """Of versions, by name; {}: each replica gets its share, which is also so where those that
    should get requests do not serve.

    Args:
        serving: how many replicas of each version do.
    """
    rollout = endpoint.rollout
    if rollout is None or rollout.percent is None:
        return {}
    new = str(rollout.revision)
    # Beside the stable revision's there may be replicas left of one that never took over.
    others = sum(count for name, count in serving.items() if name != new)
    asked = {
        name: rollout.percent if name == new else (ALL - rollout.percent) * count / others
        for name, count in sorted(serving.items())
    }
    return {name: weight for name, weight in asked.items() if weight}


def shadowed(endpoint: Endpoint) -> tuple[str, float] | None:
    """The version that gets copies of requests, and of how many percent."""
    rollout = candidate(endpoint)
    if rollout is None or rollout.plan.strategy is not Strategy.SHADOW:
        return None
    return str(rollout.revision), _percent_of_step(rollout)


def has_requests(endpoint: Endpoint, replica: Replica) -> bool:
    """Whether users' requests go to it, or may: not to what only gets copies, nor to the side of a
    blue-green roll-out that all requests have left, or have not come to yet."""
    rollout = candidate(endpoint)
    if rollout is None:
        return True
    new = replica.revision == rollout.revision
    if rollout.plan.strategy is Strategy.BLUE_GREEN:
        return new if rollout.percent else not new
    return rollout.plan.strategy is not Strategy.SHADOW or not new


def step(
    endpoint: Endpoint,
    replicas: Sequence[Replica],
    wanted: int,
    now_ms: int,
    traffic: Sequence[TrafficWindow],
) -> tuple[Endpoint, tuple[Event, ...]]:
    """The endpoint with its roll-out's next step, and what to tell of it.

    Args:
        traffic: what was told after `Rollout.counted_to_ms`.
    """
    after = _step(endpoint, replicas, wanted, now_ms, traffic)
    return after, _events(endpoint, after)


def wake_at_ms(endpoint: Endpoint, replicas: Iterable[Replica], now_ms: int) -> int | None:
    """When to look again if nothing changes before."""
    rollout = endpoint.rollout
    if rollout is None or rollout.state is not RolloutState.PROGRESSING:
        return None
    times = [
        r.started_at_ms + ANSWERS_WITHIN_MS
        for r in replicas
        if _deaf(rollout, r) and r.started_at_ms is not None
    ]
    if rollout.plan.strategy is not Strategy.ROLLING and (
        rollout.step_since_ms is not None or rollout.percent
    ):
        times.append(now_ms + REPORT_MS)
    if rollout.plan.strategy is Strategy.BLUE_GREEN and rollout.step_since_ms is not None:
        times.append(rollout.step_since_ms + _keep_ms(rollout) - rollout.step_spent_ms)
    return min((at for at in times if at > now_ms), default=None)


def _step(
    endpoint: Endpoint,
    replicas: Sequence[Replica],
    wanted: int,
    now_ms: int,
    traffic: Sequence[TrafficWindow],
) -> Endpoint:
    rollout = endpoint.rollout
    if rollout is None:
        return endpoint
    if rollout.state is not RolloutState.PROGRESSING:
        return _left_alone(endpoint, rollout, replicas)
    rolling = rollout.plan.strategy is Strategy.ROLLING
    broken = next((words for r in replicas if (words := _broken(rollout, r, now_ms))), None)
    if broken is not None and (not rolling or _only_old_ones_serve(rollout, replicas)):
        return rolled_back(endpoint, broken, now_ms)
    if rolling:
        return _replaced(endpoint, rollout, replicas, wanted, now_ms)
    if wanted == 0:
        return replace(endpoint, rollout=_paused(endpoint, rollout, now_ms))
    rollout = _counted(rollout, traffic, now_ms)
    endpoint = replace(endpoint, rollout=rollout)
    if rollout.plan.strategy is Strategy.CANARY:
        judged = verdict(rollout.evidence, len(rollout.plan.steps or ()), rollout.stable.number)
        if isinstance(judged, Worse):
            because = f"at {rollout.percent:g} %, {judged.because}"
            return rolled_back(endpoint, because, now_ms)
        if isinstance(judged, NoWorse) and rollout.step_since_ms is not None:
            return _next_step(endpoint, rollout, rollout.step_since_ms, now_ms)
    if rollout.step_since_ms is None:
        return replace(endpoint, rollout=_in_force(rollout, replicas, wanted, traffic, now_ms))
    kept = rollout.plan.strategy is Strategy.BLUE_GREEN
    if kept and rollout.step_spent_ms + _since_ms(rollout, now_ms) >= _keep_ms(rollout):
        return promoted(endpoint, f"it has served for {_keep_ms(rollout) // 1000} s", now_ms)
    return endpoint


def _left_alone(endpoint: Endpoint, rollout: Rollout, replicas: Sequence[Replica]) -> Endpoint:
    """Weights mean nothing once the others have left."""
    if rollout.percent is None or any(r.revision != endpoint.revision for r in replicas):
        return endpoint
    return replace(endpoint, rollout=replace(rollout, percent=None))


def _only_old_ones_serve(rollout: Rollout, replicas: Sequence[Replica]) -> bool:
    """Else a rolling one stays as it is: part of its new revision serves, or nobody does, and then
    what was newly asked is as good as what was there."""
    serving = {r.revision for r in replicas if r.ready and r.goal is Goal.RUN}
    return bool(serving) and rollout.revision not in serving


def _replaced(
    endpoint: Endpoint, rollout: Rollout, replicas: Sequence[Replica], wanted: int, now_ms: int
) -> Endpoint:
    staying = [r for r in replicas if r.goal is Goal.RUN]
    if any(r.revision != endpoint.revision for r in staying):
        return endpoint
    if sum(r.ready for r in staying) < wanted:
        return endpoint
    return ended(endpoint, rollout, RolloutState.PROMOTED, "all replicas were replaced", now_ms)


def _paused(endpoint: Endpoint, rollout: Rollout, now_ms: int) -> Rollout:
    """Without replicas nothing is found out. When there are some again, the step begins anew; of an
    endpoint that slept it goes on, or one that sleeps often would never come to its end."""
    percent = rollout.percent if rollout.plan.strategy is Strategy.BLUE_GREEN else 0.0
    spent_ms = 0
    if endpoint.asleep:
        spent_ms = rollout.step_spent_ms + _since_ms(rollout, now_ms)
    return replace(rollout, step_since_ms=None, step_spent_ms=spent_ms, percent=percent)


def _since_ms(rollout: Rollout, now_ms: int) -> int:
    """For how long the step has been in force, without what it was before its endpoint slept."""
    return 0 if rollout.step_since_ms is None else max(0, now_ms - rollout.step_since_ms)


def _in_force(
    rollout: Rollout,
    replicas: Sequence[Replica],
    wanted: int,
    traffic: Sequence[TrafficWindow],
    now_ms: int,
) -> Rollout:
    """The step begins, if enough replicas are ready."""
    ready = sum(r.ready and r.goal is Goal.RUN and r.revision == rollout.revision for r in replicas)
    if ready < candidates_wanted(rollout, wanted):
        return rollout
    evidence = rollout.evidence
    if not rollout.step_spent_ms:
        before = added(evidence.before, evidence.stable)
        if not rollout.percent:  # else it has just been counted
            before = added(before, seen_of(traffic, str(rollout.stable.number)))
        evidence = evidence_of_step(before)
    percents = {
        Strategy.BLUE_GREEN: ALL,
        Strategy.CANARY: _percent_of_step(rollout),
        Strategy.SHADOW: 0.0,
    }
    return replace(
        rollout,
        percent=percents[rollout.plan.strategy],
        step_since_ms=now_ms,
        counted_to_ms=now_ms,
        evidence=evidence,
    )


def _counted(rollout: Rollout, traffic: Sequence[TrafficWindow], now_ms: int) -> Rollout:
    """Also while more replicas are waited for: a canary is judged as long as it gets requests."""
    shadow = rollout.plan.strategy is Strategy.SHADOW
    gets_requests = bool(rollout.percent) or (shadow and rollout.step_since_ms is not None)
    if not (traffic and gets_requests):
        return rollout
    new = str(rollout.revision)
    since_ms = rollout.step_since_ms
    evidence = counted(
        rollout.evidence,
        seen_of(traffic, str(rollout.stable.number)),
        seen_of(traffic, new, shadow=shadow),
        warm=since_ms is None or now_ms >= since_ms + WARM_UP_MS,
    )
    if shadow:
        evidence = compared(evidence, (each for each in traffic if each.version == new))
    if evidence == rollout.evidence:
        return rollout
    return replace(rollout, evidence=evidence, counted_to_ms=now_ms)


def _next_step(endpoint: Endpoint, rollout: Rollout, since_ms: int, now_ms: int) -> Endpoint:
    lasts_ms = 1000 * (rollout.plan.step_seconds or DEFAULT_STEP_S)
    if rollout.step_spent_ms + now_ms - since_ms < lasts_ms:
        return endpoint
    if rollout.step + 1 == len(rollout.plan.steps or ()):
        because = f"at {rollout.percent:g} %, {_in_words(rollout.evidence)}"
        return promoted(endpoint, because, now_ms)
    onwards = replace(rollout, step=rollout.step + 1, step_since_ms=None, step_spent_ms=0)
    return replace(endpoint, rollout=onwards)


def _in_words(evidence: Evidence) -> str:
    stable, new = evidence.stable, evidence.new
    share = percent_text(stable.failed / max(1, stable.requests))
    return f"{new.failed} of {new.requests} requests failed, against {share} of the others"


def _percent_of_step(rollout: Rollout) -> float:
    steps = rollout.plan.steps or [ALL]
    return steps[min(rollout.step, len(steps) - 1)]


def _keep_ms(rollout: Rollout) -> int:
    return 1000 * (rollout.plan.keep_seconds or 0)


def _broken(rollout: Rollout, replica: Replica, now_ms: int) -> str:
    """Why a new revision is given up for one of its replicas, or ""."""
    if replica.revision != rollout.revision or replica.goal is not Goal.RUN:
        return ""
    end = replica.last_end
    if end is not None and crashes_of(replica) >= CRASH_LOOP:
        return f"its replica {replica.index} keeps ending: it last {describe_end(end)}"
    started_ms = replica.started_at_ms
    late = started_ms is not None and now_ms >= started_ms + ANSWERS_WITHIN_MS
    if late and _deaf(rollout, replica):
        return f"its replica {replica.index} did not answer within {ANSWERS_WITHIN_MS // 1000} s"
    return ""


def _deaf(rollout: Rollout, replica: Replica) -> bool:
    """Is waited for, runs, and does not answer."""
    return (
        rollout.step_since_ms is None
        and replica.revision == rollout.revision
        and replica.phase is Phase.RUNNING
        and replica.goal is Goal.RUN
        and not replica.ready
    )


def _events(before: Endpoint, after: Endpoint) -> tuple[Event, ...]:
    was, rollout = before.rollout, after.rollout
    if was is None or rollout is None:
        return ()
    if rollout.plan.strategy is Strategy.ROLLING and rollout.state is not RolloutState.ROLLED_BACK:
        return ()
    severity = Severity.NORMAL
    if rollout.state is not was.state:
        reason, words = rollout.state.value, outcome_text(rollout)
        if rollout.state is RolloutState.ROLLED_BACK:
            severity = Severity.WARNING
    elif rollout.step_since_ms is not None and was.step_since_ms is None:
        reason, words = "RolloutStep", progress_text(rollout)
    else:
        return ()
    return (event_of(after, reason, words, severity),)
