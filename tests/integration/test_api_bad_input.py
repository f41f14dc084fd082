import json

import pytest
from api_world import a_job, an_endpoint, with_api
from msgspec.structs import replace

from leptonai.control.api.app import plain
from leptonai.core.records import Job
from leptonai.errors import VersionConflict
from leptonai.ports.store import Put, Query
from leptonai.spec.jobs import JobState

EVERY_PATH = [
    ("GET", "/api/v2/workspaces/ws"),
    ("GET", "/api/v2/workspaces/ws/workspace"),
    ("POST", "/api/v2/workspaces/ws/jobs"),
    ("GET", "/api/v2/workspaces/ws/nothing/here"),
    ("GET", "/api/v2/workspaces/unknown/jobs"),
    ("GET", "/internal/routes"),
    ("POST", "/internal/traffic"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
]


@pytest.mark.parametrize(("method", "path"), EVERY_PATH)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic YTpi", "Bearer lepton_job_YQ.YQ"],
)
def test_without_a_known_token_nothing_is_told(method, path, authorization, tmp_path):
    async def story(api):
        headers = {} if authorization is None else {"authorization": authorization}
        answer = await api.http.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        body = answer.json()
        assert (set(body), body["code"]) == ({"code", "message", "hint"}, "Unauthenticated")

    with_api(story)(tmp_path)


@with_api
async def test_health_needs_no_token(api):
    answer = await api.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@with_api
