"""The SDK: `asynchronous.py` as `tools/derive_sync_client.py` made it sync; change that."""

import random
import secrets as entropy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from msgspec import structs

from leptonai.client.connection import Connection, resolve
from leptonai.client.http_sync import Http, Feed, in_thread, pause
from leptonai.client.messages import (
    ANSWER_TIMEOUT_S,
    Answer,
    Cut,
    Lines,
    NotReached,
    Parameter,
    Request,
    Told,
    encode,
    is_done_already,
    may_try_again,
    merge_patch,
    path_of,
    pause_s,
    skip_bytes,
)
from leptonai.errors import (
    Conflict,
    Internal,
    InvalidRequest,
    LeptonError,
    NotFound,
    RangeNotSatisfiable,
    TryLater,
    Unavailable,
)
from leptonai.spec.artifacts import Artifact, ArtifactSpec
from leptonai.spec.endpoints import (
    EndpointState,
    LeptonDeployment,
    ReadinessReason,
    RequestHistory,
    TerminationReason,
)
from leptonai.spec.explanations import Explanation
from leptonai.spec.ingress import IngressEndpoint, IngressSpec, LeptonIngress
from leptonai.spec.jobs import JobList, JobState, LeptonJob
from leptonai.spec.metadata import Metadata
from leptonai.spec.nodes import DedicatedNodeGroup, Node, Shape, Volume
from leptonai.spec.pods import PodLogin
from leptonai.spec.quotas import Quota, QuotaSpec
from leptonai.spec.rayclusters import LeptonRayCluster, RayClusterState
from leptonai.spec.replicas import LeptonEvent, LogAnswer, LogLine, Replica
from leptonai.spec.reservations import NodeReservation, ReservationSpec, Verdict
from leptonai.spec.rollouts import Rollout, RolloutPlan
from leptonai.spec.runs import (
    Resume,
    Run,
    RunArtifact,
    RunEnd,
    RunList,
    RunMetrics,
    RunSpec,
    RunState,
)
from leptonai.spec.storage import (
    DataSourceList,
    DataSourceSpec,
    FileDigest,
    FileEntry,
    FileSystemStatus,
    StorageDataSource,
    StoragePermission,
    UploadState,
)
from leptonai.spec.templates import LeptonTemplate, RenderedTemplate, TemplateSpec
from leptonai.spec.tokens import IssuedToken, NewToken, TokenInfo
from leptonai.spec.values import (
    MAX_KEY_BYTES,
    KeyList,
    KeySpace,
    ObjectFacts,
    ObjectLink,
    ObjectList,
    Queue,
    QueueLength,
    QueueMessage,
)
from leptonai.spec.workspace import SecretItem, WorkspaceInfo
from leptonai.training.keras.wrapping import wrap as teach_keras

if TYPE_CHECKING:
    from leptonai.data.shelf import Arriving, Shelf

PART_BYTES = 8 << 20  # of an upload, sent at once
UPLOAD_TRIES = 5  # that follow one that was cut off

T = TypeVar("T")
Progress = Callable[[int, int], None]  # bytes done, bytes in all
JobQueryMode = Literal["alive_only", "archive_only", "alive_and_archive"]

