"""A template: a job, a pod or an endpoint with parameters that are still to be filled in."""

from typing import Any, Literal

from msgspec import field

from leptonai.spec.metadata import Metadata, Wire

WorkloadType = Literal["job", "pod", "deployment"]


class TemplateSpec(Wire, frozen=True, omit_defaults=False):
    """`content` is the spec of the workload, in whose texts `{{name}}` stands for a parameter;
    `json_schema` says which parameters there are, with their defaults."""

    content: dict[str, Any] = field(default_factory=dict)
    json_schema: dict[str, Any] | None = None
    workload_type: WorkloadType = "job"


class LeptonTemplate(Wire, frozen=True, omit_defaults=False):
    metadata: Metadata
    spec: TemplateSpec


class RenderedTemplate(Wire, frozen=True, omit_defaults=False):
    """A workload that can be sent as it is, once it has a name: the spec of a job, or of an
    endpoint."""

    metadata: Metadata
    spec: dict[str, Any]
