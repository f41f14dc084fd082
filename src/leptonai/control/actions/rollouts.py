"""Roll-outs: promoted and rolled back by people."""

from collections.abc import Callable

from leptonai.control.actions.committing import insisting, put, told
from leptonai.control.actions.endpoints import find_endpoint
from leptonai.control.world import World
from leptonai.core.access import Action, Principal
from leptonai.core.lifecycle.endpoint import no_longer_settled
from leptonai.core.records import Endpoint, event_of
from leptonai.core.rollouts.asked import promoted, rolled_back
from leptonai.core.rollouts.words import outcome_text
from leptonai.security.permissions import require


async def promote(world: World, principal: Principal, workspace: str, name: str) -> Endpoint:
    """Raises:
    Conflict: there is nothing to promote.
    """
    return await _decide(world, principal, workspace, name, promoted, f"by {principal.name}")


async def roll_back(world: World, principal: Principal, workspace: str, name: str) -> Endpoint:
    """Raises:
    Conflict: there is nothing to go back to.
    """
    return await _decide(world, principal, workspace, name, rolled_back, f"by {principal.name}")


async def _decide(
    world: World,
    principal: Principal,
    workspace: str,
    name: str,
    decision: Callable[[Endpoint, str, int], Endpoint],
    because: str,
) -> Endpoint:
    async def change() -> Endpoint:
        before = await find_endpoint(world, principal, workspace, name)
        require(principal, Action.UPDATE, before)
        now_ms = world.clock.now_ms()
        changed = decision(before, because, now_ms)
        if changed == before:
            return before
        assert changed.rollout is not None
        event = event_of(before, changed.rollout.state, outcome_text(changed.rollout))
        return await put(world, no_longer_settled(changed, before), *told(now_ms, event))

    return await insisting(change)