RETRY_FOR_S = 10.0  # a restart of the platform takes less
PAGE_SIZE = 500
KEYS_PAGE = 1_000
OCTETS = "application/octet-stream"
LOG_PAGE_LINES = 10_000
FIRST_LOOK_S = 0.02  # between two looks at what is waited for; grows to the longest
LONGEST_LOOK_S = 1.0
FINISHED = (JobState.COMPLETED, JobState.FAILED, JobState.STOPPED, JobState.ARCHIVED)


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
        self._calls = _Calls(self.connection, retry_for_s=retry_for_s, timeout_s=timeout_s)
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
        return self._calls.read(_patch(patch, "workspace"), WorkspaceInfo)

    def workspace(self) -> WorkspaceInfo:
        return self._calls.read(Request(method="GET", path="/workspace"), WorkspaceInfo)

    def close(self) -> None:
        self._calls.http.close()

    def __enter__(self) -> "LeptonClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Jobs:
    """Commands that a gang of workers runs to their end."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def create(self, job: LeptonJob, *, idempotency_key: str | None = None) -> LeptonJob:
        """Submit a job; `metadata.name` (or `id`) is its name, and its id comes back.

        The same key never makes a second job: pass your own to be able to repeat the call after a
        crash of your program.

        Raises:
            InvalidRequest, Unsatisfiable: nothing was created.
            Unavailable: the platform does not answer; the job may exist.
        """
        return self._calls.read(
            _post("/jobs", _submitted(job), idempotency_key or _new_key()), LeptonJob
        )

    def dry_run(self, job: LeptonJob) -> LeptonJob:
        """The job as it would be created, and in its `explanation` where it would start now, or
        why it would wait, until when, and what would start it now. Nothing is created."""
        return self._calls.read(
            _post("/jobs?dry_run=true", _submitted(job), _new_key()), LeptonJob
        )

    def get(self, id: str) -> LeptonJob:
        return self._calls.read(
            _get("jobs", id, job_query_mode="alive_and_archive"), LeptonJob
        )

    def find(self, name_or_id: str) -> LeptonJob:
        """The job with this id, else the newest one with exactly this name.

        Raises:
            NotFound: there is none.
        """
        try:
            return self.get(name_or_id)
        except NotFound:
            similar = self.list(mode="alive_and_archive", q=name_or_id)
        named = [job for job in similar if job.metadata.name == name_or_id]
        if not named:
            raise NotFound(
                f"no job has the name or the id {name_or_id!r}",
                hint="see `leptonai job list --all`",
            )
        return max(named, key=lambda job: (job.metadata.created_at or 0, job.metadata.id or ""))

    def stop(self, id: str) -> None:
        """Ask for its end; what has already ended stays as it is."""
        self._calls.ask(_patch(merge_patch(spec={"stopped": True}), "jobs", id))

    def start(self, id: str) -> None:
        """Let a stopped job run again, from its beginning."""
        self._calls.ask(_patch(merge_patch(spec={"stopped": False}), "jobs", id))

    def note_checkpoint(self, id: str) -> None:
        """Say that it has just saved all it needs to go on from here.

        A job that has to give way to another is chosen by how little it loses. Its own token
        (`include_workspace_token`) may do this, with the id in LEPTON_JOB_NAME.
        """
        self._calls.ask(Request(method="PUT", path=path_of("jobs", id, "checkpoint")))

    def remove(self, id: str) -> None:
        """Stop it if it runs, and forget it with its logs."""
        self._calls.ask(_delete("jobs", id, job_query_mode="alive_and_archive"))

    def replicas(self, id: str, *, all_rounds: bool = False) -> Sequence[Replica]:
        """Its workers; with `all_rounds`, first those of the gangs that were formed before."""
        request = _get(
            *("jobs", id, "replicas"),
            job_query_mode="alive_and_archive",
            all_rounds=all_rounds or None,
        )
        return self._calls.read(request, list[Replica])

    def events(self, id: str) -> Sequence[LeptonEvent]:
        return self._calls.read(_get("jobs", id, "events"), list[LeptonEvent])

    def why(self, id: str) -> Explanation:
        """Why it is in the state it is in, and what would change that."""
        return self._calls.read(_get("jobs", id, "why"), Explanation)

    def log(
        self, id: str, replica_id: str, *, follow: bool = True, tail: int | None = None
    ) -> Feed[str]:
        """The lines of one worker from its beginning, or the last `tail` of its present try; with
        `follow`, until it has ended.

        A line that is still being written comes when it is complete, or at the end.
        """
        request = _get("jobs", id, "replicas", replica_id, "log", follow=follow, tail=tail)
        return self._calls.lines(request)

    def history(
        self,
        id: str,
        start_ns: int,
        end_ns: int,
        *,
        replica_id: str | None = None,
        q: str | None = None,
        last: int | None = None,
    ) -> Feed[LogLine]:
        """The lines of start <= time < end, or the last ones, that hold `q`: oldest first, each
        with its nanosecond since 1970."""
        return self._calls.history(start_ns, end_ns, last, job=id, replica=replica_id, q=q)

    def wait(self, id: str, timeout_s: float | None = None) -> LeptonJob:
        """Return it when it has ended, however it ended.

        Raises:
            TryLater: it has not ended in time.
        """
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        look_s = FIRST_LOOK_S
        while True:
            job = self.get(id)
            state = job.status.state if job.status else JobState.QUEUEING
            if state in FINISHED:
                return job
            if give_up is not None and time.monotonic() + look_s > give_up:
                raise TryLater(
                    f"job {id} is still {state} after {timeout_s:g} s",
                    hint=f"see `leptonai job why {id}`",
                )
            pause(look_s)
            look_s = min(LONGEST_LOOK_S, look_s * 1.3)

    def list(
        self,
        *,
        mode: JobQueryMode = "alive_only",
        q: str | None = None,
        status: Sequence[str] = (),
        created_by: Sequence[str] = (),
        node_groups: Sequence[str] = (),
        labels: str | None = None,
        limit: int | None = None,
    ) -> Sequence[LeptonJob]:
        """The jobs for which all of this holds.

        Args:
            mode: with or without those whose time to live after their end is over.
            q: a part of the name or of the id.
            status: beginnings of states: any of them, in any case.
            labels: `key` or `key=value`, several joined by commas.
            limit: at most as many.
        """
        found: dict[str, LeptonJob] = {}  # by id: a page may repeat what the one before had
        for jobs in self._calls.pages(
            lambda answer: answer.read(JobList).jobs,
            "jobs",
            job_query_mode=mode,
            q=q or None,
            status=[*status] or None,
            created_by=[*created_by] or None,
            node_groups=[*node_groups] or None,
            query=labels or None,
            page_size=PAGE_SIZE if limit is None else max(1, min(PAGE_SIZE, limit)),
        ):
            found |= {job.metadata.id or "": job for job in jobs}
            if limit is not None and len(found) >= limit:
                break
        return [*found.values()][:limit]


class Endpoints:
    """Servers behind the gateway."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def create(
        self, endpoint: LeptonDeployment, *, idempotency_key: str | None = None
    ) -> LeptonDeployment:
        """Raises:
        AlreadyExists: the name is taken.
        """
        body = LeptonDeployment(metadata=_named(endpoint.metadata), spec=endpoint.spec)
        return self._calls.read(
            _post("/deployments", body, idempotency_key or _new_key()), LeptonDeployment
        )

    def dry_run(self, endpoint: LeptonDeployment) -> LeptonDeployment:
        """The endpoint as it would be created, and in its `explanation` what would become of its
        first replica. Nothing is created."""
        body = LeptonDeployment(metadata=_named(endpoint.metadata), spec=endpoint.spec)
        return self._calls.read(
            _post("/deployments?dry_run=true", body, _new_key()), LeptonDeployment
        )

    def get(self, name: str) -> LeptonDeployment:
        return self._calls.read(_get("deployments", name), LeptonDeployment)

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
        return self._calls.read(_patch(encode(asked), "deployments", name), LeptonDeployment)

    def rollout(self, name: str) -> Rollout:
        """How its newest revision takes over, or how that ended.

        Raises:
            NotFound: there was no roll-out yet.
        """
        return self._calls.read(_get("deployments", name, "rollout"), Rollout)

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
        self._calls.ask(_delete("deployments", name))

    def restart(self, name: str) -> LeptonDeployment:
        """Replace every replica, one after another."""
        return self._calls.read(
            Request(method="PUT", path=path_of("deployments", name, "restart")), LeptonDeployment
        )

    def replicas(self, name: str) -> Sequence[Replica]:
        return self._calls.read(_get("deployments", name, "replicas"), list[Replica])

    def events(self, name: str) -> Sequence[LeptonEvent]:
        return self._calls.read(_get("deployments", name, "events"), list[LeptonEvent])

    def readiness(self, name: str) -> Mapping[str, Sequence[ReadinessReason]]:
        """Why each replica is ready or not, by its id."""
        return self._calls.read(
            _get("deployments", name, "readiness"), dict[str, list[ReadinessReason]]
        )

    def terminations(self, name: str) -> Mapping[str, Sequence[TerminationReason]]:
        """How replicas ended, by their id."""
        return self._calls.read(
            _get("deployments", name, "termination"), dict[str, list[TerminationReason]]
        )

    def why(self, name: str) -> Explanation:
        """Why it is in the state it is in, and what would change that."""
        return self._calls.read(_get("deployments", name, "why"), Explanation)

    def log(
        self, name: str, replica_id: str, *, follow: bool = True, tail: int | None = None
    ) -> Feed[str]:
        """The lines of one replica from its beginning, or the last `tail` of its present try; with
        `follow`, until it has ended."""
        request = _get("deployments", name, "replicas", replica_id, "log", follow=follow, tail=tail)
        return self._calls.lines(request)

    def requests(self, name: str) -> RequestHistory:
        """How many requests it got in the last days, where it is scaled by a target."""
        return self._calls.read(_get("deployments", name, "requests"), RequestHistory)

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
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        look_s = FIRST_LOOK_S
        while True:
            endpoint = self.get(name)
            state = _endpoint_state(endpoint)
            if state is EndpointState.READY:
                return endpoint
            if state in (EndpointState.STOPPING, EndpointState.STOPPED, EndpointState.DELETING):
                raise Conflict(
                    f"endpoint {name} is {state}, so it will not get ready",
                    hint=f"give it replicas: `leptonai endpoint update {name} --replicas 1`",
                )
            if give_up is not None and time.monotonic() + look_s > give_up:
                told = endpoint.status.message if endpoint.status else None
                raise TryLater(
                    f"endpoint {name} is still {state} after {timeout_s:g} s"
                    + (f": {told}" if told else ""),
                    hint=f"see `leptonai endpoint why {name}` and `leptonai endpoint log {name}`",
                )
            pause(look_s)
            look_s = min(LONGEST_LOOK_S, look_s * 1.3)

    def list(self) -> Sequence[LeptonDeployment]:
        found = self._calls.read(_get("deployments"), list[LeptonDeployment])
        return [endpoint for endpoint in found if not endpoint.spec.is_pod]


