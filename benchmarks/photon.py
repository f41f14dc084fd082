"""CPU time of one request to a Photon, beside a bare ASGI application; and what batching does.

    python benchmarks/photon.py [--seconds 1] [--rounds 5]

Every server is a process of its own, under uvicorn with the same settings, and with one thread for
numbers. They are asked in turns over kept-open connections, for a short time, and every second
round in the opposite order: so whatever else the machine does falls on all of them, and a ratio,
which is taken within each round, holds where no figure does. What batching adds to a call that
comes alone is less than what changes from second to second: there the two are asked in turns call
by call, over one connection to one process, of which the same thread computes. The load comes from
`wrk` if it is on the PATH, else from a small generator in a process of its own.

Prints one JSON object of medians, and the quartiles of each.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

START_TIMEOUT_S = 60
CONNECTIONS = (1, 64)

BARE = """
import os, uvicorn

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-type", b"application/json"), (b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": b"1"})

uvicorn.run(app, host='127.0.0.1', port=int(os.environ["PORT"]), http="httptools",
            loop="uvloop", ws="none", lifespan="off", access_log=False, server_header=False,
            log_level="error")
"""

PHOTON = """
from leptonai.photon import Batch, Photon

class NoOp(Photon):
    @Photon.handler("async")
    async def on_the_loop(self, x: int) -> int:
        return x

    @Photon.handler("sync")
    def in_a_thread(self, x: int) -> int:
        return x

    @Photon.handler("batch", max_batch_size=64)
    def together(self, x: Batch[int]) -> Batch[int]:
        return x

NoOp().launch()
"""

# A small perceptron on digits, as it is served without code, and the same without batching.
MODEL = """
import os
from leptonai.photon import Photon
from leptonai.serving.model import Inputs, ModelServer

class Alone(ModelServer):
    @Photon.handler("alone")
    def predict_alone(self, inputs: Inputs) -> dict:
        answer = self.predict(inputs)
        return {"labels": answer.labels, "probabilities": answer.probabilities}

