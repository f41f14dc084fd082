"""The newer wire of endpoints and pods, as a translation of ours. Pure, over plain dicts.

The published client speaks it where the workspace's feature `enable_new_deployment_api` is on:
there an endpoint is a list of components, of which ours always has one, and a pod says `stopped`
instead of a number of replicas. What that wire has no name for keeps ours, so each way back is
exact.
"""

from typing import Any

import msgspec

from leptonai.errors import InvalidRequest
from leptonai.spec.containers import Container
from leptonai.spec.endpoints import ResourceRequirement

COMPONENT = "default"

_CONTAINER = frozenset(each.encode_name for each in msgspec.structs.fields(Container))
_RESOURCES = frozenset(each.encode_name for each in msgspec.structs.fields(ResourceRequirement))
# What belongs to the endpoint as a whole, by our name: the rest is its component's.
_OF_ENDPOINT = {
    "allow_unauthenticated_access": "allow_unauthenticated_access",
    "api_tokens": "api_tokens",
    "auth_config": "access_config",
    "gateway": "gateway",
    "image_pull_secrets": "image_pull_secrets",
    "ingress_enabled": "ingress_enabled",
    "ingress_timeout_seconds": "ingress_timeout_seconds",
    "is_pod": "is_pod",
    "load_balance_config": "load_balancing",
    "log": "log",
    "metrics": "metrics",
    "routing_policy": "routing_policy",
}
_OF_COMPONENT = {"auto_scaler": "autoscaling"}
_OURS: dict[str, str] = {theirs: ours for ours, theirs in {**_OF_ENDPOINT, **_OF_COMPONENT}.items()}
_OF_METADATA = ("owner", "created_by", "last_modified_at", "last_modified_by", "visibility")

Json = dict[str, Any]


def endpoint_of(deployment: Json) -> Json:
    """A deployment as the newer wire's endpoint."""
    metadata = dict(deployment.get("metadata") or {})
    theirs = {key: metadata.pop(key) for key in _OF_METADATA if key in metadata}
    metadata.pop("id", None)
    spec: Json = {}
    component: Json = {"name": COMPONENT}
    for key, value in (deployment.get("spec") or {}).items():
        if key in ("container", "resource_requirement"):
            component |= value
        elif key in _OF_ENDPOINT:
            spec[_OF_ENDPOINT[key]] = value
        else:
            component[_OF_COMPONENT.get(key, key)] = value
    made: Json = {
        "metadata": metadata | ({"lepton_metadata": theirs} if theirs else {}),
        "spec": {"components": [component], **spec},
    }
    if deployment.get("status") is not None:
        made["status"] = _endpoint_status(deployment["status"])
    return made


def deployment_of_endpoint(endpoint: Json) -> Json:
    """The way back; what was observed is left out.

    Raises:
        InvalidRequest: it has not exactly one component.
    """
    metadata = dict(_object(endpoint, "metadata"))
    metadata |= _object(metadata, "lepton_metadata")
    metadata.pop("lepton_metadata", None)
    spec = dict(_object(endpoint, "spec"))
    components = spec.pop("components", None)
    if (
        not isinstance(components, list)
        or len(components) != 1
        or not isinstance(components[0], dict)
    ):
        raise InvalidRequest(
            "spec.components: an endpoint has one component here",
            hint="Make an endpoint of each, and share a domain between them by an ingress.",
        )
    container: Json = {}
    resources: Json = {}
    made: Json = {_OURS.get(key, key): value for key, value in spec.items()}
    for key, value in components[0].items():
        if key in ("name", "frontend"):
            continue
        if key in _CONTAINER:
            container[key] = value
        elif key in _RESOURCES:
            resources[key] = value
        else:
            made[_OURS.get(key) or key] = value
    made |= {"container": container, "resource_requirement": resources}
    return {"metadata": metadata, "spec": made}


def devpod_of(deployment: Json) -> Json:
    """A pod as the newer wire's."""
    metadata = dict(deployment.get("metadata") or {})
    metadata.pop("id", None)
    spec = {
        key: value
        for key, value in (deployment.get("spec") or {}).items()
        if key not in ("is_pod", "resource_requirement")
    }
    resources = dict((deployment.get("spec") or {}).get("resource_requirement") or {})
    replicas = resources.pop("min_replicas", None)
    if replicas is not None:
        spec["stopped"] = replicas == 0
    made: Json = {"metadata": metadata, "spec": spec | resources}
    if deployment.get("status") is not None:
        made["status"] = _devpod_status(deployment["status"])
    return made


def deployment_of_devpod(devpod: Json) -> Json:
    """The way back; what was observed is left out."""
    resources: Json = {}
    made: Json = {"is_pod": True, "resource_requirement": resources}
    for key, value in _object(devpod, "spec").items():
        if key == "stopped":
            resources["min_replicas"] = 0 if value else 1
        elif key in _RESOURCES:
            resources[key] = value
        else:
            made[key] = value
    return {"metadata": dict(_object(devpod, "metadata")), "spec": made}


def _endpoint_status(status: Json) -> Json:
    made = {
        "state": _state(status),
        "external_url": (status.get("endpoint") or {}).get("external_endpoint", ""),
        "ready_replicas": status.get("ready_replicas"),
        "auto_scaler_status": status.get("autoscaler_status"),
        "message": status.get("message"),
    }
    return {key: value for key, value in made.items() if value is not None}


def _devpod_status(status: Json) -> Json:
    made = {
        "state": _state(status),
        "external_url": (status.get("endpoint") or {}).get("external_endpoint", ""),
        "public_ip": status.get("public_ip"),
        "port_statuses": [
            {
                "container_port": port.get("container_port"),
                "host_port": port.get("host_port"),
                "external_url": port.get("external_endpoint"),
            }
            for port in status.get("container_port_status") or ()
            if port.get("host_port")  # clients take each for one that is mapped
        ],
        "message": status.get("message"),
    }
    return {key: value for key, value in made.items() if value is not None}


def _state(status: Json) -> str:
    """`phase` tells a stop from a failure, which `state` does not."""
    return str(status.get("phase") or status.get("state") or "").replace(" ", "")


def _object(parent: Json, key: str) -> Json:
    value = parent.get(key) or {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{key}: expected object", hint="Send an object.")
    return value
