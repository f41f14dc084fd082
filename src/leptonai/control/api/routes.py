"""Every route there is."""

from leptonai.control.api import (
    artifacts,
    blobs,
    deployments,
    internal,
    jobs,
    logs,
    nodes,
    platform,
    quotas,
    rollouts,
    runs,
    secrets,
    storage,
    volumes,
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
    *volumes.ROUTES,
    *storage.ROUTES,
    *artifacts.ROUTES,
    *runs.ROUTES,
    *blobs.ROUTES,
    *internal.ROUTES,
    *platform.ROUTES,
)
