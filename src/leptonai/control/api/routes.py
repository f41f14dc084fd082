"""Every route there is."""

from leptonai.control.api import (
    artifacts,
    blobs,
    deployments,
    ingress,
    internal,
    jobs,
    logs,
    newer_endpoints,
    nodes,
    platform,
    quotas,
    reservations,
    rollouts,
    runs,
    secrets,
    templates,
    workspace,
)
from leptonai.control.api.routing import Route

ROUTES: tuple[Route, ...] = (
    *jobs.ROUTES,
    *deployments.ROUTES,
    *newer_endpoints.ROUTES,
    *rollouts.ROUTES,
    *ingress.ROUTES,
    *templates.ROUTES,
    *logs.ROUTES,
    *workspace.ROUTES,
    *nodes.ROUTES,
    *reservations.ROUTES,
    *quotas.ROUTES,
    *secrets.ROUTES,
    *artifacts.ROUTES,
    *runs.ROUTES,
    *blobs.ROUTES,
    *internal.ROUTES,
    *platform.ROUTES,
)
