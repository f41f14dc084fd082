"""Whatever fits the OpenAPI document, and much that does not, is answered as the document says."""

import asyncio
import json
import os

import pytest
import schemathesis
from api_world import ApiUnderTest, a_job, an_endpoint
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from leptonai.control.api.openapi import document
from leptonai.control.api.routes import ROUTES
from leptonai.core import records
from leptonai.core.records import Replica
from leptonai.ports.store import Put, Query
from leptonai.stores.memory import MemoryStore

RUN = "0" * 32
# Of each operation and mode; the same ones each time. Whoever changed a route asks for more.
EXAMPLES = int(os.environ.get("LEPTON_FUZZ_EXAMPLES", "4"))
DOCUMENT = json.loads(document(ROUTES, version="1"))
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [
    (path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods
]

load_all_checks()
KEPT = ("not_a_server_error", "response_schema_conformance", "content_type_conformance")
PROMISES = CHECKS.get_by_names(list(KEPT))


async def a_lived_in_workspace(api: ApiUnderTest) -> dict[str, str]:
    """Something at the end of every path: its parts."""
    await api.prepare()
    job = (await api.call("POST", "/jobs", json=a_job())).json()["metadata"]["id"]
    await api.call("POST", "/deployments", json=an_endpoint())
    await api.call("POST", "/usersecrets", json=[{"name": "digits", "value": "x"}])
    digest = await api.add_blob(b"data")
    for kind in ("datasets", "models"):
        spec = {"digest": digest, "size_bytes": 4, "format": "f"}
        await api.call("POST", f"/{kind}", json={"metadata": {"name": "cnn"}, "spec": spec})
    await api.call("POST", "/runs", json={"metadata": {"id": RUN}, "spec": {}})
    await api.call("PATCH", "/workspace", json={"features": {"enable_new_deployment_api": True}})
    domain = {"domain_name": "m.example.org", "endpoints": [{"deployment": "digits"}]}
    await api.call("POST", "/ingress", json={"metadata": {"name": "digits"}, "spec": domain})
    template = {"content": a_job()["spec"], "json_schema": {"properties": {"a": {}}}}
    made = {"metadata": {"name": job}, "spec": template}
    await api.call("POST", "/templates/private", json=made)
    await api.call("POST", "/rayclusters", json={"metadata": {"name": "digits"}, "spec": {}})
    for replica in await api.store.find(Replica, Query()):
        # Ended, so that its log does.
        await api.store.commit(Put(replace(replica, phase=records.Phase.DONE)))
    (replica,) = await api.store.find(Replica, Query(parent=f"job/{job}"))
    return {
        "id": job,
        "name": "digits",
        "replica": replica.id,
        "reference": "cnn",
        "digest": digest,
        "group": "local",
    }


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_keeps_its_promise(path, method, mode, tmp_path):
    operation = SCHEMA[path][method]

    @given(st.data())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(data):
        case = data.draw(operation.as_strategy(generation_mode=mode))
        known = data.draw(st.booleans())
        asyncio.run(_ask(case, tmp_path, known))

    try:
        ask()
    except schemathesis.errors.InvalidSchema:  # nothing there that could be wrong
        pytest.skip("takes nothing that could be wrong")


async def _ask(case, tmp_path, known):
    api = ApiUnderTest(tmp_path / "audit.log", MemoryStore())
    parts = await a_lived_in_workspace(api)
    path = case.path_parameters or {}
    path["workspace"] = "ws"
    if known:
        path |= {name: parts[name] for name in path if name in parts}
        if "/runs/" in case.path:
            path["id"] = RUN
    case.path_parameters = path
    method = case.method
    sent = case.as_transport_kwargs(base_url="http://api")
    headers = dict(sent["headers"]) | {"authorization": f"Bearer {api.tokens['admin']}"}
    params = {"timeout_s": "0", "follow": "false"} | dict(sent.get("params") or {})
    if case.path.endswith("/log"):
        params["follow"] = "false"
    body = {name: sent[name] for name in ("json",) if sent.get(name) is not None}
    if known and method == "POST" and isinstance(body.get("json"), dict):
        body["json"] = _with_a_good_name(body["json"])
    if sent.get("data") is not None:
        body["content"] = sent["data"]
    answer = await api.http.request(
        sent["method"], sent["url"], headers=headers, params=params, **body
    )
    await api.http.aclose()
    api.world.audit.close()
    case.validate_response(answer, checks=PROMISES)


def _with_a_good_name(body):
    """Past the first checks, to those behind them."""
    spec = body.get("spec")
    if isinstance(spec, dict) and isinstance(spec.get("container", {}), dict):
        spec = spec | {"container": spec.get("container", {}) | {"command": ["a"]}}
    return body | {"metadata": {"name": "fuzzed"}, "spec": spec}