class Pods:
    """Machines to work in. What is done in one, by WebSocket, is in `client.sessions`."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def create(
        self, pod: LeptonDeployment, *, idempotency_key: str | None = None
    ) -> LeptonDeployment:
        """Raises:
        AlreadyExists: the name is taken, by a pod or by an endpoint.
        """
        spec = structs.replace(pod.spec, is_pod=True)
        body = LeptonDeployment(metadata=_named(pod.metadata), spec=spec)
        return self._calls.read(
            _post("/deployments", body, idempotency_key or _new_key()), LeptonDeployment
        )

    def get(self, name: str) -> LeptonDeployment:
        """Raises:
        NotFound: there is none of this name; an endpoint is none.
        """
        found = self._calls.read(_get("deployments", name), LeptonDeployment)
        if not found.spec.is_pod:
            raise NotFound(
                f"{name} is an endpoint, and no pod", hint="`leptonai pod list` shows the pods"
            )
        return found

    def list(self) -> Sequence[LeptonDeployment]:
        found = self._calls.read(_get("deployments"), list[LeptonDeployment])
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
        return self._calls.read(_patch(encode(patch), "deployments", name), LeptonDeployment)

    def remove(self, name: str, *, keep_files: bool = False) -> None:
        """Stop and forget it, with its files unless they are to stay on their node."""
        self.get(name)
        self._calls.ask(_delete("deployments", name, keep_files=keep_files or None))

    def login(self, name: str) -> PodLogin:
        """A link that lets a browser into its JupyterLab, once, within a minute."""
        path = path_of("deployments", name, "login")
        request = Request(method="POST", path=path, body=b"{}", key=_new_key())
        return self._calls.read(request, PodLogin)

    def events(self, name: str) -> Sequence[LeptonEvent]:
        return self._calls.read(_get("deployments", name, "events"), list[LeptonEvent])

    def wait_ready(self, name: str, timeout_s: float | None = None) -> LeptonDeployment:
        """Return it when people can enter it.

        Raises:
            Conflict: it was stopped.
            TryLater: it is not ready in time.
        """
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        look_s = FIRST_LOOK_S
        while True:
            pod = self.get(name)
            state = _endpoint_state(pod)
            if state is EndpointState.READY:
                return pod
            if state in (EndpointState.STOPPING, EndpointState.STOPPED, EndpointState.DELETING):
                raise Conflict(
                    f"pod {name} is {state}", hint=f"start it: `leptonai pod start {name}`"
                )
            if give_up is not None and time.monotonic() + look_s > give_up:
                told = pod.status.message if pod.status else None
                raise TryLater(
                    f"pod {name} is still {state} after {timeout_s:g} s"
                    + (f": {told}" if told else ""),
                    hint=f"see `leptonai endpoint why {name}`",
                )
            pause(look_s)
            look_s = min(LONGEST_LOOK_S, look_s * 1.3)

    def _resize(self, name: str, replicas: int) -> LeptonDeployment:
        pod = self.get(name)
        if pod.spec.replicas == replicas:
            return pod
        patch = {"spec": {"resource_requirement": {"min_replicas": replicas}}}
        return self._calls.read(_patch(encode(patch), "deployments", name), LeptonDeployment)


class Nodes:
    """Machines, and the shapes that workloads may ask for."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def groups(self) -> list[DedicatedNodeGroup]:
        return self._calls.read(_get("dedicated-node-groups"), list[DedicatedNodeGroup])

    def nodes(self, group_id: str) -> list[Node]:
        return self._calls.read(_get("dedicated-node-groups", group_id, "nodes"), list[Node])

    def shapes(self) -> list[Shape]:
        return self._calls.read(_get("shapes"), list[Shape])


class Reservations:
    """Nodes of a group that are kept for some users, for some time."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def ask(self, group_id: str, name: str, spec: ReservationSpec) -> NodeReservation:
        """It keeps nothing until an admin approves it."""
        asked = NodeReservation(metadata=Metadata(name=name), spec=spec)
        path = path_of("dedicated-node-groups", group_id, "reservations")
        return self._calls.read(_post(path, asked, key=""), NodeReservation)

    def list(self, group_id: str) -> Sequence[NodeReservation]:
        path = ("dedicated-node-groups", group_id, "reservations")
        return self._calls.read(_get(*path), list[NodeReservation])

    def decide(self, group_id: str, id: str, verdict: Verdict) -> NodeReservation:
        """For admins."""
        path = path_of("dedicated-node-groups", group_id, "reservations", id, "verdict")
        request = Request(method="PUT", path=path, body=encode(verdict))
        return self._calls.read(request, NodeReservation)

    def remove(self, group_id: str, id: str) -> None:
        self._calls.ask(_delete("dedicated-node-groups", group_id, "reservations", id))


class Ingresses:
    """Domains, and the endpoints that share their requests."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def create(
        self, domain: str, shares: Mapping[str, int] | None = None, name: str | None = None
    ) -> LeptonIngress:
        """Args: shares: the weight of each endpoint, by its name."""
        endpoints = [IngressEndpoint(deployment=e, weight=w) for e, w in (shares or {}).items()]
        spec = IngressSpec(domain_name=domain, endpoints=endpoints or None)
        asked = LeptonIngress(metadata=Metadata(name=name), spec=spec)
        return self._calls.read(_post("/ingress", asked, key=""), LeptonIngress)

    def list(self) -> Sequence[LeptonIngress]:
        return self._calls.read(_get("ingress"), list[LeptonIngress])

    def get(self, name: str) -> LeptonIngress:
        return self._calls.read(_get("ingress", name), LeptonIngress)

    def share(self, name: str, shares: Mapping[str, int]) -> LeptonIngress:
        """Lead to these endpoints, by weight, and to no others."""
        endpoints = [{"deployment": each, "weight": weight} for each, weight in shares.items()]
        patch = merge_patch(spec={"endpoints": endpoints})
        return self._calls.read(_patch(patch, "ingress", name), LeptonIngress)

    def remove(self, name: str) -> None:
        self._calls.ask(_delete("ingress", name))


class RayClusters:
    """Ray: a head, and groups of workers, on which Ray jobs run."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def create(self, cluster: LeptonRayCluster) -> LeptonRayCluster:
        """`metadata.name` is its name. It is started at once; `wait_ready` waits for it."""
        return self._calls.read(_post("/rayclusters", cluster, key=""), LeptonRayCluster)

    def list(self) -> Sequence[LeptonRayCluster]:
        return self._calls.read(_get("rayclusters"), list[LeptonRayCluster])

    def get(self, name: str) -> LeptonRayCluster:
        return self._calls.read(_get("rayclusters", name), LeptonRayCluster)

    def resize(self, name: str, workers: Mapping[str, int]) -> LeptonRayCluster:
        """Args: workers: how many each group is to have, by its name; "" where there is one."""
        groups = [
            {"group_name": group or None, "min_replicas": many} for group, many in workers.items()
        ]
        patch = merge_patch(spec={"worker_group_specs": groups})
        return self._calls.read(_patch(patch, "rayclusters", name), LeptonRayCluster)

    def stop(self, name: str) -> LeptonRayCluster:
        """End its head and workers, and what runs on them; the cluster is kept."""
        patch = merge_patch(spec={"suspend": True})
        return self._calls.read(_patch(patch, "rayclusters", name), LeptonRayCluster)

    def start(self, name: str) -> LeptonRayCluster:
        patch = merge_patch(spec={"suspend": False})
        return self._calls.read(_patch(patch, "rayclusters", name), LeptonRayCluster)

    def remove(self, name: str) -> None:
        """Stop it, and forget it with its logs."""
        self._calls.ask(_delete("rayclusters", name))

    def replicas(self, name: str) -> Sequence[Replica]:
        """Its nodes, the head first."""
        return self._calls.read(_get("rayclusters", name, "replicas"), list[Replica])

    def events(self, name: str) -> Sequence[LeptonEvent]:
        return self._calls.read(_get("rayclusters", name, "events"), list[LeptonEvent])

    def why(self, name: str) -> Explanation:
        """Why it is in the state it is in, and what would change that."""
        return self._calls.read(_get("rayclusters", name, "why"), Explanation)

    def log(
        self, name: str, replica_id: str, *, follow: bool = True, tail: int | None = None
    ) -> Feed[str]:
        """What Ray says on one node, as of `Jobs.log`; what Ray jobs print is in their own logs."""
        request = _get(
            *("rayclusters", name, "replicas", replica_id, "log"), follow=follow, tail=tail
        )
        return self._calls.lines(request)

    def dashboard(self, name: str) -> str:
        """The URL for `ray job submit --address`, or Ray's JobSubmissionClient; whoever asks there
        sends a token of this workspace."""
        return f"{self._calls.connection.url}{path_of('rayclusters', name, 'dashboard')}"

    def wait_ready(self, name: str, timeout_s: float | None = None) -> LeptonRayCluster:
        """Return it when its head and all its workers are ready.

        Raises:
            Conflict: it was stopped.
            TryLater: not in time; the message says how far it is.
        """
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        look_s = FIRST_LOOK_S
        while True:
            cluster = self.get(name)
            state = cluster.status.state if cluster.status else RayClusterState.STARTING
            if state is RayClusterState.READY:
                return cluster
            if state in (RayClusterState.STOPPING, RayClusterState.STOPPED):
                raise Conflict(
                    f"Ray cluster {name} is {state}",
                    hint=f"start it: `leptonai raycluster start {name}`",
                )
            if give_up is not None and time.monotonic() + look_s > give_up:
                told = cluster.status.message if cluster.status else None
                raise TryLater(
                    f"Ray cluster {name} is still {state}" + (f": {told}" if told else ""),
                    hint=f"see `leptonai raycluster why {name}`",
                )
            pause(look_s)
            look_s = min(LONGEST_LOOK_S, look_s * 1.3)


class Templates:
    """Workloads with parameters; `scope` is "public" or "private"."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def create(self, name: str, spec: TemplateSpec) -> LeptonTemplate:
        asked = LeptonTemplate(metadata=Metadata(name=name), spec=spec)
        return self._calls.read(_post("/templates/private", asked, key=""), LeptonTemplate)

    def list(self, scope: str) -> Sequence[LeptonTemplate]:
        return self._calls.read(_get("templates", scope), list[LeptonTemplate])

    def get(self, scope: str, name: str) -> LeptonTemplate:
        return self._calls.read(_get("templates", scope, name), LeptonTemplate)

    def render(self, scope: str, name: str, values: Mapping[str, Any]) -> RenderedTemplate:
        path = path_of("templates", scope, name, "render")
        return self._calls.read(_post(path, dict(values), key=""), RenderedTemplate)

    def remove(self, name: str) -> None:
        self._calls.ask(_delete("templates", "private", name))


