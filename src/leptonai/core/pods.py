"""What a pod may be asked for, and when nobody works in it any more."""

import ipaddress
import re
from dataclasses import dataclass

from msgspec.structs import replace

from leptonai.core.records import Endpoint, PodSeen
from leptonai.errors import InvalidRequest
from leptonai.spec.containers import HOST_PORT_MAPPING, INGRESS_PROXY
from leptonai.spec.endpoints import EndpointSpec
from leptonai.spec.pods import SSH_KEY_PATTERN, PodActivity, PodSettings

# Asks for JupyterLab, as `spec.pod.jupyter` does: of that published clients know nothing.
JUPYTER_VARIABLE = "LEPTON_POD_JUPYTER"
MAX_PORTS = 12  # of its own
BUSY_CPU_MILLIS = 100  # a tenth of a core, over the last half minute
SAME_MS = 2_000  # of two times that are told in whole seconds
_SSH_KEY = re.compile(SSH_KEY_PATTERN)


def checked_pod(spec: EndpointSpec) -> EndpointSpec:
    """A pod's, without what only concerns servers: published clients send all of it."""
    if spec.replicas > 1:
        raise InvalidRequest(
            f"spec.resource_requirement.min_replicas: {spec.replicas} replicas, and a pod has one",
            hint="Create more pods; or an endpoint, for servers that are all alike.",
        )
    if spec.model is not None or spec.workdir is not None:
        raise InvalidRequest(
            "spec: a pod has neither a model nor a workdir",
            hint="`leptonai pod sync` brings files into a running pod.",
        )
    if spec.api_tokens or spec.allow_unauthenticated_access:
        raise InvalidRequest(
            "spec: nobody enters a pod but its owner and admins, each with a token of their own",
            hint="Leave out api_tokens and allow_unauthenticated_access.",
        )
    ports = spec.container.ports or []
    numbers = {port.container_port for port in ports}
    if len(ports) > MAX_PORTS or len(numbers) < len(ports):
        raise InvalidRequest(
            "spec.container.ports: one is named twice, or there are too many",
            hint=f"Name each once, at most {MAX_PORTS}.",
        )
    if sum(port.is_proxied for port in ports) > 1:
        raise InvalidRequest(
            f"spec.container.ports: several are {INGRESS_PROXY}",
            hint=f"The gateway serves one; make the others {HOST_PORT_MAPPING}.",
        )
    settings = spec.pod or PodSettings()
    for key in settings.ssh_keys or ():
        if not _SSH_KEY.match(key):
            raise InvalidRequest(
                "spec.pod.ssh_keys: this is no public key",
                hint="Give the line of a file like ~/.ssh/id_ed25519.pub.",
            )
    if settings.ssh_listen is not None:
        try:
            ipaddress.ip_address(settings.ssh_listen)
        except ValueError:
            raise InvalidRequest(
                f"spec.pod.ssh_listen: {settings.ssh_listen[:60]!r} is no address",
                hint='"127.0.0.1", or "0.0.0.0" for all of the node\'s.',
            ) from None
    asks = any(env.name == JUPYTER_VARIABLE and env.value == "true" for env in spec.envs or ())
    if asks and settings.jupyter is None:
        settings = replace(settings, jupyter=True)
    size = replace(spec.resource_requirement, max_replicas=None)
    return replace(
        spec,
        resource_requirement=size,
        auto_scaler=None,
        api_tokens=None,
        pod=settings if asks else spec.pod,
    )


@dataclass(frozen=True, slots=True)
class Idleness:
    since_ms: int | None  # None: somebody works in it
    stop: bool = False
    look_at_ms: int | None = None  # when it will be time, if it stays so


def idleness(pod: Endpoint, activity: PodActivity, now_ms: int) -> Idleness:
    """Whether a pod has been idle for as long as its user would pay for.

    Args:
        activity: what goes on in it now.
    """
    if busy(activity):
        return Idleness(None)
    since_ms = now_ms - 1000 * activity.quiet_s
    known_ms = pod.pod.idle_since_ms
    if known_ms is not None and since_ms <= known_ms + SAME_MS:
        since_ms = known_ms
    limit_s = pod.spec.pod.idle_stop_seconds if pod.spec.pod else None
    if limit_s is None:
        return Idleness(since_ms)
    due_ms = since_ms + 1000 * limit_s
    return Idleness(since_ms, stop=now_ms >= due_ms, look_at_ms=due_ms)


def busy(activity: PodActivity) -> bool:
    here = activity.sessions or activity.ssh or activity.forwards or activity.kernels
    return bool(here) or activity.cpu_millis >= BUSY_CPU_MILLIS


def stopped_for_idleness(pod: Endpoint, now_ms: int) -> Endpoint:
    """As if its user had stopped it."""
    size = replace(pod.spec.resource_requirement, min_replicas=0)
    spec = replace(pod.spec, resource_requirement=size)
    return replace(
        pod, spec=spec, modified_at_ms=now_ms, pod=PodSeen(node=pod.pod.node, home=pod.pod.home)
    )
