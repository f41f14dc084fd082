"""Pods: let into."""

import secrets

from leptonai.control.actions.endpoints import find_endpoint
from leptonai.control.world import World
from leptonai.core.access import Action, Principal
from leptonai.core.doors import LOGIN_PATH, TICKET_S, ticket
from leptonai.errors import InvalidRequest
from leptonai.security.permissions import require
from leptonai.spec.pods import JUPYTER_AT, PodLogin


async def login_to_pod(world: World, principal: Principal, workspace: str, name: str) -> PodLogin:
    """Raises:
    Forbidden: to who may not change the pod.
    """
    pod = await find_endpoint(world, principal, workspace, name)
    require(principal, Action.UPDATE, pod)
    if not pod.is_pod:
        raise InvalidRequest(
            f"{name} is an endpoint, and no pod", hint="Its URL is in `leptonai endpoint get`."
        )
    expires_s = world.clock.now_ms() // 1000 + TICKET_S
    word = ticket(world.pod_key(workspace, pod.id), expires_s, secrets.token_hex(16))
    path = f"/{JUPYTER_AT}/{workspace}/{name}{LOGIN_PATH.decode()}"
    return PodLogin(url=f"{world.config.gateway_url}{path}?ticket={word}")
