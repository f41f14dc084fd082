"""Clusters of Ray."""

from collections.abc import Mapping, Sequence

from leptonai.client.asynchronous.calls import AsyncCalls, AsyncLooks
from leptonai.client.http_async import Feed
from leptonai.client.messages import delete_of, get_of, merge_patch, patch_of, path_of, post_to
from leptonai.errors import Conflict, TryLater
from leptonai.spec.explanations import Explanation
from leptonai.spec.rayclusters import LeptonRayCluster, RayClusterState
from leptonai.spec.replicas import LeptonEvent, Replica


class AsyncRayClusters:
    """Ray: a head, and groups of workers, on which Ray jobs run."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def create(self, cluster: LeptonRayCluster) -> LeptonRayCluster:
        """`metadata.name` is its name. It is started at once; `wait_ready` waits for it."""
        return await self._calls.read(post_to("/rayclusters", cluster, key=""), LeptonRayCluster)

    async def list(self) -> Sequence[LeptonRayCluster]:
        return await self._calls.read(get_of("rayclusters"), list[LeptonRayCluster])

    async def get(self, name: str) -> LeptonRayCluster:
        return await self._calls.read(get_of("rayclusters", name), LeptonRayCluster)

    async def resize(self, name: str, workers: Mapping[str, int]) -> LeptonRayCluster:
        """Args: workers: how many each group is to have, by its name; "" where there is one."""
        groups = [
            {"group_name": group or None, "min_replicas": many} for group, many in workers.items()
        ]
        patch = merge_patch(spec={"worker_group_specs": groups})
        return await self._calls.read(patch_of(patch, "rayclusters", name), LeptonRayCluster)

    async def stop(self, name: str) -> LeptonRayCluster:
        """End its head and workers, and what runs on them; the cluster is kept."""
        patch = merge_patch(spec={"suspend": True})
        return await self._calls.read(patch_of(patch, "rayclusters", name), LeptonRayCluster)

    async def start(self, name: str) -> LeptonRayCluster:
        patch = merge_patch(spec={"suspend": False})
        return await self._calls.read(patch_of(patch, "rayclusters", name), LeptonRayCluster)

    async def remove(self, name: str) -> None:
        """Stop it, and forget it with its logs."""
        await self._calls.ask(delete_of("rayclusters", name))

    async def replicas(self, name: str) -> Sequence[Replica]:
        """Its nodes, the head first."""
        return await self._calls.read(get_of("rayclusters", name, "replicas"), list[Replica])

    async def events(self, name: str) -> Sequence[LeptonEvent]:
        return await self._calls.read(get_of("rayclusters", name, "events"), list[LeptonEvent])

    async def why(self, name: str) -> Explanation:
        """Why it is in the state it is in, and what would change that."""
        return await self._calls.read(get_of("rayclusters", name, "why"), Explanation)

    def log(
        self, name: str, replica_id: str, *, follow: bool = True, tail: int | None = None
    ) -> Feed[str]:
        """What Ray says on one node, as of `Jobs.log`; what Ray jobs print is in their own logs."""
        request = get_of(
            *("rayclusters", name, "replicas", replica_id, "log"), follow=follow, tail=tail
        )
        return self._calls.lines(request)

    def dashboard(self, name: str) -> str:
        """The URL for `ray job submit --address`, or Ray's JobSubmissionClient; whoever asks there
        sends a token of this workspace."""
        return f"{self._calls.connection.url}{path_of('rayclusters', name, 'dashboard')}"

    async def wait_ready(self, name: str, timeout_s: float | None = None) -> LeptonRayCluster:
        """Return it when its head and all its workers are ready.

        Raises:
            Conflict: it was stopped.
            TryLater: not in time; the message says how far it is.
        """
        looks = AsyncLooks(timeout_s)
        while True:
            cluster = await self.get(name)
            state = cluster.status.state if cluster.status else RayClusterState.STARTING
            if state is RayClusterState.READY:
                return cluster
            if state in (RayClusterState.STOPPING, RayClusterState.STOPPED):
                raise Conflict(
                    f"Ray cluster {name} is {state}",
                    hint=f"start it: `leptonai raycluster start {name}`",
                )
            if looks.are_over:
                told = cluster.status.message if cluster.status else None
                raise TryLater(
                    f"Ray cluster {name} is still {state}" + (f": {told}" if told else ""),
                    hint=f"see `leptonai raycluster why {name}`",
                )
            await looks.pause()