class Quotas:
    """What users and projects are guaranteed. `kind` is "user" or "project"."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def set(self, kind: str, name: str, spec: QuotaSpec) -> Quota:
        """In place of the one there was. For admins."""
        path = path_of("quotas", f"{kind}s", name)
        return self._calls.read(Request(method="PUT", path=path, body=encode(spec)), Quota)

    def remove(self, kind: str, name: str) -> None:
        self._calls.ask(_delete("quotas", f"{kind}s", name))

    def list(self) -> Sequence[Quota]:
        return self._calls.read(_get("quotas"), list[Quota])


class Secrets:
    """Values that workloads get and nobody can read back."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def create(self, name: str, value: str) -> None:
        """Raises:
        AlreadyExists: the name is taken.
        """
        body = [SecretItem(name=name, value=value)]
        self._calls.ask(_post("/usersecrets", body, key=""))

    def remove(self, name: str) -> None:
        self._calls.ask(_delete("usersecrets", name))

    def list(self) -> Sequence[SecretItem]:
        """Their names, never their values."""
        return self._calls.read(_get("usersecrets"), list[SecretItem])


class Tokens:
    """What lets people in."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def create(
        self,
        name: str,
        role: Literal["member", "admin"] = "member",
        *,
        expires_at_ms: int | None = None,
    ) -> IssuedToken:
        """A token for a person, by their name. Its `value` is told this once. For admins."""
        asked = NewToken(name=name, role=role, expires_at=expires_at_ms)
        return self._calls.read(_post("/tokens", asked, key=""), IssuedToken)

    def list(self) -> Sequence[TokenInfo]:
        """One's own, and all of them for an admin; masked."""
        return self._calls.read(_get("tokens"), list[TokenInfo])

    def remove(self, id: str) -> None:
        """Who has it is not let in any more. One's own; for admins any."""
        self._calls.ask(_delete("tokens", id))


