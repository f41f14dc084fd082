"""The platform as such: its metrics, and the description of this API."""

from collections import Counter

from leptonai.control.api.routing import Answer, Call, Route, Scope
from leptonai.core.access import Action, Resource
from leptonai.core.records import Endpoint, Job, Node, Replica
from leptonai.monitoring import metrics
from leptonai.ports.store import Query
from leptonai.security.permissions import require
from leptonai.spec.jobs import JobState


async def read_metrics(call: Call) -> Answer:
    require(call.principal, Action.READ, Resource(kind="metrics"))
    world, store = call.world, call.world.store
    jobs = {state.value: await store.count(Job, Query(states=(state.value,))) for state in JobState}
    replicas = Counter(each.phase.value for each in await store.find(Replica, Query(live=True)))
    endpoints = Counter(each.state.value for each in await store.find(Endpoint, Query()))
    nodes = Counter(each.state.value for each in await store.find(Node, Query()))
    version = {world.config.version: 1}
    lines = (
        *metrics.gauge("lepton_info", "The version that runs.", version, "version"),
        *metrics.gauge("lepton_jobs", "Jobs by state.", jobs, "state"),
        *metrics.gauge("lepton_replicas", "Live replicas by phase.", replicas, "phase"),
        *metrics.gauge("lepton_endpoints", "Endpoints by state.", endpoints, "state"),
        *metrics.gauge("lepton_nodes", "Nodes by state.", nodes, "state"),
        *world.measures.requests.lines(),
        *world.measures.seconds.lines(),
    )
    return Answer(body=metrics.text(lines).encode(), media=metrics.CONTENT_TYPE)


async def read_schema(call: Call) -> Answer:
    raise AssertionError("the application answers this itself: it knows all its routes")


ROUTES = (
    Route(
        method="GET",
        path="/metrics",
        handler=read_metrics,
        summary="Metrics in the Prometheus text format",
        media=metrics.CONTENT_TYPE,
        scope=Scope.PLATFORM,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=read_schema,
        summary="This document",
        scope=Scope.PLATFORM,
    ),
)
