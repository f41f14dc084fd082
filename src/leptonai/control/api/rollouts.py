"""Roll-outs of endpoints: an extension of the published API."""

from leptonai.control.actions.endpoints import find_endpoint
from leptonai.control.actions.rollouts import promote, roll_back
from leptonai.control.api.routing import Call, Route
from leptonai.core.records import Endpoint
from leptonai.core.rollouts.evidence import SLOW, shown
from leptonai.core.rollouts.values import Rollout, Seen
from leptonai.core.rollouts.words import rollout_text
from leptonai.core.traffic import quantile_ms
from leptonai.errors import NotFound
from leptonai.spec import rollouts as wire
from leptonai.spec.rollouts import Strategy


async def get(call: Call) -> wire.Rollout:
    endpoint = await find_endpoint(call.world, call.principal, call.workspace, call.path["name"])
    return _view(endpoint)


async def promote_rollout(call: Call) -> wire.Rollout:
    return _view(await promote(call.world, call.principal, call.workspace, call.path["name"]))


async def roll_back_rollout(call: Call) -> wire.Rollout:
    return _view(await roll_back(call.world, call.principal, call.workspace, call.path["name"]))


def _view(endpoint: Endpoint) -> wire.Rollout:
    rollout = endpoint.rollout
    if rollout is None:
        raise NotFound(
            f"there was no roll-out of endpoint {endpoint.name} yet",
            hint="An update that changes what its replicas run begins one.",
        )
    plan, evidence = rollout.plan, rollout.evidence
    judged = plan.strategy is not Strategy.ROLLING
    in_steps = plan.strategy is Strategy.CANARY
    found = evidence.differences
    return wire.Rollout(
        strategy=plan.strategy,
        state=rollout.state,
        message=rollout_text(rollout),
        revision=rollout.revision,
        stable_revision=rollout.stable.number,
        percent=rollout.percent,
        step=rollout.step + 1 if in_steps else None,
        steps=plan.steps,
        step_seconds=plan.step_seconds,
        step_started_at=rollout.step_since_ms,
        started_at=rollout.started_at_ms,
        ended_at=rollout.ended_at_ms,
        slow_above_ms=evidence.slow_above_ms,
        stable=_traffic(rollout, rollout.stable.number, evidence.stable) if judged else None,
        new=_traffic(rollout, rollout.revision, evidence.new) if judged else None,
        shadow=wire.ShadowReport(
            compared=found.compared, status_differs=found.status, body_differs=found.body
        )
        if plan.strategy is Strategy.SHADOW
        else None,
    )


def _traffic(rollout: Rollout, revision: int, seen: Seen) -> wire.VersionTraffic:
    above_ms = rollout.evidence.slow_above_ms
    return wire.VersionTraffic(
        revision=revision,
        requests=seen.requests,
        failed=seen.failed,
        refused=seen.refused,
        slow=None if above_ms is None else shown(seen, SLOW, above_ms)[1],
        p50_ms=quantile_ms(seen.service_ms, 0.5),
        p95_ms=quantile_ms(seen.service_ms, 0.95),
    )


ROUTES = (
    Route(
        method="GET",
        path="/deployments/{name}/rollout",
        handler=get,
        summary="How the newest revision of an endpoint takes over, or how that ended",
        answer=wire.Rollout,
    ),
    Route(
        method="PUT",
        path="/deployments/{name}/rollout/promote",
        handler=promote_rollout,
        summary="Let the new revision have all requests",
        answer=wire.Rollout,
    ),
    Route(
        method="PUT",
        path="/deployments/{name}/rollout/rollback",
        handler=roll_back_rollout,
        summary="Go back to the revision before, also after a promotion",
        answer=wire.Rollout,
    ),
)