class Storage:
    """Volumes and their files. A path is that in its volume."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def volumes(self) -> Mapping[str, Sequence[Volume]]:
        """By node group."""
        groups = self._calls.read(_get("dedicated-node-groups"), list[DedicatedNodeGroup])
        return {group.metadata.id or "": group.spec.volumes or [] for group in groups}

    def add_volume(self, group: str, volume: Volume) -> None:
        path = path_of("dedicated-node-groups", group, "volumes")
        self._calls.ask(_post(path, volume, key=""))

    def delete_volume(self, group: str, name: str, *, with_data: bool = False) -> None:
        """Its files stay, unless they are to go too."""
        where = ("dedicated-node-groups", group, "volumes", name)
        self._calls.ask(_delete(*where, delete_data=with_data))

    def add_data_source(self, group: str, source: DataSourceSpec) -> None:
        """A bucket, which workloads may then be given a profile of."""
        path = path_of("dedicated-node-groups", group, "datasources")
        self._calls.ask(_post(path, source, key=""))

    def data_sources(self, group: str) -> Sequence[StorageDataSource]:
        path = ("dedicated-node-groups", group, "datasources")
        return (self._calls.read(_get(*path), DataSourceList)).items

    def data_source(self, group: str, name: str) -> StorageDataSource:
        path = ("dedicated-node-groups", group, "datasources", name)
        return self._calls.read(_get(*path), StorageDataSource)

    def update_data_source(self, group: str, source: DataSourceSpec) -> StorageDataSource:
        """Its description, credentials and permissions; permissions that are left out go."""
        path = ("dedicated-node-groups", group, "datasources", source.name)
        return self._calls.read(_patch(encode(source), *path), StorageDataSource)

    def delete_data_source(self, group: str, name: str) -> None:
        """Its objects stay."""
        self._calls.ask(_delete("dedicated-node-groups", group, "datasources", name))

    def permissions(self, volume: str) -> Sequence[StoragePermission]:
        return self._calls.read(_get("storage-permission", volume), list[StoragePermission])

    def permit(self, volume: str, rule: StoragePermission) -> None:
        self._calls.ask(_post(path_of("storage-permission", volume), rule, key=""))

    def forbid(self, volume: str, path: str) -> None:
        parts = ("storage-permission", volume, *_in_volume(path))
        self._calls.ask(_delete(*parts))

    def entry(self, volume: str, path: str) -> FileEntry | None:
        """Of a file or directory; None where there is none."""
        *above, name = _in_volume(path) or [""]
        if not name:
            return FileEntry(type="dir", name="", path="/")
        try:
            found = self.list(volume, "/".join(above))
        except NotFound:
            return None
        return next((entry for entry in found if entry.name == name), None)

    def list(self, volume: str, path: str = "") -> Sequence[FileEntry]:
        """What is in a directory, by name."""
        request = _get("storage", volume, *_in_volume(path))
        answer = self._calls.ask(request)
        if answer.headers.get("content-type", "").startswith("application/octet-stream"):
            raise Conflict(f"{path} is a file", hint="list the directory that it is in")
        return answer.read(list[FileEntry])

    def usage_bytes(self, volume: str, path: str = "") -> int:
        """What the files at and below a path take."""
        request = _get("storage", volume, *_in_volume(path), usage=True)
        return (self._calls.read(request, FileSystemStatus)).total_usage_bytes

    def make_directory(self, volume: str, path: str) -> None:
        """With those above it."""
        self._calls.ask(
            Request(method="PUT", path=path_of("storage", volume, *_in_volume(path)))
        )

    def remove(self, volume: str, path: str, *, recursive: bool = False) -> None:
        parts = ("storage", volume, *_in_volume(path))
        self._calls.ask(_delete(*parts, removeall=recursive or None))

    def move(self, volume: str, path: str, to: str) -> None:
        """In one step; what is there already is not replaced."""
        where = path_of("storage", volume, *_in_volume(path), move_to=to)
        self._calls.ask(Request(method="POST", path=where, body=b""))

    def upload(
        self, file: Path, volume: str, path: str, progress: Progress | None = None
    ) -> None:
        """Send a file, in place of what was there. One that was cut off goes on where it was. It
        appears when all of it is there and has the digest that it has here.

        Raises:
            Conflict: the file changed while it was sent.
        """
        told, total = in_thread(_digest_of, file)
        digest = told.removeprefix("sha256:")
        parts = ("storage", volume, *_in_volume(path))
        upload = digest[:32]
        failed = 0
        while True:
            state = self._calls.read(_get(*parts, upload=upload), UploadState)
            try:
                # If all of it is there, its end is sent again: only then it takes its place.
                start = min(state.received_bytes, max(0, total - 1))
                self._send(file, parts, upload, digest, start, total, progress)
                return
            except (Unavailable, Conflict):
                failed += 1
                if failed > UPLOAD_TRIES:
                    raise
                pause(pause_s(failed, random.random()))  # noqa: S311 - no secret

    def _send(
        self,
        file: Path,
        parts: tuple[str, ...],
        upload: str,
        digest: str,
        start: int,
        total: int,
        progress: Progress | None,
    ) -> None:
        where = path_of(*parts, upload=upload, sha256=digest)
        if total == 0:
            self._calls.ask(Request(method="POST", path=where, body=b""))
        while start < total:
            data = in_thread(_part_of, file, start)
            if not data:
                raise Conflict(f"{file} became shorter", hint="upload it again")
            said = f"bytes {start}-{start + len(data) - 1}/{total}"
            request = Request(method="POST", path=where, body=data, content_range=said)
            self._calls.ask(request)
            start += len(data)
            if progress is not None:
                progress(start, total)

    def download(
        self, volume: str, entry: FileEntry, to: Path, progress: Progress | None = None
    ) -> None:
        """Fetch a file. What has come of it is kept beside its place, for the next try.

        Raises:
            Internal: what arrived is something else; nothing of it stays.
        """
        parts = ("storage", volume, *_in_volume(entry.path))
        draft = to.with_name(f".{to.name}.{entry.size_bytes:x}-{entry.modified_at:x}.part")
        start = draft.stat().st_size if draft.exists() else 0
        if start < entry.size_bytes:
            path = path_of(*parts)
            request = Request(method="GET", path=path, ranged=True, start=start)
            with draft.open("ab") as file:
                with closing(self._calls.chunks(request)) as chunks:
                    for chunk in chunks:
                        in_thread(file.write, chunk)
                        start += len(chunk)
                        if progress is not None:
                            progress(start, entry.size_bytes)
        elif not draft.exists():
            draft.touch()
        told = self._calls.read(_get(*parts, digest=True), FileDigest)
        digest, _ = in_thread(_digest_of, draft)
        if digest != f"sha256:{told.sha256}":
            draft.unlink()
            raise Internal(
                f"{entry.path} is not what arrived, or changed meanwhile", hint="download it again"
            )
        draft.replace(to)


class KeySpaces:
    """Small values by key, for workloads to share."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def create(self, name: str) -> KeySpace:
        path = path_of("kv", "namespaces", name)
        return self._calls.read(Request(method="POST", path=path), KeySpace)

    def list(self) -> Sequence[KeySpace]:
        return self._calls.read(_get("kv", "namespaces"), list[KeySpace])

    def remove(self, name: str) -> None:
        """With all its values."""
        self._calls.ask(_delete("kv", "namespaces", name))

    def keys(self, space: str, prefix: str = "") -> Feed[str]:
        """In the order in which they were first put."""
        where, cursor = ("kv", "namespaces", space, "keys"), 0
        while True:
            request = _get(*where, prefix=prefix or None, cursor=cursor, limit=KEYS_PAGE)
            page = self._calls.read(request, KeyList)
            for key in page.keys:
                yield key
            if not page.cursor:
                return
            cursor = page.cursor

    def get(self, space: str, key: str) -> bytes:
        """Raises:
        NotFound: nothing was put there.
        """
        return (self._calls.ask(_get(*_value_at(space, key)))).body

    def put(self, space: str, key: str, value: bytes) -> None:
        """In place of what was there."""
        path = path_of(*_value_at(space, key))
        # Putting the same twice is putting it once, so it has a key.
        self._calls.ask(
            Request(method="POST", path=path, body=value, media=OCTETS, key=_new_key())
        )

    def delete(self, space: str, key: str) -> None:
        """Also one that is not there."""
        self._calls.ask(_delete(*_value_at(space, key)))


class Queues:
    """Messages that workloads hand each other: each goes to one receiver at most."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def create(self, name: str) -> Queue:
        return self._calls.read(_post("/queue", Queue(name=name), key=""), Queue)

    def list(self) -> Sequence[Queue]:
        return self._calls.read(_get("queue"), list[Queue])

    def remove(self, name: str) -> None:
        """With all its messages."""
        self._calls.ask(_delete("queue", name))

    def length(self, name: str) -> int:
        """How many messages wait."""
        return (self._calls.read(_get("queue", name, "length"), QueueLength)).length

    def send(self, name: str, message: str) -> None:
        """At the end. The same text, sent within five minutes, is one message: so it is sent again
        when no answer comes."""
        path = path_of("queue", name, "messages")
        self._calls.ask(_post(path, QueueMessage(message=message), key=_new_key()))

    def receive(self, name: str, *, timeout_s: float = 0.0) -> str | None:
        """Take the first message, and wait for one as long as that; None where none came.

        Raises:
            Unavailable: no answer came; the message that it may have held is lost.
        """
        request = replace(_get("queue", name, "messages"), once=True)
        give_up, look_s = time.monotonic() + timeout_s, FIRST_LOOK_S
        while True:
            if found := self._calls.read(request, list[QueueMessage]):
                return found[0].message
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                return None
            pause(min(left_s, look_s))
            look_s = min(2 * look_s, LONGEST_LOOK_S)


class Objects:
    """Files under names of the user's choice. `bucket` is "private", whose objects only their
    owners see, or "public", whose objects everybody in the workspace reads."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def list(self, bucket: str, prefix: str = "") -> Feed[ObjectFacts]:
        """By their keys."""
        after = ""
        while True:
            request = _get(
                "object_storage", bucket, prefix=prefix or None, continuation=after or None
            )
            page = self._calls.read(request, ObjectList)
            for item in page.items:
                yield item
            after = page.nextContinuationToken
            if not after:
                return

    def put(
        self, bucket: str, key: str, file: Path, progress: Progress | None = None
    ) -> None:
        """In place of what was there, when all of it has come."""
        try:
            told = _telling(progress, file.stat().st_size)
        except FileNotFoundError as missing:
            raise NotFound(f"there is no {file}", hint="check the path") from missing
        path = path_of("objects", bucket, *_key_parts(key))
        self._calls.ask(Request(method="PUT", path=path, body=file, told=told))

    def get(self, bucket: str, key: str, to: Path, progress: Progress | None = None) -> None:
        """Fetch one into a file. What has come of it is kept beside its place, for the next try.

        Raises:
            Internal: what arrived is something else; nothing of it stays.
        """
        path = path_of("objects", bucket, *_key_parts(key))
        head = self._calls.ask(Request(method="HEAD", path=path))
        size, digest = int(head.headers.get("content-length", 0)), head.headers.get("etag", "")
        digest = digest.strip('"')
        draft = to.with_name(f".{to.name}.{digest[-16:]}.part")
        start = draft.stat().st_size if draft.exists() else 0
        with draft.open("ab") as file:
            if start < size:
                request = Request(method="GET", path=path, ranged=True, start=start)
                with closing(self._calls.chunks(request)) as chunks:
                    for chunk in chunks:
                        in_thread(file.write, chunk)
                        start += len(chunk)
                        if progress is not None:
                            progress(start, size)
        arrived, _ = in_thread(_digest_of, draft)
        if arrived != digest:
            draft.unlink()
            raise Internal(
                f"{key} is not what arrived, or was replaced meanwhile", hint="fetch it again"
            )
        draft.replace(to)

    def remove(self, bucket: str, key: str) -> None:
        """Also one that is not there."""
        self._calls.ask(_delete("object_storage", bucket, *_key_parts(key)))

    def link(self, bucket: str, key: str, *, writes: bool = False) -> str:
        """A URL that reads the object, or writes it, without a token: for 15 minutes; one that
        reads a public one for seven days."""
        signed = bucket if bucket == "public" and not writes else f"{bucket}_presigned"
        path = path_of("object_storage", signed, *_key_parts(key))
        request = Request(method="PUT" if writes else "GET", path=path, linking=True)
        return (self._calls.read(request, ObjectLink)).url


