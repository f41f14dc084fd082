"""OpenAI's own client, unchanged, against a served model of language: directly and through the
gateway."""

import contextlib
import http.client
import importlib.util
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_world import WORKSPACE_TOKEN, Cloud
from test_photon_server import ask, serving
from tiny_language import save_llama

from leptonai.core.routing import Upstream
from leptonai.testing.programs import write_program

if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs the extra hf: transformers", allow_module_level=True)
openai = pytest.importorskip("openai", reason="needs OpenAI's client: pip install openai")

SAYS_HELLO: list[Any] = [{"role": "user", "content": "hello world"}]
COMPLETE = {"model": "chat", "prompt": "x"}
CHAT = {"model": "chat", "messages": SAYS_HELLO}
TO_THE_END = {"extra_body": {"ignore_eos": True}}  # of max_tokens


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("language") / "tiny"
    save_llama(directory)
    variables = {"LEPTON_MODEL_DIR": str(directory), "LEPTON_DEPLOYMENT_NAME": "chat"}
    with serving("leptonai.serving.model", cwd=directory, **variables) as (_, port):
        yield port


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[Any]:
    with openai.OpenAI(
        api_key="none", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0
    ) as made:
        yield made


@pytest.fixture
def through_gateway(cloud: Cloud, port: int) -> Iterator[Any]:
    upstream = Upstream(replica="r1", host="127.0.0.1", port=port, version="1")

    class Served:
        def upstream(self, name: str) -> Upstream:
            return upstream

    cloud.endpoint(Served(), limit={"tokens_per_minute": 100})  # type: ignore[arg-type]
    url = f"http://127.0.0.1:{cloud.gateway.port}/e/default/e/v1"
    with openai.OpenAI(api_key=WORKSPACE_TOKEN, base_url=url, max_retries=0) as made:
        yield made


def test_it_lists_the_model(client: Any) -> None:
    assert [each.id for each in client.models.list()] == ["chat"]
    assert client.models.retrieve("chat").object == "model"


def test_a_completion_is_the_same_whole_and_in_pieces(client: Any) -> None:
    asked = {**TO_THE_END, "model": "chat", "prompt": "hello", "max_tokens": 20, "temperature": 0}
    whole = client.completions.create(**asked)
    assert whole.object == "text_completion"
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 20
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 20
    pieces = [*client.completions.create(**asked, stream=True)]
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert [piece.choices[0].finish_reason for piece in pieces][-1] == "length"
    assert {piece.usage for piece in pieces} == {None}
    text = whole.choices[0].text
    stop = text[5:8]
    stopped = client.completions.create(**asked, stop=[stop, "never"])
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_prompts_may_be_several_texts_or_tokens(client: Any) -> None:
    several = client.completions.create(
        model="chat", prompt=["hello", "the cat"], max_tokens=3, n=2, seed=1
    )
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.usage.completion_tokens == 12
    tokens = client.completions.create(model="chat", prompt=[5, 6, 7], max_tokens=1)
    assert tokens.usage.prompt_tokens == 3


