"""A workspace in memory behind a real socket: enough of the wire to test clients against, with
faults on request. Nothing runs in it; a test says what has happened."""

import itertools
import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from leptonai.blobs.packs import Naming

TOKEN = "test-token"
WORKSPACE = "default"
PREFIX = f"/api/v2/workspaces/{WORKSPACE}"
Json = dict[str, Any]


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "message": message, "hint": hint}


class WorkspaceServer:
    """Survives its own `stop` and `start`: what it holds stays, on the same port.

    Faults, each for the next requests: `answer_instead` with a status, `drop` the connection after
    the work is done and before it is answered.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Json] = {}
        self.endpoints: dict[str, Json] = {}
        self.secrets: dict[str, Json] = {}
        self.quotas: dict[tuple[str, str], Json] = {}  # by "users" or "projects", and name
        self.blobs: dict[str, bytes] = {}
        self.artifacts: dict[str, list[Json]] = {"datasets": [], "models": []}
        self.replicas: dict[str, list[Json]] = {}  # by job id or endpoint name
        self.events: dict[str, list[Json]] = {}
        self.logs: dict[str, Callable[[], Iterable[bytes]]] = {}  # chunks, by replica id
        self.history: list[tuple[int, str]] = []
        self.why: Json = {"state": "Queueing", "code": "capacity", "because": "", "data": {}}
        self.keys: dict[str, Json] = {}
        self.seen: list[str] = []  # "GET /jobs?page=1"
        self.bodies: list[bytes] = []
        self.answer_instead: deque[int] = deque()
        self.drop = 0
        self._count = itertools.count(1)
        self._port = 0
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{PREFIX}"

    def __enter__(self) -> "WorkspaceServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.workspace = self
        self._port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def stop(self) -> None:
        """As `kill -9` does: every connection breaks."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.break_connections()

    def add_job(self, name: str, state: str = "Running", **fields: Any) -> str:
        job_id = f"{name}-{next(self._count):04d}"
        self.jobs[job_id] = {
            "metadata": {"id": job_id, "name": name, "created_at": _now_ms(), "owner": "admin"},
            "spec": fields.pop("spec", {"container": {"command": ["true"]}}),
            "status": {"job_name": name, "state": state, "creation_time": _now_ms(), **fields},
        }
        return job_id

    def add_replica(self, owner: str, replica_id: str, *chunks: bytes, **status: Any) -> None:
        self.replicas.setdefault(owner, []).append(
            {
                "metadata": {"id": replica_id, "created_at": next(self._count)},
                "id": replica_id,
                "status": {"state": "Running", **status},
            }
        )
        self.logs[replica_id] = lambda: chunks

    # --- the wire ---------------------------------------------------------------------------------

    def answer(
        self, method: str, path: str, query: dict[str, list[str]], body: bytes, key: str
    ) -> Any:
        parts = tuple(unquote(part) for part in path.strip("/").split("/"))
        match (method, *parts):
            case ("GET", "workspace"):
                return _WORKSPACE_INFO
            case ("GET", "jobs"):
                return self._list_jobs(query)
            case ("POST", "jobs"):
                return self._once(key, lambda: self._create_job(_object(body)))
            case (_, "jobs", job_id, *rest):
                if job_id not in self.jobs:
                    raise Refused(404, "NotFound", f"there is no job {job_id}", "see the list")
                return self._of_job(method, job_id, rest, body)
            case ("GET", "deployments"):
                return [*self.endpoints.values()]
            case ("POST", "deployments"):
                return self._once(key, lambda: self._create_endpoint(_object(body)))
            case (_, "deployments", name, *rest):
                if name not in self.endpoints:
                    raise Refused(404, "NotFound", f"there is no endpoint {name}", "see the list")
                return self._of_endpoint(method, name, rest, body)
            case ("GET", "usersecrets"):
                return [{"name": name} for name in self.secrets]
            case ("POST", "usersecrets"):
                for item in json.loads(body):
                    if item["name"] in self.secrets:
                        raise Refused(409, "AlreadyExists", f"{item['name']} exists", "remove it")
                    self.secrets[item["name"]] = item
                return {}
            case ("DELETE", "usersecrets", name):
                if self.secrets.pop(name, None) is None:
                    raise Refused(404, "NotFound", f"there is no secret {name}")
                return {}
            case ("GET", "quotas"):
                return [
                    {"kind": kind[:-1], "name": name, "spec": spec, "used": {}}
                    for (kind, name), spec in self.quotas.items()
                ]
            case ("PUT", "quotas", kind, name):
                self.quotas[kind, name] = json.loads(body)
                return {"kind": kind[:-1], "name": name, "spec": json.loads(body), "used": {}}
            case ("DELETE", "quotas", kind, name):
                if self.quotas.pop((kind, name), None) is None:
                    raise Refused(404, "NotFound", f"{name} has no quota")
                return {}
            case ("PUT", "blobs", digest):
                naming = Naming()
                naming.update(body)
                assert digest == f"sha256:{naming.hexdigest()}"
                self.blobs[digest] = body
                return {}
            case ("HEAD" | "GET", "blobs", digest):
                if digest not in self.blobs:
                    raise Refused(404, "NotFound", f"there is no blob {digest}")
                return self.blobs[digest]
            case (_, "datasets" | "models" as kind, *rest):
                return self._of_artifacts(method, kind, rest, query, body)
            case ("GET", "dedicated-node-groups"):
                return [{"metadata": {"id": "local", "name": "local"}, "spec": {}, "status": {}}]
            case ("GET", "dedicated-node-groups", "local", "nodes"):
                return [_NODE]
            case ("GET", "shapes"):
                shape = {"name": "cpu.small", "cpu": 1.0, "memory_in_mb": 4096}
                return [{"metadata": {"id": "cpu.small"}, "spec": shape}]
            case ("GET", "logs"):
                return self._history(query)
        raise Refused(404, "NotFound", f"there is no {path}")

    def _once(self, key: str, create: Callable[[], Json]) -> Json:
        if not key:
            return create()
        if key not in self.keys:
            self.keys[key] = create()
        return self.keys[key]

    def _list_jobs(self, query: dict[str, list[str]]) -> Json:
        page, size = (int(query[name][0]) for name in ("page", "page_size"))
        wanted = query.get("q", [""])[0]
        states = [state.lower() for state in query.get("status", [])]
        archived = query["job_query_mode"][0] != "alive_only"
        found = [
            job
            for job in self.jobs.values()
            if wanted in job["metadata"]["id"]
            and (archived or job["status"]["state"] != "Archived")
            and (not states or any(job["status"]["state"].lower().startswith(s) for s in states))
        ]
        return {"jobs": found[(page - 1) * size : page * size]}

    def _create_job(self, asked: Json) -> Json:
        name = asked["metadata"]["id"]
        job_id = self.add_job(name, "Queueing", spec=asked["spec"])
        self.jobs[job_id]["metadata"]["labels"] = asked["metadata"].get("labels")
        return self.jobs[job_id]

    def _of_job(self, method: str, job_id: str, rest: list[str], body: bytes) -> Any:
        job = self.jobs[job_id]
        match (method, *rest):
            case ("GET",):
                return job
            case ("PATCH",):
                stopped = _object(body)["spec"]["stopped"]
                job["status"]["state"] = "Stopped" if stopped else "Queueing"
                return job
            case ("DELETE",):
                del self.jobs[job_id]
                return {}
            case ("GET", "replicas"):
                return self.replicas.get(job_id, [])
            case ("GET", "replicas", replica_id, "log"):
                return self.logs[replica_id]()
            case ("GET", "events"):
                return self.events.get(job_id, [])
            case ("GET", "why"):
                return self.why
        raise Refused(405, "InvalidRequest", "no such call")

    def _create_endpoint(self, asked: Json) -> Json:
        name = asked["metadata"]["name"]
        if name in self.endpoints:
            raise Refused(409, "AlreadyExists", f"endpoint {name} exists", "choose another name")
        address = {"internal_endpoint": "", "external_endpoint": f"http://127.0.0.1:1/e/d/{name}/"}
        self.endpoints[name] = {
            "metadata": {"id": name, "name": name, "created_at": _now_ms()},
            "spec": asked["spec"],
            "status": {"state": "Starting", "endpoint": address, "ready_replicas": 0},
        }
        return self.endpoints[name]

    def _of_endpoint(self, method: str, name: str, rest: list[str], body: bytes) -> Any:
        endpoint = self.endpoints[name]
        match (method, *rest):
            case ("GET",) | ("PUT", "restart"):
                return endpoint
            case ("PATCH",):
                endpoint["spec"] = _merged(endpoint["spec"], _object(body)["spec"])
                return endpoint
            case ("DELETE",):
                del self.endpoints[name]
                return {}
            case ("GET", "replicas"):
                return self.replicas.get(name, [])
            case ("GET", "replicas", replica_id, "log"):
                return self.logs[replica_id]()
            case ("GET", "events"):
                return self.events.get(name, [])
            case ("GET", "why"):
                return self.why
            case ("GET", "readiness" | "termination"):
                return {}
        raise Refused(405, "InvalidRequest", "no such call")

    def _of_artifacts(
        self, method: str, kind: str, rest: list[str], query: dict[str, list[str]], body: bytes
    ) -> Any:
        stored = self.artifacts[kind]
        if not rest:
            if method == "POST":
                asked = _object(body)
                name = asked["metadata"]["name"]
                version = 1 + sum(1 for each in stored if each["metadata"]["name"] == name)
                asked["metadata"] |= {"version": version, "created_at": _now_ms()}
                stored.append(asked)
                return asked
            page, size = (int(query[name][0]) for name in ("page", "page_size"))
            return stored[(page - 1) * size : page * size]
        name, _, version_text = rest[0].partition("@")
        found = [
            each
            for each in stored
            if each["metadata"]["name"] == name
            and version_text in ("", str(each["metadata"]["version"]))
        ]
        if not found:
            raise Refused(404, "NotFound", f"there is no {rest[0]} in {kind}")
        if method == "DELETE":
            self.artifacts[kind] = [each for each in stored if each not in found]
            return {}
        return found[-1]

    def _history(self, query: dict[str, list[str]]) -> Json:
        start, end, limit = (int(query[name][0]) for name in ("start", "end", "limit"))
        lines = [(at, line) for at, line in self.history if start <= at < end][:limit]
        values = [[str(at), line] for at, line in lines]
        return {"data": {"result": [{"stream": {"replica": "r"}, "values": values}]}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    workspace: WorkspaceServer

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sockets: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._sockets.add(request)
        super().process_request(request, client_address)

    def break_connections(self) -> None:
        for each in self._sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    _STATUS_TEXT: ClassVar = {503: "Unavailable", 502: "Unavailable", 429: "TooManyRequests"}

    def _handle(self) -> None:
        workspace = self.server.workspace
        body = self._body()
        url = urlsplit(self.path)
        workspace.seen.append(f"{self.command} {self.path.removeprefix(PREFIX)}")
        workspace.bodies.append(body)
        if workspace.answer_instead:
            status = workspace.answer_instead.popleft()
            code = self._STATUS_TEXT.get(status, "Internal")
            self._send_json(status, {"code": code, "message": "not now", "hint": "try later"})
            return
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthenticated", "wrong token", "use `leptonai token show`")
            if not url.path.startswith(PREFIX + "/"):
                raise Refused(404, "NotFound", "there is no such workspace", "see the URL")
            path = re.sub("^" + re.escape(PREFIX), "", url.path)
            answer = workspace.answer(
                self.command,
                path,
                parse_qs(url.query),
                body,
                self.headers.get("Idempotency-Key", ""),
            )
        except Refused as refused:
            self._send_json(refused.status, refused.body)
            return
        if workspace.drop:
            workspace.drop -= 1
            self.close_connection = True
            return
        if isinstance(answer, bytes):
            self._send(200, answer, "application/octet-stream")
        elif isinstance(answer, dict | list):
            self._send_json(200, answer)
        else:
            self._send_chunks(answer)

    do_GET = do_HEAD = do_POST = _handle  # noqa: N815
    do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send_json(self, status: int, body: object) -> None:
        self._send(status, json.dumps(body).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_chunks(self, chunks: Iterable[bytes]) -> None:
        """A generator that raises ConnectionResetError breaks the connection in the middle."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for chunk in chunks:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionResetError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Silent: tests look at `seen`."""


def _merged(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), change)
    return result


def _object(body: bytes) -> Json:
    decoded = json.loads(body)
    assert isinstance(decoded, dict)
    return decoded


def _now_ms() -> int:
    return int(time.time() * 1_000)


_AMOUNT = {"cpu": 4.0, "memory": 1024, "accelerator_num": 0.0}
_WORKSPACE_INFO = {
    "build_time": "",
    "git_commit": "0.1.0",
    "workspace_name": WORKSPACE,
    "workspace_tier": "basic",
    "workspace_state": "normal",
    "workspace_disk_usage_bytes": 0,
    "workloads": {},
    "resource_quota": {"limit": _AMOUNT, "used": _AMOUNT},
}
_NODE = {
    "metadata": {"id": "node-1", "name": "node-1"},
    "spec": {
        "unschedulable": False,
        "resource": {
            "cpu": {"type": "x", "allocated": 0.5, "total": 2.0},
            "memory": {"allocated": 512, "total": 4096},
        },
        "limits": "cgroup-v2",
    },
    "status": {"status": ["Ready"], "workloads": []},
}
