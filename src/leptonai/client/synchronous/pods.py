"""`asynchronous/pods.py` as `tools/derive_sync_client.py` made it sync; change that."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from leptonai.client.synchronous.calls import (
    Calls,
    Looks,
    new_key,
    sent_metadata,
)
from leptonai.client.synchronous.endpoints import endpoint_state
from leptonai.client.messages import Request, delete_of, encode, get_of, patch_of, path_of, post_to
from leptonai.errors import Conflict, NotFound, TryLater
from leptonai.spec.endpoints import EndpointState, LeptonDeployment
from leptonai.spec.pods import PodLogin
from leptonai.spec.replicas import LeptonEvent


class Pods:
    """Machines to work in. What is done in one, by WebSocket, is in `client.sessions`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(
        self, pod: LeptonDeployment, *, idempotency_key: str | None = None
    ) -> LeptonDeployment:
        """Raises:
        AlreadyExists: the name is taken, by a pod or by an endpoint.
        """
        spec = structs.replace(pod.spec, is_pod=True)
        body = LeptonDeployment(metadata=sent_metadata(pod.metadata), spec=spec)
        return self._calls.read(
            post_to("/deployments", body, idempotency_key or new_key()), LeptonDeployment
        )

    def get(self, name: str) -> LeptonDeployment:
        """Raises:
        NotFound: there is none of this name; an endpoint is none.
        """
        found = self._calls.read(get_of("deployments", name), LeptonDeployment)
        if not found.spec.is_pod:
            raise NotFound(
                f"{name} is an endpoint, and no pod", hint="`leptonai pod list` shows the pods"
            )
        return found

    def list(self) -> Sequence[LeptonDeployment]:
        found = self._calls.read(get_of("deployments"), list[LeptonDeployment])
        return [pod for pod in found if pod.spec.is_pod]

    def start(self, name: str) -> LeptonDeployment:
        """Where it was, with its files."""
        return self._resize(name, 1)

    def stop(self, name: str) -> LeptonDeployment:
        """End all that runs in it; its files stay."""
        return self._resize(name, 0)

    def update(self, name: str, patch: Mapping[str, Any]) -> LeptonDeployment:
        """Apply a merge patch (RFC 7386). What concerns what runs in it starts it anew."""
        self.get(name)
        return self._calls.read(
            patch_of(encode(patch), "deployments", name), LeptonDeployment
        )

    def remove(self, name: str, *, keep_files: bool = False) -> None:
        """Stop and forget it, with its files unless they are to stay on their node."""
        self.get(name)
        self._calls.ask(delete_of("deployments", name, keep_files=keep_files or None))

    def login(self, name: str) -> PodLogin:
        """A link that lets a browser into its JupyterLab, once, within a minute."""
        path = path_of("deployments", name, "login")
        request = Request(method="POST", path=path, body=b"{}", key=new_key())
        return self._calls.read(request, PodLogin)

    def events(self, name: str) -> Sequence[LeptonEvent]:
        return self._calls.read(get_of("deployments", name, "events"), list[LeptonEvent])

    def wait_ready(self, name: str, timeout_s: float | None = None) -> LeptonDeployment:
        """Return it when people can enter it.

        Raises:
            Conflict: it was stopped.
            TryLater: it is not ready in time.
        """
        looks = Looks(timeout_s)
        while True:
            pod = self.get(name)
            state = endpoint_state(pod)
            if state is EndpointState.READY:
                return pod
            if state in (EndpointState.STOPPING, EndpointState.STOPPED, EndpointState.DELETING):
                raise Conflict(
                    f"pod {name} is {state}", hint=f"start it: `leptonai pod start {name}`"
                )
            if looks.are_over:
                told = pod.status.message if pod.status else None
                raise TryLater(
                    f"pod {name} is still {state} after {timeout_s:g} s"
                    + (f": {told}" if told else ""),
                    hint=f"see `leptonai endpoint why {name}`",
                )
            looks.pause()

    def _resize(self, name: str, replicas: int) -> LeptonDeployment:
        pod = self.get(name)
        if pod.spec.replicas == replicas:
            return pod
        patch = {"spec": {"resource_requirement": {"min_replicas": replicas}}}
        return self._calls.read(
            patch_of(encode(patch), "deployments", name), LeptonDeployment
        )