Alone(os.environ["LEPTON_MODEL_DIR"]).launch()
"""

ONE = b'{"x":1}'
DIGIT = json.dumps({"inputs": [[(7 * at) % 17 for at in range(64)]]}).encode()


class Target(NamedTuple):
    source: str
    path: str
    body: bytes


TARGETS = {
    "bare": Target(BARE, "/", ONE),
    "async_handler": Target(PHOTON, "/async", ONE),
    "sync_handler": Target(PHOTON, "/sync", ONE),
    "batched_handler": Target(PHOTON, "/batch", ONE),
    "mlp_batched": Target(MODEL, "/predict", DIGIT),
    "mlp_alone": Target(MODEL, "/alone", DIGIT),
}

ALONE_AND_BATCHED = ("mlp_alone", "mlp_batched")

Load = Callable[[str, bytes, int, float], tuple[int, float]]  # requests, and their p50 in ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--builtin-load", action="store_true", help="even where wrk is installed")
    given = parser.parse_args()
    wrk = None if given.builtin_load else shutil.which("wrk")
    load: Load = wrk_load if wrk else builtin_load
    with tempfile.TemporaryDirectory() as folder:
        save_digits_model(Path(folder))
        servers = {source: start(source, folder) for source in {t.source for t in TARGETS.values()}}
        samples: dict[str, list[float]] = {}
        try:
            for round in range(given.rounds + 1):
                seconds = given.seconds if round else 0.5  # first: warm
                for connections in CONNECTIONS if round else CONNECTIONS[-1:]:
                    for name, target in list(TARGETS.items())[:: 1 if round % 2 else -1]:
                        process, port = servers[target.source]
                        url = f"http://127.0.0.1:{port}{target.path}"
                        before = cpu_seconds(process.pid)
                        requests, p50_ms = load(url, target.body, connections, seconds)
                        cpu_us = 1e6 * (cpu_seconds(process.pid) - before) / requests
                        if round:
                            of = f"{name}_{connections}"
                            samples.setdefault(f"{of}_cpu_us", []).append(cpu_us)
                            samples.setdefault(f"{of}_p50_ms", []).append(p50_ms)
                            samples.setdefault(f"{of}_per_s", []).append(requests / seconds)
                if round:
                    _, port = servers[MODEL]
                    for name, p50_ms in in_turns(port, ALONE_AND_BATCHED, seconds).items():
                        samples.setdefault(f"{name}_in_turns_p50_ms", []).append(p50_ms)
        finally:
            for process, _ in servers.values():
                process.kill()
                process.wait()
    alone, batched = (f"{name}_in_turns_p50_ms" for name in ALONE_AND_BATCHED)
    samples["batching_p50_ratio_1"] = ratios(samples, batched, alone)
    for connections in CONNECTIONS:
        bare = f"bare_{connections}_cpu_us"
        for name in TARGETS:
            if name != "bare":
                of = f"{name}_{connections}_cpu"
                samples[f"{of}_to_bare"] = ratios(samples, f"{of}_us", bare)
    figures = {name: round_to(statistics.median(found)) for name, found in samples.items()}
    print(
        json.dumps(
            {
                "load": "wrk" if wrk else "builtin",
                "bare_cpu_us": figures["bare_64_cpu_us"],
                "async_handler_cpu_us": figures["async_handler_64_cpu_us"],
                "sync_handler_cpu_us": figures["sync_handler_64_cpu_us"],
                "mlp_cpu_us": figures["mlp_batched_64_cpu_us"],
                **figures,
                "quartiles": {name: quartiles(found) for name, found in samples.items()},
            },
            indent=1,
        )
    )


def ratios(samples: dict[str, list[float]], of: str, to: str) -> list[float]:
    """Round by round."""
    return [mine / other for mine, other in zip(samples[of], samples[to], strict=True)]


def quartiles(found: list[float]) -> tuple[float, float]:
    """Half of all lie between them."""
    if len(found) == 1:
        return found[0], found[0]
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return round_to(low), round_to(high)


def round_to(value: float) -> float:
    return float(f"{value:.4g}")


def save_digits_model(directory: Path) -> None:
    import torch

    from leptonai.training.models import MLP

    torch.manual_seed(0)
    MLP(64, 10, hidden=(128, 64), input_mean=5.0, input_std=6.0).save(directory)


def start(source: str, model: str) -> "tuple[subprocess.Popen[bytes], int]":
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        env={**os.environ, "PORT": str(port), "LEPTON_MODEL_DIR": model, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    give_up = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > give_up:
                process.kill()
                _, printed = process.communicate()
                sys.exit(f"the server did not start: {printed.decode()}")
            time.sleep(0.02)
        else:
            return process, port


def in_turns(port: int, names: tuple[str, ...], seconds: float) -> dict[str, float]:
    """The p50 of each in ms, of calls over one connection, one of each after the other."""
    taken_s: dict[str, list[float]] = {name: [] for name in names}
    asked = {name: request_of(TARGETS[name].path, TARGETS[name].body) for name in names}
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            for name in names:
                began_s = time.perf_counter()
                connection.sendall(asked[name])
                answer = connection.recv(65536)  # small: it comes at once
                taken_s[name].append(time.perf_counter() - began_s)
                assert b" 200 " in answer[:16], answer
    return {name: 1000 * statistics.median(found) for name, found in taken_s.items()}


def request_of(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: photon\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def cpu_seconds(pid: int) -> float:
    """Of all threads of the process; the clock is what clock_getcpuclockid(3) gives."""
    return time.clock_gettime((~pid << 3) | 2)


def wrk_load(url: str, body: bytes, connections: int, seconds: float) -> tuple[int, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            f'wrk.method = "POST"\nwrk.body = [==[{body.decode()}]==]\n'
            'wrk.headers["Content-Type"] = "application/json"\n'
        )
        script.flush()
        seconds_text = f"{max(1, round(seconds))}s"  # wrk takes no fractions
        options = ["-t1", f"-c{connections}", f"-d{seconds_text}", "--latency", "-s", script.name]
        done = subprocess.run(["wrk", *options, url], capture_output=True, text=True, check=True)
    said = done.stdout
    assert "Non-2xx" not in said and "Socket errors" not in said, said
    count = re.search(r"(\d+) requests in", said)
    median = re.search(r"(?m)^\s+50%\s+([\d.]+)(us|ms|s)", said)
    assert count and median, said
    return int(count[1]), float(median[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[median[2]]


def builtin_load(url: str, body: bytes, connections: int, seconds: float) -> tuple[int, float]:
    command = [sys.executable, __file__, "load", url, str(connections), str(seconds)]
    done = subprocess.run(command, input=body, capture_output=True, check=True)
    requests, p50_ms = json.loads(done.stdout)
    return requests, p50_ms


class Caller(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    def __init__(self, request: bytes, latencies_s: list[float]) -> None:
        self._request = request
        self._latencies_s = latencies_s
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop is no subclass.
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._ask()

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            head, _, rest = data.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert b" 200 " in head and length, data
            self._missing = int(length[1]) - len(rest)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._latencies_s.append(time.perf_counter() - self._asked_s)
            self._ask()

    def _ask(self) -> None:
        self._asked_s = time.perf_counter()
        self._transport.write(self._request)


async def generate(url: str, body: bytes, connections: int, seconds: float) -> None:
    found = re.fullmatch(r"http://([^:]+):(\d+)(/.*)", url)
    assert found, url
    host, port, path = found.groups()
    request = request_of(path, body)
    latencies_s: list[float] = []
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Caller(request, latencies_s), host, int(port))
    await asyncio.sleep(seconds)
    print(json.dumps((len(latencies_s), 1000 * statistics.median(latencies_s))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                generate(sys.argv[2], sys.stdin.buffer.read(), int(sys.argv[3]), float(sys.argv[4]))
            )
    else:
        main()
