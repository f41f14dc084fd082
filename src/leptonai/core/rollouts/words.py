"""What is told of a roll-out to people."""

from leptonai.core.rollouts.evidence import Undecided, verdict
from leptonai.core.rollouts.values import Rollout
from leptonai.spec.rollouts import RolloutState, Strategy


def rollout_text(rollout: Rollout) -> str:
    progresses = rollout.state is RolloutState.PROGRESSING
    return progress_text(rollout) if progresses else outcome_text(rollout)


def progress_text(rollout: Rollout) -> str:
    """ "canary roll-out of revision 2: 10 % of the requests, step 1 of 2; 3 of 412 failed"."""
    plan, what = rollout.plan, _what(rollout)
    if plan.strategy is Strategy.ROLLING:
        return f"{what}: replicas are replaced one by one"
    evidence, new = rollout.evidence, rollout.evidence.new
    match plan.strategy:
        case Strategy.CANARY if rollout.percent:
            steps = plan.steps or []
            words = f"{what}: {rollout.percent:g} % of the requests"
            seen = f"{new.failed} of {new.requests} failed"
            if rollout.step_since_ms is None:
                return f"{words}, {seen}; more of its replicas are to be ready for the next step"
            judged = verdict(evidence, len(steps), rollout.stable.number)
            lacks = f"; {judged.lacks}" if isinstance(judged, Undecided) else ""
            return f"{words}, step {rollout.step + 1} of {len(steps)}; {seen}{lacks}"
        case Strategy.SHADOW if rollout.step_since_ms is not None:
            found = evidence.differences
            return f"{what}: {found.status + found.body} of {found.compared} answers differ"
        case Strategy.BLUE_GREEN if rollout.percent:
            return f"{what}: it gets all requests; revision {rollout.stable.number} is kept"
    return f"{what}: it gets no requests until its replicas are ready"


def outcome_text(rollout: Rollout) -> str:
    """ "canary roll-out of revision 2 rolled back to 1: at 10 %, 3 of 412 requests failed …"."""
    if rollout.state is RolloutState.ROLLED_BACK:
        return f"{_what(rollout)} rolled back to {rollout.stable.number}: {rollout.message}"
    return f"{_what(rollout)} promoted: {rollout.message}"


def _what(rollout: Rollout) -> str:
    return f"{rollout.plan.strategy} roll-out of revision {rollout.revision}"