class Trees:
    """Directories as blobs: what a workload's working directory, a dataset and a model are."""

    def __init__(self, calls: "_Calls", blobs: "Blobs") -> None:
        self._calls = calls
        self._blobs = blobs

    def push(self, directory: Path | str) -> str:
        """Upload what is in a directory, without what its .gitignore names, unless the platform
        has just that already; returns its digest."""
        digest, _ = self.push_sized(directory)
        return digest

    def push_sized(
        self, directory: Path | str, *, progress: Progress | None = None
    ) -> tuple[str, int]:
        """As `push`; returns the size in bytes, too."""
        from leptonai.blobs.tree import pack

        packed = in_thread(pack, Path(directory))
        size_bytes = packed.path.stat().st_size
        path = path_of("blobs", packed.digest)
        try:
            try:
                self._calls.ask(Request(method="HEAD", path=path))
            except NotFound:
                told = _telling(progress, size_bytes)
                self._calls.ask(Request(method="PUT", path=path, body=packed.path, told=told))
        finally:
            packed.path.unlink(missing_ok=True)
        return packed.digest, size_bytes

    def pull(
        self, digest: str, directory: Path | str, *, progress: Progress | None = None
    ) -> None:
        """Download a tree into a directory that is new or empty. Where that was interrupted, it
        goes on where it was.

        Raises:
            InvalidRequest: the directory is not empty.
            Internal: what arrived is not what the digest names; nothing was written.
        """
        from leptonai.blobs.tree import unpack

        target = Path(directory)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise InvalidRequest(f"{target} is not empty", hint="name a new or empty directory")
        shelf = self._calls.shelf
        self._blobs.fetch(digest, shelf, progress=progress)
        try:
            with shelf.held(digest) as tar:
                target.mkdir(parents=True, exist_ok=True)
                in_thread(unpack, tar, target)
        except FileNotFoundError as gone:
            raise Unavailable(
                f"{gone.filename} was removed meanwhile", hint="repeat the command"
            ) from gone


class Blobs:
    """Bytes by their digest."""

    def __init__(self, calls: "_Calls") -> None:
        self._calls = calls

    def has(self, digest: str) -> bool:
        """Whether the workspace has it; if so, it keeps it for an hour, whoever refers to it."""
        try:
            self._calls.ask(Request(method="HEAD", path=path_of("blobs", digest)))
        except NotFound:
            return False
        return True

    def put(self, digest: str, file: Path, *, told: Told | None = None) -> None:
        """`told`, now and then, how many bytes were sent."""
        path = path_of("blobs", digest)
        self._calls.ask(Request(method="PUT", path=path, body=file, told=told))

    def fetch(self, digest: str, shelf: "Shelf", *, progress: Progress | None = None) -> None:
        """Put it upon the shelf, unless it is there. What came of it before an interruption is not
        asked for again.

        Raises:
            Internal: what arrived is something else.
        """
        if shelf.has(digest):
            return
        arriving = in_thread(shelf.begin, digest)
        try:
            if not arriving.is_there:
                self._calls.download(digest, arriving, progress)
                in_thread(arriving.keep)
        finally:
            arriving.close()


