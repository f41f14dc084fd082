"""The numbers behind docs/decisions/0001: import time, codec speed, and the cost of a route.

In an environment of its own, because Lepton itself needs neither pydantic nor FastAPI::

    python3 -m venv DIR && DIR/bin/pip install msgspec pydantic starlette fastapi
    DIR/bin/python benchmarks/decisions/wire_and_web.py
"""

import asyncio
import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

IMPORTS = 15  # fresh interpreters a module is imported in
JOBS = 200  # in the list that is encoded and decoded
ROUNDS = 40
REQUESTS = 5_000
PACKAGES = ("msgspec", "pydantic", "starlette", "fastapi")

Send = Callable[[dict[str, Any]], Any]


def main() -> None:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    print(f"Python {platform.python_version()}, {versions}\n")
    bare = import_ms("pass")
    print(f"interpreter alone                 {bare:8.1f} ms")
    for title, program in (
        ("import msgspec", "import msgspec"),
        ("import pydantic + first model", PYDANTIC_MODEL),
        ("import starlette's app, routing", STARLETTE_APP),
        ("import fastapi + app", "import fastapi; fastapi.FastAPI()"),
    ):
        print(f"{title:<33} {import_ms(program) - bare:8.1f} ms more")
    print()
    for title, codec in (("msgspec", msgspec_codec()), ("pydantic", pydantic_codec())):
        decode_us, encode_us = codec
        print(f"{title:<10} a job: decode {decode_us:6.2f} us   encode {encode_us:6.2f} us")
    print()
    for title, app in (
        ("bare ASGI", bare_app()),
        ("Starlette", starlette_app()),
        ("FastAPI", fastapi_app()),
    ):
        print(f"{title:<10} a GET that answers with a small JSON: {request_us(app):6.1f} us CPU")


PYDANTIC_MODEL = "import pydantic\nclass A(pydantic.BaseModel):\n    a: int"
STARLETTE_APP = "import starlette.applications, starlette.routing, starlette.responses"


def import_ms(program: str) -> float:
    """The best of several fresh interpreters, files in the page cache."""

    def once() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        return time.perf_counter() - begin

    return 1000 * min(once() for _ in range(IMPORTS))


# --- codec ---------------------------------------------------------------------------------------


def jobs() -> list[dict[str, Any]]:
    return [
        {
            "metadata": {"id": f"j{i}", "name": "train", "created_at": i, "labels": {"a": "b"}},
            "spec": {
                "command": ["torchrun", "train.py", "--epochs", "5"],
                "envs": [{"name": f"V{k}", "value": "x" * 20} for k in range(6)],
                "cpu": 2.5,
                "memory": 4096,
                "completions": 2,
            },
        }
        for i in range(JOBS)
    ]


def msgspec_codec() -> tuple[float, float]:
    import msgspec

    class Metadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
        id: str | None = None
        name: str | None = None
        created_at: int | None = None
        labels: dict[str, str] | None = None

    class EnvVar(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
        name: str
        value: str | None = None

    class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
        command: list[str] | None = None
        envs: list[EnvVar] | None = None
        cpu: float | None = None
        memory: int | None = None
        completions: int | None = None

    class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
        metadata: Metadata
        spec: Spec

    decoder, encoder = msgspec.json.Decoder(list[Job]), msgspec.json.Encoder()
    body = encoder.encode(jobs())
    values = decoder.decode(body)
    return a_job_us(lambda: decoder.decode(body)), a_job_us(lambda: encoder.encode(values))


def pydantic_codec() -> tuple[float, float]:
    import pydantic

    class Value(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True)

    class Metadata(Value):
        id: str | None = None
        name: str | None = None
        created_at: int | None = None
        labels: dict[str, str] | None = None

    class EnvVar(Value):
        name: str
        value: str | None = None

    class Spec(Value):
        command: list[str] | None = None
        envs: list[EnvVar] | None = None
        cpu: float | None = None
        memory: int | None = None
        completions: int | None = None

    class Job(Value):
        metadata: Metadata
        spec: Spec

    adapter = pydantic.TypeAdapter(list[Job])
    body = adapter.dump_json(adapter.validate_python(jobs()), exclude_none=True)
    values = adapter.validate_json(body)
    return (
        a_job_us(lambda: adapter.validate_json(body)),
        a_job_us(lambda: adapter.dump_json(values, exclude_none=True)),
    )


def a_job_us(do: Callable[[], object]) -> float:
    def once() -> float:
        begin = time.process_time()
        do()
        return time.process_time() - begin

    return 1e6 * min(once() for _ in range(ROUNDS)) / JOBS


# --- routes --------------------------------------------------------------------------------------


def bare_app() -> Callable[..., Any]:
    async def app(scope: dict[str, Any], receive: Any, send: Send) -> None:
        name = scope["path"].rpartition("/")[2]
        body = b'{"name":"%s"}' % name.encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def starlette_app() -> Callable[..., Any]:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def get(request: Request) -> JSONResponse:
        return JSONResponse({"name": request.path_params["name"]})

    return Starlette(routes=[Route("/jobs/{name}", get)])


def fastapi_app() -> Callable[..., Any]:
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Answer(BaseModel):
        name: str

    app = FastAPI()

    @app.get("/jobs/{name}")
    async def get(name: str) -> Answer:
        return Answer(name=name)

    return app


def request_us(app: Callable[..., Any]) -> float:
    """CPU time in the app alone: no server, no socket."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200

    async def ask(count: int) -> None:
        for _ in range(count):
            scope = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "GET",
                "scheme": "http",
                "path": "/jobs/train",
                "raw_path": b"/jobs/train",
                "query_string": b"",
                "root_path": "",
                "headers": [(b"host", b"localhost")],
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 2),
            }
            await app(scope, receive, send)

    async def measure() -> float:
        await ask(200)
        begin = time.process_time()
        await ask(REQUESTS)
        return 1e6 * (time.process_time() - begin) / REQUESTS

    return min(asyncio.run(measure()) for _ in range(3))


if __name__ == "__main__":
    main()
