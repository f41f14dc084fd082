"""Attempts, complete: all that an engine needs to run a replica, looked up as it is now."""

from collections.abc import Callable, Iterator

from leptonai.control.mirror import Mirror
from leptonai.control.warm_starts import warm_of
from leptonai.core.access import Principal, Role
from leptonai.core.attachments import (
    attached_files,
    attached_variables,
    check_attachments,
    secret_names,
)
from leptonai.core.lifecycle.environment import environment, host_names
from leptonai.core.lifecycle.ray_node import start_command, token_variables
from leptonai.core.lifecycle.raycluster import head_of
from leptonai.core.records import (
    DataSource,
    Event,
    Job,
    OwnerKind,
    Program,
    Replica,
    Secret,
    Severity,
    Volume,
)
from leptonai.core.volumes import may_use, meant_by, refused
from leptonai.errors import NotFound
from leptonai.ports.engine import KEPT, Attempt, Tree, VolumeAt
from leptonai.ports.store import Query, Store


class Attempts:
    def __init__(
        self,
        mirror: Mirror,
        store: Store,
        *,
        workspace_url: Callable[[str], str],
        unseal: Callable[[Secret], str],
        job_token: Callable[[Job], str],
        run_token: Callable[[Job], str],
        pod_key: Callable[[Replica], str],
        ray_token: Callable[[Replica], str],
        runs_images: bool = False,
        mounts_volumes: bool = True,
    ) -> None:
        """
        Args:
            runs_images: whether the engine does; else the host runs what names one.
            mounts_volumes: whether the engine does, on the host; else they are links.
        """
        self._mirror = mirror
        self._store = store
        self._workspace_url = workspace_url
        self._unseal = unseal
        self._job_token = job_token
        self._run_token = run_token
        self._pod_key = pod_key
        self._ray_token = ray_token
        self._runs_images = runs_images
        self._mounts_volumes = mounts_volumes

    async def of(self, replica: Replica) -> Attempt | None:
        """The replica's current attempt; None while the rest of its gang, or its job, is still on
        its way into the mirror, and where its Ray cluster ends.

        Raises:
            RequestError, Internal: something that it needs is not there, or not for its owner.
        """
        program = replica.program
        job: Job | None = None
        head: Replica | None = None
        gang = [replica]
        if replica.owner_kind is OwnerKind.JOB:
            job = self._mirror.jobs.get((replica.workspace, replica.owner_id))
            siblings = self._mirror.replicas_of(replica.workspace, replica.parent)
            gang = sorted((r for r in siblings if r.gang == replica.gang), key=lambda r: r.index)
            if job is None or len(gang) != replica.gang_size:
                return None
        elif replica.owner_kind is OwnerKind.RAYCLUSTER:
            head = head_of(self._mirror.replicas_of(replica.workspace, replica.parent))
            if head is None or not head.ports:
                return None
        nodes = {node.id: node for node in self._mirror.nodes.values()}
        addresses = {id: node.address for id, node in nodes.items()}
        env = environment(
            replica,
            gang,
            addresses=addresses,
            gpu_type=nodes[replica.node].capacity.gpu_type,
            workspace_url=self._workspace_url(replica.workspace),
            failures=job.failures if job else 0,
        )
        variables, attached = await self._attached(replica)
        env |= self._keys(replica, job) | variables
        env |= await self._user_env(replica.workspace, program)
        command = program.command
        if head is not None:
            command = start_command(
                replica,
                head,
                address=addresses[replica.node],
                head_address=addresses.get(head.node, "127.0.0.1"),
            )
            env |= token_variables(self._ray_token(replica))
        trees = []
        if program.workdir:
            trees.append(Tree(digest=program.workdir, at="workdir"))
        if program.model:
            trees.append(Tree(digest=program.model, at="model"))
        talks = job is not None and job.spec.intra_job_communication is True
        return Attempt(
            id=replica.attempt_id,
            node=replica.node,
            command=command,
            hosts=host_names(replica, gang, addresses) if talks else {},
            env=env,
            cpu_millis=program.needs.cpu_millis,
            limit_cpu_millis=program.limit_cpu_millis,
            limit_memory_bytes=program.limit_memory_bytes,
            gpus=replica.gpus,
            ports=replica.ports,
            trees=tuple(trees),
            start_in=KEPT if program.pod else "workdir" if program.workdir else "",
            keeps=kept_by(replica),
            image=program.image if self._runs_images and not _on_host(replica) else "",
            volumes=await self._volumes(replica, nodes[replica.node].group),
            files=attached,
            warm=warm_of(replica, self._mirror, runs_images=self._runs_images),
        )

    def caveats(self, replica: Replica, attempt: Attempt) -> Iterator[Event]:
        """What of it is not as it was asked for, for people."""
        program = replica.program
        if program.image and not attempt.image:
            yield _event(
                replica,
                "ImageIgnored",
                f"running on the host instead of in {program.image}; "
                + (
                    "pods and Ray clusters run in no image"
                    if _on_host(replica)
                    else "to run images: leptonai up --containers auto (see `leptonai doctor`)"
                ),
                Severity.NORMAL,
            )
        if attempt.volumes and not (self._mounts_volumes or attempt.image):
            places = ", ".join(f"{mount.at} is {mount.at[1:]}" for mount in program.mounts)
            yield _event(
                replica,
                "VolumesLinked",
                "this machine lets its user mount nothing, so volumes are links in the working "
                f"directory, writable ones: {places}",
                Severity.WARNING,
            )

    def _keys(self, replica: Replica, job: Job | None) -> dict[str, str]:
        """What it is believed by."""
        keys = {}
        if job is not None:
            keys["LEPTON_RUN_TOKEN"] = self._run_token(job)
            if replica.program.workspace_token:
                keys["LEPTON_WORKSPACE_TOKEN"] = self._job_token(job)
        if replica.program.pod:
            keys["LEPTON_POD_KEY"] = self._pod_key(replica)
        return keys

    async def _volumes(self, replica: Replica, group: str) -> tuple[VolumeAt, ...]:
        """As they are now: a volume that was deleted is gone, and a rule that came later holds."""
        mounts = replica.program.mounts
        if not mounts:
            return ()
        found = await self._store.find(Volume, Query(workspace=replica.workspace))
        offered = [volume for volume in found if volume.group == group]
        owner = self._owner(replica)
        told = []
        for number, mount in enumerate(mounts):
            volume = meant_by(mount.source, offered, f"spec.mounts.{number}")
            if not may_use(owner, volume.rules, mount.path):
                raise refused(owner.name, mount.path, volume)
            told.append(
                VolumeAt(
                    name=volume.name,
                    root=volume.path,
                    path=mount.path,
                    at=mount.at,
                    read_only=mount.read_only,
                    links=not volume.rules,
                )
            )
        return tuple(told)

    def _owner(self, replica: Replica) -> Principal:
        is_admin = any(
            token.name == replica.owner and token.role == "admin"
            for token in self._mirror.tokens.values()
            if token.workspace == replica.workspace
        )
        return Principal(
            name=replica.owner,
            role=Role.ADMIN if is_admin else Role.MEMBER,
            workspace=replica.workspace,
        )

    async def _attached(self, replica: Replica) -> tuple[dict[str, str], dict[str, str]]:
        """Variables and files that tell of its buckets, the files with their credentials; if its
        owner may still use them."""
        attachments = replica.program.attachments
        if not attachments:
            return {}, {}
        found = await self._store.find(DataSource, Query(workspace=replica.workspace))
        sources = {source.name: source.spec for source in found}
        check_attachments(self._owner(replica), attachments, sources)
        secrets = {
            name: await self._secret(replica.workspace, name, attachment.data_source_name)
            for attachment in attachments
            for name in secret_names(sources[attachment.data_source_name])
        }
        return (
            attached_variables(attachments, sources),
            attached_files(attachments, sources, secrets),
        )

    async def _user_env(self, workspace: str, program: Program) -> dict[str, str]:
        env = {}
        for variable in program.envs:
            reference = variable.value_from.secret_name_ref if variable.value_from else None
            if reference is None:
                env[variable.name] = variable.value or ""
                continue
            env[variable.name] = await self._secret(workspace, reference, variable.name)
        return env

    async def _secret(self, workspace: str, name: str, needed_as: str) -> str:
        found = await self._store.find(Secret, Query(workspace=workspace, name=name))
        if not found:
            raise NotFound(
                f"secret {name!r}, which it needs as {needed_as}, does not exist",
                hint=f"create it: leptonai secret create {name}",
            )
        return self._unseal(found[0])


def kept_by(replica: Replica) -> str:
    """The folder that all attempts of a job share on a node, whichever of its workers they are; of
    a pod, its files."""
    lasts = replica.owner_kind is OwnerKind.JOB or replica.program.pod
    return replica.owner_id if lasts else ""


def _event(replica: Replica, reason: str, message: str, severity: Severity) -> Event:
    return Event(
        workspace=replica.workspace,
        kind=replica.owner_kind,
        id=replica.owner_id,
        name=replica.owner_name,
        reason=reason,
        message=message,
        severity=severity,
    )


def _on_host(replica: Replica) -> bool:
    """Whether it runs in no image, whatever it names. A Ray node needs the ports of its node, and
    Ray of a version that asks who connects."""
    return replica.program.pod or replica.owner_kind is OwnerKind.RAYCLUSTER
