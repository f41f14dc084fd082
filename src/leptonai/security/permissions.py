"""Access decisions as the routes apply them."""

from collections.abc import Callable

from leptonai.core.access import Action, Deny, Kind, Principal, Resource, decide
from leptonai.core.records import Record, Run, Workload, kind_of
from leptonai.errors import Forbidden
from leptonai.spec.metadata import Visibility


def require(principal: Principal, action: Action, resource: Resource) -> None:
    """Raise Forbidden unless the principal may."""
    decision = decide(principal, action, resource)
    if isinstance(decision, Deny):
        raise Forbidden(
            f"{principal.name} may not do this: {decision.because}",
            hint="Ask the owner, or an admin of the workspace.",
        )


def may(principal: Principal, action: Action, resource: Resource) -> bool:
    return not isinstance(decide(principal, action, resource), Deny)


def may_read(principal: Principal, kind: Kind, record: Record) -> bool:
    return may(principal, Action.READ, resource_of(kind, record))


def may_see(principal: Principal) -> Callable[[Workload], bool]:
    """Which other workloads a principal may be told of."""

    def sees(workload: Workload) -> bool:
        kind: Kind = kind_of(workload).value
        return workload.workspace == principal.workspace and may_read(principal, kind, workload)

    return sees


def resource_of(kind: Kind, record: Record) -> Resource:
    return Resource(
        kind=kind,
        workspace=record.workspace,
        id=record.id,
        owner=record.owner,
        private=record.visibility == Visibility.PRIVATE,
        job=record.spec.job if isinstance(record, Run) else "",
    )
