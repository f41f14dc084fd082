"""From what a user asked to what a replica runs."""

import hashlib
from collections.abc import Sequence

import msgspec

from leptonai.core.records import Endpoint, Job, Program, VolumeMount
from leptonai.core.shapes import requested_by
from leptonai.spec.containers import Affinity, Mount, QueueConfig
from leptonai.spec.pods import JUPYTER_AT, PodPlan, PodSettings

DEFAULT_PRIORITY = 5000
ANY_PORT = 0
MODEL_SERVER = ("python", "-m", "leptonai.serving.model")
POD_SERVER = ("python", "-m", "leptonai.pod")
LOOPBACK = "127.0.0.1"
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_SUFFIX_LENGTH = 5


PROJECT_LABEL = "project"  # whose quota a workload counts against, beside its owner's


def program_of_job(job: Job) -> Program:
    spec = job.spec
    requested = requested_by(spec)
    nodes, groups = affine_to(spec.affinity)
    return Program(
        command=tuple(spec.container.command or ()),
        envs=tuple(spec.envs or ()),
        needs=requested.needs,
        limit_cpu_millis=requested.limit_cpu_millis,
        limit_memory_bytes=requested.limit_memory_bytes,
        # Whatever number it names: workers share their machine, and each is told its own.
        ports=(ANY_PORT,) * len(spec.container.ports or ()),
        image=spec.container.image or "",
        workdir=spec.workdir or "",
        mounts=mounts_of(spec.mounts),
        attachments=tuple(spec.storage_attachments or ()),
        allowed_nodes=nodes,
        allowed_groups=groups,
        workspace_token=bool(spec.include_workspace_token),
    )


def program_of_endpoint(endpoint: Endpoint) -> Program:
    if endpoint.is_pod:
        return program_of_pod(endpoint)
    spec = endpoint.spec
    wanted = spec.resource_requirement
    requested = requested_by(wanted)
    nodes, groups = affine_to(wanted.affinity)
    return Program(
        command=tuple(spec.container.command or MODEL_SERVER),
        envs=tuple(spec.envs or ()),
        needs=requested.needs,
        limit_cpu_millis=requested.limit_cpu_millis,
        limit_memory_bytes=requested.limit_memory_bytes,
        ports=(ANY_PORT if spec.port is None else spec.port,),
        image=spec.container.image or "",
        workdir=spec.workdir or "",
        model=endpoint.model_digest,
        mounts=mounts_of(spec.mounts),
        attachments=tuple(spec.storage_attachments or ()),
        allowed_nodes=nodes,
        allowed_groups=groups,
    )


def program_of_pod(pod: Endpoint) -> Program:
    """Its own process, beside which the user's command runs. It stays where its files are."""
    spec, settings = pod.spec, pod.spec.pod or PodSettings()
    wanted = spec.resource_requirement
    requested = requested_by(wanted)
    nodes, groups = affine_to(wanted.affinity)
    ports = [port.container_port for port in spec.pod_ports]
    plan = PodPlan(
        ports=ports,
        command=spec.container.command or [],
        ssh_keys=settings.ssh_keys or [],
        ssh_listen=settings.ssh_listen or LOOPBACK,
        jupyter=bool(settings.jupyter),
        jupyter_path=f"/{JUPYTER_AT}/{pod.workspace}/{pod.name}/",
    )
    return Program(
        command=(*POD_SERVER, msgspec.json.encode(plan).decode()),
        envs=tuple(spec.envs or ()),
        needs=requested.needs,
        limit_cpu_millis=requested.limit_cpu_millis,
        limit_memory_bytes=requested.limit_memory_bytes,
        ports=(ANY_PORT,) * (1 + len(ports)),  # the first is its own process's
        image=spec.container.image or "",
        mounts=mounts_of(spec.mounts),
        attachments=tuple(spec.storage_attachments or ()),
        allowed_nodes=(pod.pod.node,) if pod.pod.node else nodes,
        allowed_groups=() if pod.pod.node else groups,
        pod=True,
    )


def priority_of(queue: QueueConfig | None) -> int:
    """5000 of "mid-5000": larger goes first."""
    if queue is None or not queue.priority_class:
        return DEFAULT_PRIORITY
    return int(queue.priority_class.rpartition("-")[2])


def replica_suffix(*parts: object) -> str:
    """Five characters that differ for different parts: a replica's id needs no randomness."""
    number = int.from_bytes(
        hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big"
    )
    letters = []
    for _ in range(_SUFFIX_LENGTH):
        number, index = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[index])
    return "".join(letters)


def affine_to(affinity: Affinity | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The nodes, and the node groups, of which it may be placed on one; () allows all."""
    if affinity is None:
        return (), ()
    return (
        tuple(affinity.allowed_nodes_in_node_group or ()),
        tuple(affinity.allowed_dedicated_node_groups or ()),
    )


def mounts_of(mounts: Sequence[Mount] | None) -> tuple[VolumeMount, ...]:
    return tuple(
        VolumeMount(
            source=mount.source or "",
            path=mount.path or "",
            at=mount.mount_path,
            read_only=bool(mount.mount_options and mount.mount_options.read_only),
        )
        for mount in mounts or ()
    )
