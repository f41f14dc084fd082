"""`asynchronous/endpoints.py` as `tools/derive_sync_client.py` made it sync; change that."""

from collections.abc import Mapping, Sequence
from typing import Any

from leptonai.client.synchronous.calls import (
    Calls,
    Looks,
    new_key,
    sent_metadata,
)
from leptonai.client.http_sync import Feed
from leptonai.client.messages import Request, delete_of, encode, get_of, patch_of, path_of, post_to
from leptonai.errors import Conflict, TryLater
from leptonai.spec.endpoints import (
    EndpointState,
    LeptonDeployment,
    ReadinessReason,
    RequestHistory,
    TerminationReason,
)
from leptonai.spec.explanations import Explanation
from leptonai.spec.replicas import LeptonEvent, LogLine, Replica
from leptonai.spec.rollouts import Rollout, RolloutPlan


class Endpoints:
    """Servers behind the gateway."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(
        self, endpoint: LeptonDeployment, *, idempotency_key: str | None = None
    ) -> LeptonDeployment:
        """Raises:
        AlreadyExists: the name is taken.
        """
        body = LeptonDeployment(metadata=sent_metadata(endpoint.metadata), spec=endpoint.spec)
        return self._calls.read(
            post_to("/deployments", body, idempotency_key or new_key()), LeptonDeployment
        )

    def dry_run(self, endpoint: LeptonDeployment) -> LeptonDeployment:
        """The endpoint as it would be created, and in its `explanation` what would become of its
        first replica. Nothing is created."""
        body = LeptonDeployment(metadata=sent_metadata(endpoint.metadata), spec=endpoint.spec)
        return self._calls.read(
            post_to("/deployments?dry_run=true", body, new_key()), LeptonDeployment
        )

    def get(self, name: str) -> LeptonDeployment:
        return self._calls.read(get_of("deployments", name), LeptonDeployment)

    def update(
        self, name: str, patch: Mapping[str, Any], *, rollout: RolloutPlan | None = None
    ) -> LeptonDeployment:
        """Apply a merge patch (RFC 7386): objects merge, lists replace, None deletes.

        Args:
            rollout: how the new revision takes over; its replicas replace the old ones one by one
                without it.

        Raises:
            InvalidRequest: also for a `rollout` of a change that replaces no replicas.
        """
        asked = patch if rollout is None else {**patch, "rollout": rollout}
        return self._calls.read(
            patch_of(encode(asked), "deployments", name), LeptonDeployment
        )

    def rollout(self, name: str) -> Rollout:
        """How its newest revision takes over, or how that ended.

        Raises:
            NotFound: there was no roll-out yet.
        """
        return self._calls.read(get_of("deployments", name, "rollout"), Rollout)

    def promote(self, name: str) -> Rollout:
        """Let the new revision have all requests.

        Raises:
            Conflict: there is nothing to promote.
        """
        request = Request(method="PUT", path=path_of("deployments", name, "rollout", "promote"))
        return self._calls.read(request, Rollout)

    def roll_back(self, name: str) -> Rollout:
        """Go back to the revision before, also after a promotion.

        Raises:
            Conflict: there is nothing to go back to.
        """
        request = Request(method="PUT", path=path_of("deployments", name, "rollout", "rollback"))
        return self._calls.read(request, Rollout)

    def remove(self, name: str) -> None:
        self._calls.ask(delete_of("deployments", name))

    def restart(self, name: str) -> LeptonDeployment:
        """Replace every replica, one after another."""
        return self._calls.read(
            Request(method="PUT", path=path_of("deployments", name, "restart")), LeptonDeployment
        )

    def replicas(self, name: str) -> Sequence[Replica]:
        return self._calls.read(get_of("deployments", name, "replicas"), list[Replica])

    def events(self, name: str) -> Sequence[LeptonEvent]:
        return self._calls.read(get_of("deployments", name, "events"), list[LeptonEvent])

    def readiness(self, name: str) -> Mapping[str, Sequence[ReadinessReason]]:
        """Why each replica is ready or not, by its id."""
        return self._calls.read(
            get_of("deployments", name, "readiness"), dict[str, list[ReadinessReason]]
        )

    def terminations(self, name: str) -> Mapping[str, Sequence[TerminationReason]]:
        """How replicas ended, by their id."""
        return self._calls.read(
            get_of("deployments", name, "termination"), dict[str, list[TerminationReason]]
        )

    def why(self, name: str) -> Explanation:
        """Why it is in the state it is in, and what would change that."""
        return self._calls.read(get_of("deployments", name, "why"), Explanation)

    def log(
        self, name: str, replica_id: str, *, follow: bool = True, tail: int | None = None
    ) -> Feed[str]:
        """The lines of one replica from its beginning, or the last `tail` of its present try; with
        `follow`, until it has ended."""
        request = get_of(
            "deployments", name, "replicas", replica_id, "log", follow=follow, tail=tail
        )
        return self._calls.lines(request)

    def requests(self, name: str) -> RequestHistory:
        """How many requests it got in the last days, where it is scaled by a target."""
        return self._calls.read(get_of("deployments", name, "requests"), RequestHistory)

    def history(
        self,
        name: str,
        start_ns: int,
        end_ns: int,
        *,
        replica_id: str | None = None,
        q: str | None = None,
        last: int | None = None,
    ) -> Feed[LogLine]:
        """The lines of start <= time < end, or the last ones, that hold `q`: oldest first, each
        with its nanosecond since 1970."""
        return self._calls.history(start_ns, end_ns, last, deployment=name, replica=replica_id, q=q)

    def wait_ready(self, name: str, timeout_s: float | None = None) -> LeptonDeployment:
        """Return it when all its replicas are ready, of its newest revision.

        Raises:
            TryLater: not in time.
            Conflict: it is being stopped or removed.
        """
        looks = Looks(timeout_s)
        while True:
            endpoint = self.get(name)
            state = endpoint_state(endpoint)
            if state is EndpointState.READY:
                return endpoint
            if state in (EndpointState.STOPPING, EndpointState.STOPPED, EndpointState.DELETING):
                raise Conflict(
                    f"endpoint {name} is {state}, so it will not get ready",
                    hint=f"give it replicas: `leptonai endpoint update {name} --replicas 1`",
                )
            if looks.are_over:
                told = endpoint.status.message if endpoint.status else None
                raise TryLater(
                    f"endpoint {name} is still {state} after {timeout_s:g} s"
                    + (f": {told}" if told else ""),
                    hint=f"see `leptonai endpoint why {name}` and `leptonai endpoint log {name}`",
                )
            looks.pause()

    def list(self) -> Sequence[LeptonDeployment]:
        found = self._calls.read(get_of("deployments"), list[LeptonDeployment])
        return [endpoint for endpoint in found if not endpoint.spec.is_pod]


def endpoint_state(endpoint: LeptonDeployment) -> EndpointState:
    """`phase` where there is one: `state` has only what old clients understand."""
    if endpoint.status is None:
        return EndpointState.STARTING
    return endpoint.status.phase or endpoint.status.state
