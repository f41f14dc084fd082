"""`asynchronous/__init__.py` as `tools/derive_sync_client.py` made it sync; change that."""

from collections.abc import Mapping

from leptonai.client.synchronous.artifacts import Artifacts, Blobs, Trees
from leptonai.client.synchronous.calls import Calls
from leptonai.client.synchronous.credentials import Secrets, Tokens
from leptonai.client.synchronous.endpoints import Endpoints
from leptonai.client.synchronous.ingresses import Ingresses
from leptonai.client.synchronous.jobs import Jobs
from leptonai.client.synchronous.nodes import Nodes, Quotas, Reservations
from leptonai.client.synchronous.pods import Pods
from leptonai.client.synchronous.rayclusters import RayClusters
from leptonai.client.synchronous.runs import Runs
from leptonai.client.synchronous.storage import Storage
from leptonai.client.synchronous.templates import Templates
from leptonai.client.synchronous.values import KeySpaces, Objects, Queues
from leptonai.client.connection import resolve
from leptonai.client.messages import ANSWER_TIMEOUT_S, Request, merge_patch, patch_of
from leptonai.spec.workspace import WorkspaceInfo
from leptonai.training.keras.wrapping import wrap as teach_keras

RETRY_FOR_S = 10.0  # a restart of the platform takes less


class LeptonClient:
    """A workspace of a Lepton platform.

    Args:
        url: of the workspace or of the server; else LEPTON_WORKSPACE_URL, else the platform that
            runs on this machine.
        token: else LEPTON_WORKSPACE_TOKEN, else, for the platform of this machine, its own.
        workspace: else LEPTON_WORKSPACE_ID; only asked where the URL names none.
        access_key: another name of `token`.
        retry_for_s: how long to go on trying when the platform does not answer. What might be done
            twice is never sent twice.

    Raises:
        Unavailable: nothing says where the platform is; later, from every method: it does not
            answer.
        Unauthenticated: nothing says which token to use.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        workspace: str | None = None,
        access_key: str | None = None,
        *,
        retry_for_s: float = RETRY_FOR_S,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self.connection = resolve(url=url, token=token or access_key, workspace=workspace)
        self._calls = Calls(self.connection, retry_for_s=retry_for_s, timeout_s=timeout_s)
        self.jobs = Jobs(self._calls)
        self.endpoints = Endpoints(self._calls)
        self.pods = Pods(self._calls)
        self.nodes = Nodes(self._calls)
        self.quotas = Quotas(self._calls)
        self.reservations = Reservations(self._calls)
        self.secrets = Secrets(self._calls)
        self.tokens = Tokens(self._calls)
        self.ingresses = Ingresses(self._calls)
        self.rayclusters = RayClusters(self._calls)
        self.templates = Templates(self._calls)
        self.storage = Storage(self._calls)
        self.key_spaces = KeySpaces(self._calls)
        self.queues = Queues(self._calls)
        self.objects = Objects(self._calls)
        self.blobs = Blobs(self._calls)
        self.trees = Trees(self._calls, self.blobs)
        self.datasets = Artifacts(self._calls, self.trees, self.blobs, "datasets")
        self.models = Artifacts(self._calls, self.trees, self.blobs, "models")
        self.runs = Runs(self._calls, self.trees, self.blobs)
        teach_keras()  # `model.fit(…, client=…)`; Keras itself is not imported for it

    @property
    def url(self) -> str:
        """Of the workspace."""
        return self.connection.url

    def set_features(self, features: Mapping[str, bool]) -> WorkspaceInfo:
        """Turn features of the workspace on and off. For admins."""
        patch = merge_patch(features=dict(features))
        return self._calls.read(patch_of(patch, "workspace"), WorkspaceInfo)

    def workspace(self) -> WorkspaceInfo:
        return self._calls.read(Request(method="GET", path="/workspace"), WorkspaceInfo)

    def close(self) -> None:
        self._calls.http.close()

    def __enter__(self) -> "LeptonClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
