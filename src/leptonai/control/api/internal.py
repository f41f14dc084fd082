"""What gateways ask for."""

from leptonai.control.api.routing import Answer, Call, Parameter, Route, Scope
from leptonai.core.access import Action, Resource, Role
from leptonai.core.routing import RouteTable, without_keys
from leptonai.core.traffic import TrafficReport
from leptonai.security.permissions import require

DEFAULT_WAIT_S = 25
MAX_WAIT_S = 55  # below the minute after which proxies tend to cut idle connections


async def follow_routes(call: Call) -> RouteTable | Answer:
    """204 after the wait says that the table is still the one that the gateway has."""
    require(call.principal, Action.READ, Resource(kind="route"))
    after = call.number("after", 0)
    table = await call.world.routes.wait(after, float(call.number("timeout_s", DEFAULT_WAIT_S)))
    if table is None:
        return Answer(status=204)
    return table if call.principal.role is Role.GATEWAY else without_keys(table)


async def take_traffic(call: Call) -> Answer:
    """From gateways alone: what scales and rolls out believes it."""
    require(call.principal, Action.UPDATE, Resource(kind="traffic"))
    call.world.traffic.take(await call.json())
    return Answer(status=204)


ROUTES = (
    Route(
        method="GET",
        path="/internal/routes",
        handler=follow_routes,
        summary="The route table, once it is another one than `after`; 204 if it stays",
        answer=RouteTable,
        nothing="The table is still the one that the gateway has.",
        scope=Scope.PLATFORM,
        query=(
            Parameter(
                "after", int, "The seq of the table that the gateway has; -1: none.", least=-1
            ),
            Parameter("timeout_s", int, "How long to wait.", least=0, most=MAX_WAIT_S),
        ),
    ),
    Route(
        method="POST",
        path="/internal/traffic",
        handler=take_traffic,
        summary="What a gateway tells of the requests since it last did",
        body=TrafficReport,
        status=204,
        audited=False,
        scope=Scope.PLATFORM,
    ),
)