async def test_anothers_workspace_and_one_that_is_not_look_the_same(api):
    answers = [
        await api.call("GET", f"/api/v2/workspaces/{name}/jobs", who="ana")
        for name in ("other", "moon")
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    texts = {answer.text.replace("other", "X").replace("moon", "X") for answer in answers}
    assert len(texts) == 1


@with_api
async def test_a_gateways_token_opens_no_workspace(api):
    for path in ("/workspace", "/dedicated-node-groups", "/jobs/x", "/shapes"):
        answer = await api.call("GET", path, who="gateway")
        assert answer.status_code in (403, 404), path
    assert (await api.call("POST", "/jobs", json=a_job(), who="gateway")).status_code == 403
    assert (await api.call("GET", "/usersecrets", who="gateway")).json() == []


@with_api
async def test_a_jobs_own_token_ends_with_the_job(api):

    mine = (await api.call("POST", "/jobs", json=a_job(), who="ana")).json()["metadata"]["id"]
    other = (await api.call("POST", "/jobs", json=a_job(), who="ana")).json()["metadata"]["id"]
    api.tokens["job"] = api.job_tokens.of("ws", mine)
    digest = await api.add_blob(b"weights")
    model = {
        "metadata": {"name": "m"},
        "spec": {"digest": digest, "size_bytes": 7, "format": "torch"},
    }
    allowed = [
        ("GET", f"/jobs/{mine}", None),
        ("GET", f"/blobs/{digest}", None),
        ("POST", "/models", model),
        ("GET", "/models/m", None),
        ("GET", "/datasets", None),
    ]
    for method, path, body in allowed:
        answer = await api.call(method, path, json=body, who="job")
        assert answer.status_code == 200, (path, answer.text)
    assert (await api.call("GET", "/models/m")).json()["metadata"]["owner"] == "ana"
    refused = [
        ("GET", f"/jobs/{other}", None, 404),
        ("DELETE", f"/jobs/{mine}", None, 403),
        ("POST", "/jobs", a_job(), 403),
        ("POST", "/usersecrets", [{"name": "A", "value": "b"}], 403),
        ("POST", "/deployments", an_endpoint(), 403),
        ("DELETE", "/models/m", None, 403),
        ("GET", "/workspace", None, 403),
    ]
    for method, path, body, status in refused:
        answer = await api.call(method, path, json=body, who="job")
        assert answer.status_code == status, (path, answer.text)
    job = await api.store.get(Job, "ws", mine)
    await api.store.commit(Put(replace(job, state=JobState.COMPLETED)))
    assert (await api.call("GET", "/datasets", who="job")).status_code == 401


ENV = {"name": "A", "value": "1"}
ABSENT = "sha256:" + "0" * 64

BAD_JOBS = {
    "no name": ({"metadata": {}, "spec": a_job()["spec"]}, 400, "the job's name is empty"),
    "capital letters": (a_job("Hello"), 400, "not allowed"),
    "a name that ends in a dash": (a_job("hello-"), 400, "dash"),
    "a name that is too long": (a_job("a" * 37), 400, "37 characters"),
    "a reserved name": (a_job("made-by-lepton"), 400, "reserved"),
    "no metadata": ({"spec": {}}, 400, "metadata: is required"),
    "no command": (a_job(container={}), 400, "command"),
    "an empty command": (a_job(container={"command": [""]}), 400, "command"),
    "an unknown field": (a_job(comand=["x"]), 400, "spec.comand: there is no such field"),
    "a wrong type": (a_job(completions="3"), 400, "spec.completions: expected int, got str"),
    "no workers": (a_job(completions=0), 400, "spec.completions: expected int >= 1"),
    "too many workers": (a_job(completions=10**9), 400, "expected int <= 10000"),
    "two numbers of workers": (a_job(completions=2, parallelism=1), 400, "parallelism"),
    "an unknown shape": (a_job(resource_shape="cpu.huge"), 400, "no shape 'cpu.huge'"),
    "more than any machine has": (a_job(cpu=64), 422, "could never run here"),
    "more workers than fit": (a_job(cpu=4, completions=2), 422, "could never run here"),
    "a GPU where there is none": (a_job(resource_shape="gpu.h100"), 422, "could never run here"),
    "a third of three GPUs": (a_job(accelerator_num=1.5), 400, "1.5 GPUs"),
    "an unknown priority": (
        a_job(queue_config={"priority_class": "urgent"}),
        400,
        "no class 'urgent'",
    ),
    "a priority out of bounds": (
        a_job(queue_config={"priority_class": "low-9000"}),
        400,
        "no class 'low-9000'",
    ),
    "a reserved variable": (
        a_job(envs=[{"name": "LEPTON_JOB_NAME", "value": "x"}]),
        400,
        "LEPTON_JOB_NAME",
    ),
    "a variable that starts with a digit": (
        a_job(envs=[{"name": "1A", "value": "x"}]),
        400,
        "not allowed",
    ),
    "a variable twice": (a_job(envs=[ENV, ENV]), 400, "given twice"),
    "a variable without a value": (a_job(envs=[{"name": "A"}]), 400, "neither or both"),
    "an unknown secret": (
        a_job(envs=[{"name": "A", "value_from": {"secret_name_ref": "NOPE"}}]),
        400,
        "the secret 'NOPE', which does not exist",
    ),
    "an unknown working directory": (a_job(workdir=ABSENT), 400, "was uploaded"),
    "a working directory that is no digest": (a_job(workdir="../../etc"), 400, "not a digest"),
    "an unknown node group": (
        a_job(affinity={"allowed_dedicated_node_groups": ["moon"]}),
        400,
        "no node group 'moon'",
    ),
    "a volume": (
        a_job(mounts=[{"path": "/", "from": "node-local", "mount_path": "/data"}]),
        400,
        "there is no volume",
    ),
    "a start in milliseconds": (
        a_job(time_schedule={"start_at": 1_700_000_000_000_000}),
        400,
        "start_at",
    ),
    "a label that nothing selects": (
        {"metadata": {"id": "a", "labels": {"a b": "c"}}, "spec": a_job()["spec"]},
        400,
        "label key",
    ),
    "an enormous value": (
        a_job(envs=[{"name": "A", "value": "x" * (200 << 10)}]),
        400,
        "spec.envs[0].value: a text of",
    ),
    "a NUL character": (a_job(container={"command": ["a\0b"]}), 400, "NUL"),
}


@pytest.mark.parametrize("case", BAD_JOBS)
def test_a_job_that_cannot_be_is_refused_and_nothing_is_kept(case, tmp_path):
    body, status, words = BAD_JOBS[case]

    async def story(api):
        answer = await api.call("POST", "/jobs", json=body)
        problem = answer.json()
        assert answer.status_code == status, answer.text
        assert words in problem["message"]
        assert problem["hint"]
        assert await api.store.find(Job, Query()) == []

    with_api(story)(tmp_path)


BAD_ENDPOINTS = {
    "nothing to run": ({"metadata": {"id": "a"}, "spec": {}}, 400, "a command or a model"),
    "an illegal name": (an_endpoint("A"), 400, "not allowed"),
    "an unknown model": ({"metadata": {"id": "a"}, "spec": {"model": "no"}}, 404, "no model 'no'"),
    "fewer at most than at least": (
        an_endpoint(resource_requirement={"min_replicas": 2, "max_replicas": 1}),
        400,
        "max_replicas",
    ),
    "two targets to scale by": (
        an_endpoint(
            auto_scaler={"target_throughput": {"qpm": 5}, "target_gpu_utilization_percentage": 50}
        ),
        400,
        "2 targets to scale by",
    ),
    "a latency that is none": (
        an_endpoint(auto_scaler={"slo": "fast"}),
        400,
        "'fast' is no target for latency",
    ),
    "a schedule that is none": (
        an_endpoint(auto_scaler={"schedules": [{"times": "at night", "min_replicas": 2}]}),
        400,
        "'at night' is no schedule",
    ),
    "less than no requests": (
        an_endpoint(auto_scaler={"target_throughput": {"qpm": -1}}),
        400,
        "spec.auto_scaler.target_throughput.qpm: expected float >= 0",
    ),
    "a port that is none": (
        an_endpoint(container={"command": ["a"], "ports": [{"container_port": 70_000}]}),
        400,
        "spec.container.ports[0].container_port",
    ),
    "an empty token": (an_endpoint(api_tokens=[{"value": ""}]), 400, "api_tokens"),
    "a token that no header can hold": (an_endpoint(api_tokens=[{"value": "ä"}]), 400, "token"),
    "an unknown token reference": (
        an_endpoint(api_tokens=[{"value_from": {"token_name_ref": "x"}}]),
        400,
        "no token 'x'",
    ),
    "tokens that protect nothing": (
        an_endpoint(api_tokens=[{"value": "a"}], allow_unauthenticated_access=True),
        400,
        "protect nothing",
    ),
    "an address that is none": (
        an_endpoint(auth_config={"ip_allowlist": ["localhost"]}),
        400,
        "'localhost' is no address",
    ),
    "a time-out out of bounds": (
        an_endpoint(ingress_timeout_seconds=1),
        400,
        "spec.ingress_timeout_seconds: expected int >= 300",
    ),
    "a path that is none": (
        an_endpoint(health={"readiness": {"http": {"path": "healthz"}}}),
        400,
        "is no path",
    ),
    "more than any machine has": (
        an_endpoint(resource_requirement={"memory": 1 << 20}),
        422,
        "could never run here",
    ),
}


@pytest.mark.parametrize("case", BAD_ENDPOINTS)
def test_an_endpoint_that_cannot_be_is_refused(case, tmp_path):
    body, status, words = BAD_ENDPOINTS[case]

    async def story(api):
        answer = await api.call("POST", "/deployments", json=body)
        assert answer.status_code == status, answer.text
        assert words in answer.json()["message"]
        assert (await api.call("GET", "/deployments")).json() == []

    with_api(story)(tmp_path)


BAD_REQUESTS = {
    "malformed JSON": ("POST", "/jobs", b'{"metadata": {', 400, "line 1, column 15"),
    "an empty body": ("POST", "/jobs", b"", 400, "the body is empty"),
    "a list for an object": ("POST", "/jobs", b"[]", 400, "expected object, got array"),
    "an object for a list": ("POST", "/usersecrets", b"{}", 400, "expected array, got object"),
    "a number that is none": (
        "POST",
        "/jobs",
        b'{"metadata":{"id":"a"},"spec":{"cpu":NaN}}',
        400,
        "NaN",
    ),
    "deep nesting": ("POST", "/jobs", b"[" * 5_000, 400, "nested too deeply"),
    "a patch that is no object": ("PATCH", "/jobs/x", b"[]", 400, "expected object"),
    "a patch of no such field": ("PATCH", "/deployments/x", b'{"spce":{}}', 400, "spce"),
    "a page that is none": ("GET", "/jobs?page=0", b"", 400, "out of bounds"),
    "a page that is no number": ("GET", "/jobs?page=one", b"", 400, "expected int"),
    "a page that is too large": ("GET", "/jobs?page_size=5000", b"", 400, "out of bounds"),
    "an unknown query mode": ("GET", "/jobs?job_query_mode=all", b"", 400, "no 'all'"),
    "an unknown job": ("GET", "/jobs/nope", b"", 404, "no job 'nope'"),
    "an unknown endpoint": ("GET", "/deployments/nope", b"", 404, "no endpoint or pod 'nope'"),
    "an unknown path": ("GET", "/nope", b"", 404, "nothing at this path"),
    "a method that is not": ("PUT", "/jobs", b"", 405, "PUT is not possible here"),
    "a path with a NUL": ("GET", "/jobs/a%00b", b"", 404, "nothing at this path"),
    "a secret without a value": ("POST", "/usersecrets", b'[{"name":"A"}]', 400, "no value"),
    "a secret of a bad name": (
        "POST",
        "/usersecrets",
        b'[{"name":"a b","value":"c"}]',
        400,
        "not allowed",
    ),
    "a secret twice": (
        "POST",
        "/usersecrets",
        b'[{"name":"A","value":"1"},{"name":"A","value":"2"}]',
        400,
        "given twice",
    ),
    "a secret that no variable can hold": (
        "POST",
        "/usersecrets",
        b'[{"name":"A","value":"' + b"x" * (128 << 10) + b'"}]',
        413,
        "too large",
    ),
    "too many secrets": (
        "POST",
        "/usersecrets",
        json.dumps([{"name": f"A{i}", "value": ""} for i in range(101)]).encode(),
        413,
        "101 secrets",
    ),
    "10 MB": ("POST", "/jobs", b" " * 10_000_000, 413, "more than 2097152 bytes"),
    "a log before its start": ("GET", "/logs?job=x&start=-1", b"", 404, "no job"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_told_what_is_wrong(case, tmp_path):
    method, path, body, status, words = BAD_REQUESTS[case]

    async def story(api):
        answer = await api.call(method, path, content=body)
        problem = answer.json()
        assert answer.status_code == status, answer.text
        assert set(problem) == {"code", "message", "hint"}
        assert words in problem["message"]
        assert problem["hint"]

    with_api(story)(tmp_path)


@with_api
async def test_a_large_body_is_refused_at_the_byte_too_many_without_its_length(api):
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(1_000):
            sent += 1 << 16
            yield b" " * (1 << 16)

    headers = {"authorization": f"Bearer {api.tokens['admin']}"}
    path = "/api/v2/workspaces/ws/jobs"
    answer = await api.http.post(path, content=chunks(), headers=headers)
    assert answer.status_code == 413
    assert sent < 3 << 20


@with_api
async def test_enormous_headers_are_refused(api):
    answer = await api.call("GET", "/jobs", headers={"x-much": "x" * 70_000})
    assert answer.status_code == 413


@with_api
async def test_what_nobody_expected_tells_nothing_but_where_to_look(api):
    async def explode(*_, **__):
        raise RuntimeError("a secret detail")

    api.store.find = explode
    answer = await api.call("GET", "/usersecrets", who="admin")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (500, "Internal")
    assert answer.headers["x-request-id"] in problem["message"]
    assert "secret detail" not in answer.text and "Traceback" not in answer.text


@with_api
async def test_a_conflict_that_goes_on_ends_in_try_later(api):

    id = (await api.call("POST", "/jobs", json=a_job())).json()["metadata"]["id"]

    async def conflict(*_, **__):
        raise VersionConflict("somebody was faster")

    api.store.commit = conflict
    answer = await api.call("PATCH", f"/jobs/{id}", json={"spec": {"stopped": True}})
    assert (answer.status_code, answer.json()["code"]) == (503, "Unavailable")
    assert answer.headers["retry-after"] == "1"


@with_api
async def test_every_attempt_to_change_something_leaves_a_line(api):
    await api.call("POST", "/usersecrets", json=[{"name": "A", "value": "s3cret"}], who="ana")
    await api.call("GET", "/usersecrets", who="ana")
    await api.call("DELETE", "/usersecrets/B", who="ben")
    await api.call("POST", "/jobs", json=a_job(), who=None)
    lines = [json.loads(line) for line in api.audit.read_text().splitlines()]
    told = [(line["principal"], line["action"], line["status"], line.get("code")) for line in lines]
    prefix = "/api/v2/workspaces/ws"
    assert told == [
        ("ana", f"POST {prefix}/usersecrets", 200, None),
        ("ben", f"DELETE {prefix}/usersecrets/B", 404, "NotFound"),
        ("", f"POST {prefix}/jobs", 401, "Unauthenticated"),
    ]
    assert api.audit.stat().st_mode & 0o777 == 0o600
    assert "s3cret" not in api.audit.read_text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[x] y", "(x) y"),
        ("[/x]", "(/x)"),
        ("envs[1]", "envs[1]"),
        ("[red][b]z", "(red)(b)z"),
        ("[[a]]", "[(a)]"),
    ],
)
def test_no_error_holds_what_a_terminal_takes_for_markup(text, shown):
    assert plain(text) == shown


@with_api
async def test_markup_in_a_name_is_not_echoed(api):
    answer = await api.call("POST", "/jobs", json=a_job("[/red]"))
    assert answer.status_code == 400
    assert "[/red]" not in answer.text
