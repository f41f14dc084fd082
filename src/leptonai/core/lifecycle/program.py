"""From what a user asked to what a replica runs."""

import hashlib

from leptonai.core.records import Endpoint, Job, Program
from leptonai.core.shapes import requested_by
from leptonai.spec.containers import Affinity, QueueConfig

DEFAULT_PRIORITY = 5000
ANY_PORT = 0
MODEL_SERVER = ("python", "-m", "leptonai.serving.model")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_SUFFIX_LENGTH = 5


PROJECT_LABEL = "project"  # whose quota a workload counts against, beside its owner's


def program_of_job(job: Job) -> Program:
    spec = job.spec
    requested = requested_by(spec)
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
        allowed_nodes=_nodes(spec.affinity),
        allowed_groups=_groups(spec.affinity),
        workspace_token=bool(spec.include_workspace_token),
    )


def program_of_endpoint(endpoint: Endpoint) -> Program:
    spec = endpoint.spec
    wanted = spec.resource_requirement
    requested = requested_by(wanted)
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
        allowed_nodes=_nodes(wanted.affinity),
        allowed_groups=_groups(wanted.affinity),
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


def _nodes(affinity: Affinity | None) -> tuple[str, ...]:
    return tuple(affinity.allowed_nodes_in_node_group or ()) if affinity else ()


def _groups(affinity: Affinity | None) -> tuple[str, ...]:
    return tuple(affinity.allowed_dedicated_node_groups or ()) if affinity else ()
