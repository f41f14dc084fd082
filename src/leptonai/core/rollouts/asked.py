"""What people ask of roll-outs, and what revisions there are."""

from msgspec.structs import replace

from leptonai.core.lifecycle.program import program_of_endpoint
from leptonai.core.records import Endpoint
from leptonai.core.rollouts.values import Revision, Rollout
from leptonai.errors import Conflict, InvalidRequest
from leptonai.spec.endpoints import EndpointSpec
from leptonai.spec.rollouts import (
    DEFAULT_KEEP_S,
    DEFAULT_STEP_S,
    DEFAULT_STEPS,
    RolloutPlan,
    RolloutState,
    Strategy,
)

ALL = 100.0  # percent

# What of a spec its replicas run by: a rollback brings this back, and leaves the rest as it is.
OF_REPLICAS = (
    "container",
    "envs",
    "workdir",
    "model",
    "health",
    "image_pull_secrets",
    "log",
    "metrics",
    "mounts",
    "queue_config",
    "reservation_config",
    "scheduling_policy",
    "storage_attachments",
    "user_security_context",
)


def checked(plan: RolloutPlan) -> RolloutPlan:
    """The plan with what it left open, or what is wrong with it."""
    match plan.strategy:
        case Strategy.CANARY:
            steps = [step for step in plan.steps or DEFAULT_STEPS if step < ALL]
            if not steps or steps != sorted(set(plan.steps or DEFAULT_STEPS) - {ALL}):
                raise InvalidRequest(
                    "rollout.steps: they do not grow from a part to all of the requests",
                    hint="Give percents like [10, 50]; after the last step it gets all.",
                )
            plan = replace(plan, steps=steps, step_seconds=plan.step_seconds or DEFAULT_STEP_S)
        case Strategy.SHADOW:
            if len(plan.steps or [ALL]) != 1:
                raise InvalidRequest(
                    "rollout.steps: a shadow has no steps", hint="Give one percent, like [20]."
                )
            plan = replace(plan, steps=plan.steps or [ALL])
        case Strategy.BLUE_GREEN if plan.keep_seconds is None:
            plan = replace(plan, keep_seconds=DEFAULT_KEEP_S)
    for field, strategies in (
        ("steps", (Strategy.CANARY, Strategy.SHADOW)),
        ("step_seconds", (Strategy.CANARY,)),
        ("keep_seconds", (Strategy.BLUE_GREEN,)),
    ):
        if getattr(plan, field) is not None and plan.strategy not in strategies:
            raise InvalidRequest(
                f"rollout.{field}: means nothing to a {plan.strategy} roll-out",
                hint=f"Leave it out, or use the strategy {strategies[0]}.",
            )
    return plan


def begun(before: Endpoint, changed: Endpoint, plan: RolloutPlan, now_ms: int) -> Endpoint:
    """With a new revision of what `changed` asks, that takes over from the one that served before.

    A change back to what the stable revision runs is a rollback.
    """
    stable = revision_of(before)
    if before.rollout is not None and before.rollout.state is RolloutState.PROGRESSING:
        stable = before.rollout.stable
        as_stable = replace(changed, spec=stable.spec, model_digest=stable.model_digest)
        if (
            program_of_endpoint(changed)
            == program_of_endpoint(as_stable)
            != program_of_endpoint(before)
        ):
            back = replace(changed, revision=stable.number)
            return ended(
                back, before.rollout, RolloutState.ROLLED_BACK, "changed back to it", now_ms
            )
    number = newest_revision(before) + 1
    rollout = Rollout(
        plan=checked(plan),
        revision=number,
        stable=stable,
        percent=None if plan.strategy is Strategy.ROLLING else 0.0,
        started_at_ms=now_ms,
    )
    return replace(changed, revision=number, newest_revision=number, rollout=rollout)


def promoted(endpoint: Endpoint, because: str, now_ms: int) -> Endpoint:
    """Let the new revision have all requests. Asked twice it is asked once.

    Raises:
        Conflict: there is nothing to promote.
    """
    rollout = _rollout_of(endpoint)
    if rollout.state is RolloutState.ROLLED_BACK:
        raise Conflict(
            f"revision {rollout.revision} was rolled back: {rollout.message}",
            hint=f"Update it again: `leptonai endpoint update {endpoint.name} …`.",
        )
    if rollout.state is RolloutState.PROMOTED:
        return endpoint
    return ended(endpoint, rollout, RolloutState.PROMOTED, because, now_ms)


def rolled_back(endpoint: Endpoint, because: str, now_ms: int) -> Endpoint:
    """Go back to the stable revision, also after a promotion. Asked twice it is asked once.

    Raises:
        Conflict: there is nothing to go back to.
    """
    rollout = _rollout_of(endpoint)
    if rollout.state is RolloutState.ROLLED_BACK:
        return endpoint
    stable = rollout.stable
    back = replace(
        endpoint,
        spec=_spec_with_replicas_of(endpoint.spec, stable.spec),
        model_digest=stable.model_digest,
        revision=stable.number,
    )
    return ended(back, rollout, RolloutState.ROLLED_BACK, because, now_ms)


def newest_revision(endpoint: Endpoint) -> int:
    return max(endpoint.newest_revision, endpoint.revision)


def revision_of(endpoint: Endpoint) -> Revision:
    spec = replace(endpoint.spec, api_tokens=None)
    return Revision(number=endpoint.revision, spec=spec, model_digest=endpoint.model_digest)


def at_revision(endpoint: Endpoint, number: int) -> Endpoint:
    """The endpoint as its replicas of this revision know it."""
    rollout = endpoint.rollout
    if rollout is None or number != rollout.stable.number or number == endpoint.revision:
        return endpoint
    return replace(
        endpoint,
        spec=_spec_with_replicas_of(endpoint.spec, rollout.stable.spec),
        model_digest=rollout.stable.model_digest,
        revision=number,
    )


def ended(
    endpoint: Endpoint, rollout: Rollout, state: RolloutState, because: str, now_ms: int
) -> Endpoint:
    """Decided. Until the others have left, nobody is sent to what is to leave for good."""
    percent = None
    if state is RolloutState.PROMOTED and rollout.percent == ALL:
        percent = ALL
    if state is RolloutState.ROLLED_BACK and rollout.state is RolloutState.PROGRESSING:
        percent = None if rollout.percent is None else 0.0
    done = replace(
        rollout,
        state=state,
        message=because,
        percent=percent,
        step_since_ms=None,
        ended_at_ms=now_ms,
    )
    return replace(endpoint, rollout=done)


def _rollout_of(endpoint: Endpoint) -> Rollout:
    if endpoint.rollout is None:
        raise Conflict(
            f"endpoint {endpoint.name} has only had one revision",
            hint="An update that changes what its replicas run makes the next.",
        )
    return endpoint.rollout


def _spec_with_replicas_of(spec: EndpointSpec, other: EndpointSpec) -> EndpointSpec:
    numbers = spec.resource_requirement
    requirement = replace(
        other.resource_requirement,
        min_replicas=numbers.min_replicas,
        max_replicas=numbers.max_replicas,
    )
    changes = {field: getattr(other, field) for field in OF_REPLICAS}
    return replace(spec, resource_requirement=requirement, **changes)
