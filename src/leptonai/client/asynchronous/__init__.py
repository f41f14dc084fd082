"""The SDK for asyncio, and the source of the sync one: `tools/derive_sync_client.py` makes
`synchronous/` of this package, file by file, by leaving out `async` and `await`."""

from collections.abc import Mapping

from leptonai.client.asynchronous.artifacts import AsyncArtifacts, AsyncBlobs, AsyncTrees
from leptonai.client.asynchronous.calls import AsyncCalls
from leptonai.client.asynchronous.credentials import AsyncSecrets, AsyncTokens
from leptonai.client.asynchronous.endpoints import AsyncEndpoints
from leptonai.client.asynchronous.ingresses import AsyncIngresses
from leptonai.client.asynchronous.jobs import AsyncJobs
from leptonai.client.asynchronous.nodes import AsyncNodes, AsyncQuotas, AsyncReservations
from leptonai.client.asynchronous.pods import AsyncPods
from leptonai.client.asynchronous.rayclusters import AsyncRayClusters
from leptonai.client.asynchronous.runs import AsyncRuns
from leptonai.client.asynchronous.storage import AsyncStorage
from leptonai.client.asynchronous.templates import AsyncTemplates
from leptonai.client.asynchronous.values import AsyncKeySpaces, AsyncObjects, AsyncQueues
from leptonai.client.connection import resolve
from leptonai.client.messages import ANSWER_TIMEOUT_S, Request, merge_patch, patch_of
from leptonai.spec.workspace import WorkspaceInfo
from leptonai.training.keras.wrapping import wrap as teach_keras

RETRY_FOR_S = 10.0  # a restart of the platform takes less


class AsyncLeptonClient:
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
        self._calls = AsyncCalls(self.connection, retry_for_s=retry_for_s, timeout_s=timeout_s)
        self.jobs = AsyncJobs(self._calls)
        self.endpoints = AsyncEndpoints(self._calls)
        self.pods = AsyncPods(self._calls)
        self.nodes = AsyncNodes(self._calls)
        self.quotas = AsyncQuotas(self._calls)
        self.reservations = AsyncReservations(self._calls)
        self.secrets = AsyncSecrets(self._calls)
        self.tokens = AsyncTokens(self._calls)
        self.ingresses = AsyncIngresses(self._calls)
        self.rayclusters = AsyncRayClusters(self._calls)
        self.templates = AsyncTemplates(self._calls)
        self.storage = AsyncStorage(self._calls)
        self.key_spaces = AsyncKeySpaces(self._calls)
        self.queues = AsyncQueues(self._calls)
        self.objects = AsyncObjects(self._calls)
        self.blobs = AsyncBlobs(self._calls)
        self.trees = AsyncTrees(self._calls, self.blobs)
        self.datasets = AsyncArtifacts(self._calls, self.trees, self.blobs, "datasets")
        self.models = AsyncArtifacts(self._calls, self.trees, self.blobs, "models")
        self.runs = AsyncRuns(self._calls, self.trees, self.blobs)
        teach_keras()  # `model.fit(…, client=…)`; Keras itself is not imported for it

    @property
    def url(self) -> str:
        """Of the workspace."""
        return self.connection.url

    async def set_features(self, features: Mapping[str, bool]) -> WorkspaceInfo:
        """Turn features of the workspace on and off. For admins."""
        patch = merge_patch(features=dict(features))
        return await self._calls.read(patch_of(patch, "workspace"), WorkspaceInfo)

    async def workspace(self) -> WorkspaceInfo:
        return await self._calls.read(Request(method="GET", path="/workspace"), WorkspaceInfo)

    async def aclose(self) -> None:
        await self._calls.http.aclose()

    async def __aenter__(self) -> "AsyncLeptonClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
