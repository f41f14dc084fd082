"""Endpoints that speak gRPC: Envoy alone serves them, so what only our gateway does is refused."""

from leptonai.core.elasticity import policy_of
from leptonai.core.routing import speaks_grpc
from leptonai.errors import InvalidRequest
from leptonai.spec.endpoints import EndpointSpec
from leptonai.spec.gateway import GatewaySettings
from leptonai.spec.rollouts import RolloutPlan, Strategy


def check_grpc(spec: EndpointSpec) -> None:
    """
    Raises:
        InvalidRequest: it speaks gRPC, and asks for something that needs our gateway.
    """
    if not speaks_grpc(spec):
        return
    gateway = spec.gateway or GatewaySettings()
    auth, routing, balance = spec.auth_config, spec.routing_policy, gateway.balance
    asked = {
        "auto_scaler": policy_of(spec) is not None,
        "auth_config.ip_allowlist": auth is not None and bool(auth.ip_allowlist),
        "routing_policy.enable_header_based_replica_routing": (
            routing is not None and bool(routing.enable_header_based_replica_routing)
        ),
        "gateway.rate_limit": gateway.rate_limit is not None,
        "gateway.hedge": gateway.hedge is not None,
        "gateway.balance": balance is not None and balance.by != "least-outstanding",
    }
    for field, is_asked in asked.items():
        if is_asked:
            raise InvalidRequest(
                f"spec.{field}: is not there for an endpoint that speaks gRPC: Envoy serves it, "
                "and counts, limits and compares nothing",
                hint="Leave it out, or serve HTTP at the first port.",
            )


def check_grpc_rollout(spec: EndpointSpec, plan: RolloutPlan | None) -> None:
    """
    Raises:
        InvalidRequest: it speaks gRPC, and its versions are to run beside each other.
    """
    if plan is not None and plan.strategy is not Strategy.ROLLING and speaks_grpc(spec):
        raise InvalidRequest(
            f"rollout.strategy: a {plan.strategy} one is steered by our gateway, and Envoy "
            "serves an endpoint that speaks gRPC",
            hint="Leave it out: replicas are then replaced one by one.",
        )
