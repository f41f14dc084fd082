"""`asynchronous/nodes.py` as `tools/derive_sync_client.py` made it sync; change that."""

from collections.abc import Sequence

from leptonai.client.synchronous.calls import Calls
from leptonai.client.messages import Request, delete_of, encode, get_of, path_of, post_to
from leptonai.spec.metadata import Metadata
from leptonai.spec.nodes import DedicatedNodeGroup, Node, Shape
from leptonai.spec.quotas import Quota, QuotaSpec
from leptonai.spec.reservations import NodeReservation, ReservationSpec, Verdict


class Nodes:
    """Machines, and the shapes that workloads may ask for."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def groups(self) -> list[DedicatedNodeGroup]:
        return self._calls.read(get_of("dedicated-node-groups"), list[DedicatedNodeGroup])

    def nodes(self, group_id: str) -> list[Node]:
        return self._calls.read(
            get_of("dedicated-node-groups", group_id, "nodes"), list[Node]
        )

    def shapes(self) -> list[Shape]:
        return self._calls.read(get_of("shapes"), list[Shape])


class Reservations:
    """Nodes of a group that are kept for some users, for some time."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def ask(self, group_id: str, name: str, spec: ReservationSpec) -> NodeReservation:
        """It keeps nothing until an admin approves it."""
        asked = NodeReservation(metadata=Metadata(name=name), spec=spec)
        path = path_of("dedicated-node-groups", group_id, "reservations")
        return self._calls.read(post_to(path, asked, key=""), NodeReservation)

    def list(self, group_id: str) -> Sequence[NodeReservation]:
        path = ("dedicated-node-groups", group_id, "reservations")
        return self._calls.read(get_of(*path), list[NodeReservation])

    def decide(self, group_id: str, id: str, verdict: Verdict) -> NodeReservation:
        """For admins."""
        path = path_of("dedicated-node-groups", group_id, "reservations", id, "verdict")
        request = Request(method="PUT", path=path, body=encode(verdict))
        return self._calls.read(request, NodeReservation)

    def remove(self, group_id: str, id: str) -> None:
        self._calls.ask(delete_of("dedicated-node-groups", group_id, "reservations", id))


class Quotas:
    """What users and projects are guaranteed. `kind` is "user" or "project"."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def set(self, kind: str, name: str, spec: QuotaSpec) -> Quota:
        """In place of the one there was. For admins."""
        path = path_of("quotas", f"{kind}s", name)
        return self._calls.read(Request(method="PUT", path=path, body=encode(spec)), Quota)

    def remove(self, kind: str, name: str) -> None:
        self._calls.ask(delete_of("quotas", f"{kind}s", name))

    def list(self) -> Sequence[Quota]:
        return self._calls.read(get_of("quotas"), list[Quota])