class Artifacts:
    """Named, numbered versions of files: the datasets of a workspace, or its models."""

    def __init__(
        self,
        calls: "_Calls",
        trees: Trees,
        blobs: Blobs,
        kind: Literal["datasets", "models"],
    ) -> None:
        self._calls = calls
        self._trees = trees
        self._blobs = blobs
        self._kind: str = kind

    def push(
        self,
        name: str,
        directory: Path | str,
        *,
        format: str = "files",
        lineage: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Artifact:
        """Register what is in a directory as the next version of a name.

        Where the newest version holds the same files, that one is returned and none is made.
        """
        digest, size_bytes = self._trees.push_sized(directory, progress=progress)
        try:
            newest = self.get(name)
            if newest.spec.digest == digest:
                return newest
        except NotFound:
            pass
        spec = ArtifactSpec(
            digest=digest,
            size_bytes=size_bytes,
            format=format,
            lineage=dict(lineage or {}),
            attributes=dict(attributes or {}),
        )
        return self.register(name, spec)

    def register(self, name: str, spec: ArtifactSpec) -> Artifact:
        """Make what was uploaded the next version of a name.

        Raises:
            InvalidRequest: not all of it was uploaded.
        """
        artifact = Artifact(metadata=Metadata(name=name), spec=spec)
        return self._calls.read(_post(f"/{self._kind}", artifact, _new_key()), Artifact)

    def get(self, reference: str) -> Artifact:
        """`NAME` is its newest version, `NAME@3` the third, `NAME@best` the one of this alias."""
        return self._calls.read(_get(self._kind, reference), Artifact)

    def versions(self, name: str) -> Sequence[Artifact]:
        """Oldest first.

        Raises:
            NotFound: there is none of this name.
        """
        found = [each for each in self._all(name=name)]
        if not found:
            raise NotFound(f"{name!a} is not in the {self._kind}", hint="see the list for names")
        return sorted(found, key=lambda each: each.metadata.version or 0)

    def set_alias(self, reference: str, alias: str) -> Artifact:
        """From now on `NAME@ALIAS` is this version, and no other."""
        path = path_of(self._kind, reference, "aliases", alias)
        return self._calls.read(Request(method="PUT", path=path), Artifact)

    def drop_alias(self, reference: str, alias: str) -> None:
        self._calls.ask(_delete(self._kind, reference, "aliases", alias))

    def download(
        self,
        reference: str,
        directory: Path | str,
        *,
        progress: Progress | None = None,
    ) -> Artifact:
        """Fetch the files of a version into a directory that is new or empty.

        Args:
            progress: is told, now and then, how many bytes are there, and of how many.

        Raises:
            InvalidRequest: the directory is not empty.
        """
        artifact = self.get(reference)
        if artifact.spec.layout == "tree":
            self._trees.pull(artifact.spec.digest, directory, progress=progress)
            return artifact
        from leptonai.data.files import check_target, lay_out
        from leptonai.data.manifest import Manifest
        from leptonai.data.transfers import Fetcher

        check_target(Path(directory))
        shelf = self._calls.shelf
        self._blobs.fetch(artifact.spec.digest, shelf)
        manifest = in_thread(Manifest.open, shelf.path(artifact.spec.digest))
        fetch = Fetcher(self._calls.connection, shelf)
        in_thread(lay_out, manifest, shelf, Path(directory), fetch=fetch, progress=progress)
        return artifact

    def remove(self, reference: str) -> None:
        """`NAME` forgets all its versions, `NAME@3` the third."""
        self._calls.ask(_delete(self._kind, reference))

    def list(self) -> Sequence[Artifact]:
        """Every version of every name."""
        return [each for each in self._all()]

    def _all(self, name: str | None = None) -> Feed[Artifact]:
        seen: set[tuple[str | None, int | None]] = set()
        for artifacts in self._calls.pages(
            lambda answer: answer.read(list[Artifact]), self._kind, name=name
        ):
            for each in artifacts:
                key = each.metadata.name, each.metadata.version
                if key not in seen:
                    seen.add(key)
                    yield each


class Runs:
    """What trainings were given and measured. `leptonai.run` records one; this reads them all."""

    def __init__(self, calls: "_Calls", trees: Trees, blobs: Blobs) -> None:
        self._calls = calls
        self._trees = trees
        self._blobs = blobs

    def start(self, run: Run) -> Run:
        """Make a run, or find the one with its id: a repeated start is one start."""
        return self._calls.read(_post("/runs", run, run.metadata.id or _new_key()), Run)

    def get(self, id: str) -> Run:
        return self._calls.read(_get("runs", id), Run)

    def find(self, name_or_id: str) -> Run:
        """The run with this id, or of the job with this id; else the newest one of this name, else
        the one whose id begins so.

        Raises:
            NotFound: there is none.
        """
        found = self.list(q=name_or_id, limit=PAGE_SIZE)
        exact = [run for run in found if run.metadata.id == name_or_id]
        of_job = self.list(job=name_or_id, limit=1) if not exact else []
        named = [run for run in found if run.metadata.name == name_or_id]
        begun = [run for run in found if (run.metadata.id or "").startswith(name_or_id)]
        for some in (exact, of_job, named, begun if len(begun) == 1 else []):
            if some:
                return some[0]
        raise NotFound(
            f"no run has the name or the id {name_or_id!r}", hint="see `leptonai run list`"
        )

    def list(
        self,
        *,
        ids: Sequence[str] = (),
        q: str | None = None,
        name: str | None = None,
        job: str | None = None,
        states: Sequence[RunState] = (),
        labels: str | None = None,
        params: Sequence[str] = (),
        keys: Sequence[str] = (),
        limit: int | None = None,
    ) -> Sequence[Run]:
        """Newest first, each with its summary.

        Args:
            q: a part of the name or of the id.
            job: of the job with this id.
            labels: `k`, `k=v`, joined by commas; the project is one of them.
            params: "lr=0.1", "depth>3": all must hold.
            keys: only these in the summaries; none: all.
        """
        size = PAGE_SIZE if limit is None else min(limit, PAGE_SIZE)
        found: list[Run] = []
        pages = self._calls.pages(
            lambda answer: answer.read(RunList).runs,
            "runs",
            page_size=size,
            id=[*ids] or None,
            q=q,
            name=name,
            job=job,
            state=[str(state) for state in states] or None,
            query=labels,
            param=[*params] or None,
            key=[*keys] or None,
        )
        with closing(pages):
            for page in pages:
                found += page
                if limit is not None and len(found) >= limit:
                    break
        return found[:limit]

    def update(
        self, id: str, *, spec: RunSpec | None = None, labels: Mapping[str, str] | None = None
    ) -> Run:
        """Add parameters, artifacts, references, labels; what is there under the same name is
        replaced."""
        patch: dict[str, Any] = {"spec": spec or RunSpec()}
        if labels:
            patch["metadata"] = {"labels": dict(labels)}
        request = Request(method="PATCH", path=path_of("runs", id), body=encode(patch))
        return self._calls.read(request, Run)

    def append(self, id: str, batch: bytes) -> None:
        """Store a batch of points (`leptonai.blobs.points`); again changes nothing."""
        path = path_of("runs", id, "points")
        self._calls.ask(Request(method="PUT", path=path, body=batch))

    def resume(self, id: str, step: int, *, stream: int = 0, key: str | None = None) -> Run:
        """Supersede what was recorded after a step. Whoever has written before stays superseded:
        who goes on is a new writer. The same key is one resume."""
        path = path_of("runs", id, "resume")
        body = Resume(step=step, stream=stream)
        return self._calls.read(_post(path, body, key or _new_key()), Run)

    def end(self, id: str, state: RunState, message: str = "") -> Run:
        body = encode(RunEnd(state=state, message=message))
        path = path_of("runs", id, "end")
        return self._calls.read(Request(method="PUT", path=path, body=body), Run)

    def metrics(
        self,
        id: str,
        *keys: str,
        points: int | None = None,
        method: Literal["minmax", "lttb"] | None = None,
        from_step: int | None = None,
        to_step: int | None = None,
    ) -> RunMetrics:
        """Summaries of all keys, and the curves of those that are named."""
        request = _get(
            *("runs", id, "metrics"),
            key=[*keys] or None,
            points=points,
            method=method,
            from_step=from_step,
            to_step=to_step,
        )
        return self._calls.read(request, RunMetrics)

    def push_artifact(self, id: str, name: str, path: Path | str) -> RunArtifact:
        """Keep a file or a directory with the run."""
        source = Path(path)
        if source.is_dir():
            digest, size_bytes = self._trees.push_sized(source)
            artifact = RunArtifact(digest=digest, size_bytes=size_bytes, layout="tree")
        else:
            digest, size_bytes = in_thread(_digest_of, source)
            if not self._blobs.has(digest):
                self._blobs.put(digest, source)
            artifact = RunArtifact(digest=digest, size_bytes=size_bytes)
        self.update(id, spec=RunSpec(artifacts={name: artifact}))
        return artifact

    def drop_artifacts(self, id: str, *names: str) -> Run:
        """Keep these with the run no longer."""
        body = encode({"spec": {"artifacts": dict.fromkeys(names)}})
        request = Request(method="PATCH", path=path_of("runs", id), body=body)
        return self._calls.read(request, Run)

    def remove(self, id: str) -> None:
        """With all its points."""
        self._calls.ask(_delete("runs", id))


class _Calls:
    """Requests to one workspace, sent again while that is safe and may help."""

    def __init__(self, connection: Connection, *, retry_for_s: float, timeout_s: float) -> None:
        self.http = Http(connection.url, timeout_s=timeout_s)
        self.connection = connection
        self._retry_for_s = retry_for_s

    @property
    def shelf(self) -> "Shelf":
        """Where blobs lie on this machine."""
        from leptonai.data.shelf import shelf_of

        return shelf_of(self.connection.blobs)

    def read(self, request: Request, kind: type[T]) -> T:
        return (self.ask(request)).read(kind)

    def ask(self, request: Request) -> Answer:
        """The good answer to a request.

        Raises:
            LeptonError: what the server says; Unavailable if it does not answer.
        """
        give_up = time.monotonic() + self._retry_for_s
        attempt = 0
        while True:
            failure: LeptonError
            wait_s = pause_s(attempt, random.random())  # noqa: S311 - no secret
            try:
                answer = self.http.exchange(request, self.connection.token)
            except NotReached as reason:
                failure, again = self._unavailable(reason), True
            except Cut as reason:
                failure, again = self._unavailable(reason), request.repeatable
            else:
                if answer.ok or (request.linking and answer.status == 307):
                    return answer
                if attempt > 0 and is_done_already(request, answer):
                    return answer
                failure, again = answer.error(), may_try_again(request, answer)
                wait_s = max(wait_s, answer.retry_after_s or 0.0)
            if not again or time.monotonic() + wait_s > give_up:
                raise failure
            pause(wait_s)
            attempt += 1

    def pages(
        self,
        items_of: Callable[[Answer], list[T]],
        *parts: str,
        page_size: int = PAGE_SIZE,
        **query: Parameter,
    ) -> Feed[list[T]]:
        """What a list holds, page by page, until one is not full."""
        page = 1
        while True:
            request = _get(*parts, **query, page=page, page_size=page_size)
            items = items_of(self.ask(request))
            yield items
            if len(items) < page_size:
                return
            page += 1

    def lines(self, request: Request) -> Feed[str]:
        lines = Lines()
        with closing(self.chunks(request)) as chunks:
            for chunk in chunks:
                for line in lines.feed(chunk):
                    yield line
        for line in lines.end():
            yield line

    def chunks(self, request: Request) -> Feed[bytes]:
        """The body of an answer as it arrives. Where the connection breaks, it is asked for again,
        and what was already seen is skipped: the body only ever grows."""
        seen_bytes = request.start
        attempt = 0
        give_up = time.monotonic() + self._retry_for_s
        while True:
            failure: LeptonError
            seen_before, began = seen_bytes, time.monotonic()
            try:
                if request.ranged:
                    request = replace(request, start=seen_bytes)
                stream = self.http.stream(request, self.connection.token)
                with closing(stream):
                    if stream.status in (200, 206):
                        skip = seen_bytes if stream.status == 200 else 0
                        for whole in stream.chunks():
                            chunk, skip = skip_bytes(whole, skip)
                            if chunk:
                                seen_bytes += len(chunk)
                                yield chunk
                        return
                    answer = Answer(stream.status, stream.read())
                    failure, again = answer.error(), may_try_again(request, answer)
            except (NotReached, Cut) as reason:
                failure, again = self._unavailable(reason), True
            if seen_bytes > seen_before or time.monotonic() - began > self._retry_for_s:
                attempt, give_up = 0, time.monotonic() + self._retry_for_s  # it was up meanwhile
            wait_s = pause_s(attempt, random.random())  # noqa: S311 - no secret
            if not again or time.monotonic() + wait_s > give_up:
                raise failure
            pause(wait_s)
            attempt += 1

    def history(
        self, start_ns: int, end_ns: int, last: int | None = None, **of_what: str | None
    ) -> Feed[LogLine]:
        """Page through `/logs`, forward. Pages overlap in the last instant of the one before."""
        if last is not None:
            for line in self._last_lines(start_ns, end_ns, last, of_what):
                yield line
            return
        while True:
            lines = self._page_of_lines(start_ns, end_ns, "forward", LOG_PAGE_LINES, of_what)
            if len(lines) < LOG_PAGE_LINES:
                for line in lines:
                    yield line
                return
            first_ns, last_ns = int(lines[0][0]), int(lines[-1][0])
            one_instant = first_ns == last_ns  # fills a page: there is no way to ask for its rest
            for line in lines:
                if one_instant or int(line[0]) < last_ns:
                    yield line
            start_ns = last_ns + 1 if one_instant else last_ns

    def _last_lines(
        self, start_ns: int, end_ns: int, last: int, of_what: Mapping[str, str | None]
    ) -> list[LogLine]:
        found: list[LogLine] = []
        while len(found) < last:
            limit = min(LOG_PAGE_LINES, last - len(found))
            page = self._page_of_lines(start_ns, end_ns, "backward", limit, of_what)
            found = [*page, *found]
            if len(page) < limit:
                break
            end_ns = int(page[0][0])
        return found

    def _page_of_lines(
        self,
        start_ns: int,
        end_ns: int,
        direction: str,
        limit: int,
        of_what: Mapping[str, str | None],
    ) -> list[LogLine]:
        """In the order of their times, whatever the direction."""
        request = _get(
            "logs", start=start_ns, end=end_ns, direction=direction, limit=limit, **of_what
        )
        streams = (self.read(request, LogAnswer)).data.result
        lines = (line for stream in streams for line in stream.values)
        return sorted(lines, key=lambda line: int(line[0]))

    def download(
        self, digest: str, arriving: "Arriving", progress: Progress | None = None
    ) -> None:
        """Have the rest of a blob arrive.

        Raises:
            Internal: what arrives is something else.
        """
        path = path_of("blobs", digest)
        total = 0
        if progress is not None:
            head = self.ask(Request(method="HEAD", path=path))
            total = int(head.headers.get("content-length", 0))
        told = _telling(progress, total)
        while arriving.digest != digest:
            begun = arriving.size
            request = Request(method="GET", path=path, ranged=True, start=begun)
            try:
                with closing(self.chunks(request)) as chunks:
                    for chunk in chunks:
                        arriving.write(chunk)
                        if told is not None:
                            told(arriving.size)
            except RangeNotSatisfiable:
                pass  # what was here is longer than the whole
            arrived = arriving.digest
            if arrived == digest:
                return
            arriving.restart()
            if not begun:
                raise Internal(
                    f"the blob {digest} arrived as {arrived}",
                    hint="try again; if it stays so, the blob is damaged: upload it again",
                )

    def _unavailable(self, reason: Exception) -> Unavailable:
        local = self.connection.local
        message = f"cannot reach Lepton at {self.connection.server}: {reason}"
        if local and isinstance(reason, NotReached):
            message = f"no Lepton platform is running at {self.connection.server}: {reason}"
        return Unavailable(message, hint=self.connection.unreachable_hint)


def _endpoint_state(endpoint: LeptonDeployment) -> EndpointState:
    """`phase` where there is one: `state` has only what old clients understand."""
    if endpoint.status is None:
        return EndpointState.STARTING
    return endpoint.status.phase or endpoint.status.state


def _telling(progress: Progress | None, total: int) -> Told | None:
    if progress is None:
        return None
    return lambda done: progress(done, total)


def _digest_of(file: Path) -> tuple[str, int]:
    """Of a file's bytes, and how many there are.

    Raises:
        NotFound: there is no such file.
    """
    import hashlib

    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return f"sha256:{digest}", opened.tell()
    except (FileNotFoundError, IsADirectoryError) as missing:
        raise NotFound(f"{file} is no file", hint="check the path") from missing


def _new_key() -> str:
    return entropy.token_hex(16)


def _get(*parts: str, **query: Parameter) -> Request:
    return Request(method="GET", path=path_of(*parts, **query))


def _in_volume(path: str) -> "list[str]":
    """Raises:
    InvalidRequest: it leads out of the volume.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidRequest(
            f"{path} leads out of the volume", hint="name it from the volume's root, without '..'"
        )
    return parts


def _value_at(space: str, key: str) -> tuple[str, ...]:
    if not key:
        raise InvalidRequest("the key is empty", hint=f"a key has 1 to {MAX_KEY_BYTES} bytes")
    return ("kv", "namespaces", space, "values", *_key_parts(key))


def _key_parts(key: str) -> "list[str]":
    """Of a key with slashes in it.

    Raises:
        InvalidRequest: no URL could hold it.
    """
    parts = key.split("/")
    if not all(part.strip(".") or len(part) > 2 for part in parts):
        raise InvalidRequest(
            f"{key!r} is no key", hint="what stands between its slashes is neither '', '.' nor '..'"
        )
    return parts


def _part_of(file: Path, start: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(PART_BYTES)


def _submitted(job: LeptonJob) -> LeptonJob:
    return LeptonJob(metadata=_named(job.metadata), spec=job.spec)


def _named(metadata: Metadata) -> Metadata:
    """What is sent of it."""
    name = metadata.name or metadata.id
    return Metadata(id=name, name=name, labels=metadata.labels, visibility=metadata.visibility)


def _post(path: str, body: object, key: str) -> Request:
    return Request(method="POST", path=path, body=encode(body), key=key)


def _patch(body: bytes, *parts: str) -> Request:
    return Request(method="PATCH", path=path_of(*parts), body=body)


def _delete(*parts: str, **query: Parameter) -> Request:
    return Request(method="DELETE", path=path_of(*parts, **query))
