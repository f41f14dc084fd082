"""What a command line asks for: what a file holds, overridden by flags. Pure but for reading the
file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from leptonai.errors import InvalidRequest
from leptonai.spec import codec
from leptonai.spec.containers import ContainerPort, EnvVar, QueueConfig
from leptonai.spec.endpoints import (
    ApiToken,
    AutoScaler,
    EndpointSpec,
    Health,
    HttpProbe,
    LeptonDeployment,
    Readiness,
    TokenReference,
)
from leptonai.spec.jobs import LeptonJob, SegmentConfig
from leptonai.spec.metadata import Metadata
from leptonai.spec.names import check_name
from leptonai.spec.pods import PodSettings
from leptonai.spec.rayclusters import LeptonRayCluster

T = TypeVar("T", LeptonJob, LeptonDeployment, LeptonRayCluster)
MAX_SPEC_BYTES = 1 << 20
WORKSPACE_TOKEN = "WORKSPACE_TOKEN"  # noqa: S105 - the reference to all the tokens of the workspace


def read(kind: type[T], path: Path | None) -> T:
    """A file holds a whole job, endpoint, pod or Ray cluster, as `get -o json` prints it, or a spec
    alone; no file is an empty one."""
    fields = {} if path is None else _fields_of(path)
    if "spec" not in fields and "metadata" not in fields:
        fields = {"spec": fields}
    fields.setdefault("metadata", {})
    fields.pop("status", None)
    try:
        return codec.convert(kind, fields)
    except InvalidRequest as wrong:
        raise InvalidRequest(f"{path}: {wrong.message}", hint=wrong.hint) from None


def named(
    metadata: Metadata, kind: str, name: str | None, labels: dict[str, str] | None
) -> Metadata:
    """What is sent of the metadata: a checked name, labels, visibility."""
    chosen = name or metadata.name or metadata.id
    if chosen is None:
        raise InvalidRequest(f"the {kind} has no name", hint="name it with -n NAME")
    check_name(chosen, kind)
    return Metadata(
        id=chosen,
        name=chosen,
        labels={**(metadata.labels or {}), **(labels or {})} or None,
        visibility=metadata.visibility,
    )


def job_of(
    read: LeptonJob,
    *,
    name: str | None,
    labels: dict[str, str] | None,
    command: Sequence[str],
    image: str | None,
    workers: int | None,
    priority: str | None,
    envs: Sequence[EnvVar],
    overrides: Mapping[str, object],
    preemptible: bool | None = None,
    ports: Sequence[ContainerPort] = (),
) -> LeptonJob:
    """Raises:
    InvalidRequest: it has no name or no command.
    """
    spec = read.spec
    container = msgspec.structs.replace(
        spec.container,
        command=list(command) or spec.container.command,
        image=image or spec.container.image,
        ports=[*ports] or spec.container.ports,
    )
    if not container.command and spec.trainer is None:  # a trainer says what it is
        raise InvalidRequest(
            "the job has no command", hint="give it after two dashes: -- python train.py"
        )
    changes: dict[str, Any] = {**overrides, "container": container, "stopped": None}
    if workers is not None:
        changes |= {"completions": workers, "parallelism": workers}
    if (changes.get("completions") or spec.workers) > 1:
        changes["intra_job_communication"] = True
    asked = {"priority_class": priority, "can_be_preempted": preemptible}
    given = {field: value for field, value in asked.items() if value is not None}
    if given:
        queue = spec.queue_config or QueueConfig()
        changes["queue_config"] = msgspec.structs.replace(queue, **given)
    if envs:
        changes["envs"] = merged_variables(spec.envs, envs)
    return LeptonJob(
        metadata=named(read.metadata, "job", name, labels),
        spec=msgspec.structs.replace(spec, **changes),
    )


def endpoint_of(
    read: LeptonDeployment,
    *,
    name: str | None,
    labels: dict[str, str] | None,
    model: str | None,
    command: Sequence[str],
    image: str | None,
    port: int | None,
    scaling: Mapping[str, Any],
    tokens: Sequence[str],
    public: bool,
    health_path: str | None,
    priority: str | None,
    envs: Sequence[EnvVar],
    resources: Mapping[str, object],
) -> LeptonDeployment:
    """Raises:
    InvalidRequest: it has no name, or nothing to run; or it is public and has tokens.
    """
    spec = read.spec
    if model is not None and command:
        raise InvalidRequest(
            "a model and a command exclude each other", hint="leave out --model or the command"
        )
    if tokens and public:
        raise InvalidRequest(
            "a public endpoint has no tokens", hint="leave out --tokens or --public"
        )
    container = msgspec.structs.replace(
        spec.container,
        command=list(command) or spec.container.command,
        image=image or spec.container.image,
        ports=[ContainerPort(container_port=port)] if port is not None else spec.container.ports,
    )
    if not (model or spec.model or container.command):
        raise InvalidRequest(
            "the endpoint has nothing to run", hint="give it --model NAME or --command LINE"
        )
    sizes = dict(resources) | dict(scaling.get("resource_requirement", {}))
    changes: dict[str, Any] = {
        "container": container,
        "model": model or spec.model,
        "resource_requirement": msgspec.structs.replace(spec.resource_requirement, **sizes),
    }
    if "auto_scaler" in scaling:
        changes["auto_scaler"] = _merged_scaler(spec.auto_scaler, scaling["auto_scaler"])
    if public:
        changes |= {"allow_unauthenticated_access": True, "api_tokens": []}
    elif tokens:
        changes["api_tokens"] = [ApiToken(value=token) for token in tokens]
    else:
        changes["api_tokens"] = entering(spec)
    if health_path is not None:
        health = spec.health or Health()
        readiness = msgspec.structs.replace(
            health.readiness or Readiness(), http=HttpProbe(path=health_path)
        )
        changes["health"] = msgspec.structs.replace(health, readiness=readiness)
    if priority is not None:
        changes["queue_config"] = _with_priority(spec.queue_config, priority)
    if envs:
        changes["envs"] = merged_variables(spec.envs, envs)
    return LeptonDeployment(
        metadata=named(read.metadata, "endpoint", name, labels),
        spec=msgspec.structs.replace(spec, **changes),
    )


def entering(spec: EndpointSpec) -> list[ApiToken] | None:
    """What opens an endpoint: where nothing is said of that, the tokens of the workspace."""
    if spec.api_tokens is not None or spec.allow_unauthenticated_access:
        return spec.api_tokens
    return [ApiToken(value_from=TokenReference(token_name_ref=WORKSPACE_TOKEN))]


def pod_of(
    read: LeptonDeployment,
    *,
    name: str,
    labels: dict[str, str] | None,
    command: Sequence[str],
    ports: Sequence[ContainerPort],
    settings: Mapping[str, Any],
    priority: str | None,
    envs: Sequence[EnvVar],
    resources: Mapping[str, Any],
    storage: Mapping[str, Any],
) -> LeptonDeployment:
    """Raises:
    InvalidRequest: its name is none.
    """
    spec = read.spec
    container = msgspec.structs.replace(
        spec.container,
        command=list(command) or spec.container.command,
        ports=[*ports] or spec.container.ports,
    )
    changes: dict[str, Any] = {
        "is_pod": True,
        "container": container,
        "resource_requirement": msgspec.structs.replace(spec.resource_requirement, **resources),
        "pod": msgspec.structs.replace(spec.pod or PodSettings(), **settings),
        **storage,
    }
    if priority is not None:
        changes["queue_config"] = _with_priority(spec.queue_config, priority)
    if envs:
        changes["envs"] = merged_variables(spec.envs, envs)
    return LeptonDeployment(
        metadata=named(read.metadata, "pod", name, labels),
        spec=msgspec.structs.replace(spec, **changes),
    )


def segments(count: int | None, workers: int | None) -> SegmentConfig | None:
    """So many segments of equally many workers.

    Raises:
        InvalidRequest: the workers cannot be divided so.
    """
    if count is None:
        return None
    if not workers or workers % count:
        raise InvalidRequest(
            f"{workers or 'no'} workers cannot be divided into {count} segments",
            hint="give --num-workers a multiple of --segment-count",
        )
    return SegmentConfig(count_per_segment=workers // count)


def _with_priority(queue: QueueConfig | None, priority: str) -> QueueConfig:
    return msgspec.structs.replace(queue or QueueConfig(), priority_class=priority)


def _merged_scaler(read: AutoScaler | None, asked: Mapping[str, Any] | None) -> AutoScaler | None:
    if asked is None:
        return None
    merged = codec.merge_patch(msgspec.to_builtins(read) if read else {}, asked)
    try:
        return msgspec.convert(merged, AutoScaler)
    except msgspec.ValidationError as wrong:
        raise InvalidRequest(
            f"spec.auto_scaler: {wrong}", hint="see `leptonai endpoint create --help`"
        ) from None


def merged_variables(old: Sequence[EnvVar] | None, new: Sequence[EnvVar]) -> list[EnvVar]:
    """Both, where a new one takes the place of an old one of its name."""
    return [*({env.name: env for env in old or ()} | {env.name: env for env in new}).values()]


def _fields_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        text = file.read(MAX_SPEC_BYTES + 1)  # a device or a pipe has no size, and may have no end
    if len(text) > MAX_SPEC_BYTES:
        raise InvalidRequest(f"{path} is larger than {MAX_SPEC_BYTES} bytes", hint="is it a spec?")
    try:
        fields = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise InvalidRequest(
            f"{path} is not JSON: {wrong}", hint="see the example in --help"
        ) from wrong
    if not isinstance(fields, dict):
        raise InvalidRequest(f"{path} holds no JSON object", hint="see the example in --help")
    return fields