def test_a_chat_goes_through_the_models_own_template(client: Any) -> None:
    asked = {**TO_THE_END, **CHAT, "max_completion_tokens": 12, "seed": 3}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    [choice] = whole.choices
    assert choice.message.role == "assistant"
    assert whole.usage.prompt_tokens > 3  # the template's own words, too
    assert len(choice.logprobs.content) == 12
    for told in choice.logprobs.content:
        assert told.logprob <= told.top_logprobs[0].logprob <= 0
        assert len(told.top_logprobs) == 2
    chunks = [
        *client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
    ]
    *pieces, last = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == choice.message.content  # the same seed
    assert last.choices == []
    assert last.usage == whole.usage
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello world"}]}]
    again = client.chat.completions.create(**{**asked, "messages": parts})
    assert again.choices[0].message.content == choice.message.content


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code", "message"),
    [
        ("completions", {**COMPLETE, "model": "gpt"}, 404, "model", "model_not_found", "gpt"),
        ("completions", {**COMPLETE, "temperature": 3}, 400, "temperature", "invalid_value", "2"),
        ("completions", {"model": "chat"}, 400, "prompt", "missing_required_parameter", "prompt"),
        ("completions", {**COMPLETE, "tempo": 1}, 400, "tempo", "unknown_parameter", "tempo"),
        ("completions", {**COMPLETE, "prompt": [[1, 999]]}, 400, "prompt", None, "999"),
        ("completions", {**COMPLETE, "prompt": [1, "a"]}, 400, "prompt", None, "neither"),
        ("completions", {**COMPLETE, "prompt": [True]}, 400, "prompt", None, "neither"),
        ("completions", {**COMPLETE, "prompt": "x" * 999}, 400, "prompt",
         "context_length_exceeded", "128 tokens"),
        ("completions", {**COMPLETE, "max_tokens": 500}, 400, "prompt",
         "context_length_exceeded", "128 tokens"),
        ("completions", {**COMPLETE, "n": 99}, 400, "n", "invalid_value", "16"),
        ("completions", {**COMPLETE, "prompt": ["x"] * 200}, 400, "prompt", None, "128"),
        ("completions", {**COMPLETE, "stop": ["a"] * 9}, 400, "stop", "invalid_value", "4"),
        ("completions", {**COMPLETE, "suffix": "!"}, 400, "suffix", None, "not supported"),
        ("completions", {**COMPLETE, "logit_bias": {"999": 1}}, 400, "logit_bias", None, "999"),
        ("completions", {**COMPLETE, "stream_options": {}}, 400, "stream_options", None, "stream"),
        ("chat/completions", {**CHAT, "messages": []}, 400, "messages", "invalid_value", "1"),
        ("chat/completions", {**CHAT, "messages": [{"content": "a"}]}, 400, "messages", None,
         "role"),
        ("chat/completions", {**CHAT, "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]}, 400, "messages",
         None, "texts"),
        ("chat/completions", {**CHAT, "messages": [{"role": "tool", "content": ""}]}, 400,
         "messages", None, "no tools here"),
        ("chat/completions", {**CHAT, "tools": [{"type": "function"}]}, 400, "tools", None, "not"),
        ("chat/completions", {**CHAT, "response_format": {"type": "json_object"}}, 400,
         "response_format", None, "text"),
        ("chat/completions", {**CHAT, "chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, 400,
         "chat_template_kwargs", None, "cannot set"),
        ("embeddings", {"model": "chat", "input": "a"}, 404, None, None, "there is no"),
    ],
)  # fmt: skip
def test_errors_are_in_openais_shape(
    port: int,
    path: str,
    body: dict[str, Any],
    status: int,
    param: str | None,
    code: str | None,
    message: str,
) -> None:
    found, answer = ask(port, "POST", f"/v1/{path}", body)
    error = answer["error"]
    assert (found, error["param"], error["code"]) == (status, param, code), error
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_bodies_that_are_no_json_and_methods_that_are_none(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.closing(connection):
        for method, path, body, status in (
            ("POST", "/v1/completions", b"{", 400),
            ("POST", "/v1/completions", b"\xff", 400),
            ("POST", "/v1/completions", b"[" * 100_000, 400),
            ("GET", "/v1/completions", b"", 405),
            ("POST", "/v1/models", b"", 405),
            ("GET", "/v1/models/other", b"", 404),
            ("GET", "/v1", b"", 404),
        ):
            connection.request(method, path, body)
            answer = connection.getresponse()
            assert answer.status == status, (method, path)
            assert json.loads(answer.read())["error"]["message"]
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200


def test_a_client_that_hangs_up_ends_the_writing(port: int) -> None:
    """Hundreds of them ask for as much as there may be, and go: the next is answered at once."""
    body = json.dumps({**COMPLETE, "max_tokens": 120, "n": 16, "ignore_eos": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(60):
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(head + body)
    began = time.monotonic()
    status, _ = ask(port, "POST", "/v1/completions", COMPLETE)
    while status == 429:
        assert time.monotonic() - began < 60
        time.sleep(0.05)
        status, _ = ask(port, "POST", "/v1/completions", COMPLETE)
    assert status == 200


def test_through_the_gateway_tokens_are_counted_whole_and_in_pieces(through_gateway: Any) -> None:
    asked = {**CHAT, "max_tokens": 10, "temperature": 0}
    began = time.monotonic()
    raw = through_gateway.chat.completions.with_raw_response.create(**asked)
    used = raw.parse().usage.total_tokens
    stream = through_gateway.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    *pieces, last = stream
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == raw.parse().choices[0].message.content
    assert last.usage.total_tokens == used
    left = through_gateway.completions.with_raw_response.create(**COMPLETE, max_tokens=1)
    refilled = (time.monotonic() - began) * 100 / 60
    remaining = int(left.headers["x-ratelimit-remaining-tokens"])
    assert 0 <= remaining - (100 - 2 * used) <= refilled
    much = {**COMPLETE, **TO_THE_END, "max_tokens": 120}
    through_gateway.completions.create(**much)
    with pytest.raises(openai.RateLimitError, match="more than 100 tokens a minute"):
        through_gateway.completions.create(**much)


STAND_IN = """\
import http.server, json, os, sys
with open(os.environ["RECORD"], "w") as record:
    json.dump([sys.argv[1:], os.environ.get("HF_HUB_OFFLINE")], record)
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in ("/health", "/healthz") else 404)
        self.send_header("content-length", "15")
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')
    def log_message(self, *_):
        pass
host, port = (sys.argv[sys.argv.index(name) + 1] for name in ("--host", "--port"))
http.server.HTTPServer((host, int(port)), Server).serve_forever()
"""


def test_an_engine_takes_the_place_of_our_server(tmp_path: Path) -> None:
    """A stand-in for vLLM that records how it was started, and answers /health."""
    directory, programs = tmp_path / "tiny", tmp_path / "bin"
    save_llama(directory)
    programs.mkdir()
    write_program(programs / "vllm", STAND_IN)
    variables = {
        "LEPTON_MODEL_DIR": str(directory),
        "LEPTON_DEPLOYMENT_NAME": "chat",
        "LEPTON_ENGINE": "vllm",
        "LEPTON_ENGINE_OPTIONS": '["--max-model-len", "64"]',
        "LEPTON_RESOURCE_ACCELERATOR_NUM": "2",
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record.json"),
    }
    with serving("leptonai.serving.model", cwd=tmp_path, **variables) as (_, port):
        assert ask(port, "GET", "/health")[0] == 200
        argv, offline = json.loads((tmp_path / "record.json").read_text())
    assert argv == [
        "serve", str(directory), "--served-model-name", "chat", "--host", "127.0.0.1", "--port",
        str(port), "--tensor-parallel-size", "2", "--load-format", "safetensors",
        "--max-model-len", "64",
    ]  # fmt: skip
    assert offline == "1"
