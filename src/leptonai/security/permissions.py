"""Access decisions as the routes apply them."""

from collections.abc import Callable
from typing import cast

from leptonai.core.access import Action, Deny, Kind, Principal, Resource, decide
from leptonai.core.records import Record, Run, Workload
from leptonai.errors import Forbidden
from leptonai.spec.metadata import Visibility


def require(principal: Principal, action: Action, of: Record | Resource) -> None:
    """Raise Forbidden unless the principal may."""
    resource = resource_of(of) if isinstance(of, Record) else of
    decision = decide(principal, action, resource)
    if isinstance(decision, Deny):
        raise Forbidden(
            f"{principal.name} may not do this: {decision.because}",
            hint="Ask the owner, or an admin of the workspace.",
        )


def may(principal: Principal, action: Action, resource: Resource) -> bool:
    return not isinstance(decide(principal, action, resource), Deny)


def may_read(principal: Principal, record: Record) -> bool:
    return may(principal, Action.READ, resource_of(record))


def may_see(principal: Principal) -> Callable[[Workload], bool]:
    """Which other workloads a principal may be told of."""

    def sees(workload: Workload) -> bool:
        return workload.workspace == principal.workspace and may_read(principal, workload)

    return sees


def resource_of(record: Record) -> Resource:
    return Resource(
        kind=cast(Kind, record.__struct_config__.tag),
        workspace=record.workspace,
        id=record.id,
        owner=record.owner,
        private=record.visibility == Visibility.PRIVATE,
        job=record.spec.job if isinstance(record, Run) else "",
    )
