"""Every route there is."""

from leptonai.control.api import (
    artifacts,
    blobs,
    deployments,
    internal,
    jobs,
    logs,
    nodes,
    objects,
    photons,
    platform,
    queues,
    quotas,
    rollouts,
    runs,
    secrets,
    values,
    workspace,
)
from leptonai.control.api.routing import Route

ROUTES: tuple[Route, ...] = (
    *jobs.ROUTES,
    *deployments.ROUTES,
    *rollouts.ROUTES,
    *logs.ROUTES,
    *workspace.ROUTES,
    *nodes.ROUTES,
    *quotas.ROUTES,
    *secrets.ROUTES,
    *values.ROUTES,
    *queues.ROUTES,
    *objects.ROUTES,
    *photons.ROUTES,
    *artifacts.ROUTES,
    *runs.ROUTES,
    *blobs.ROUTES,
    *internal.ROUTES,
    *platform.ROUTES,
)
