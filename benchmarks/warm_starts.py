"""How long a further server takes from nothing to its first answer: as a copy, and started plainly.

    python benchmarks/warm_starts.py [--rounds 4]

The server is that of a small CNN, as a model's endpoint has it. First the engine alone, without the
platform: from the ask for an attempt until it answers. Then the whole platform: an endpoint that
sleeps is called, and the request waits at the gateway until there is a replica. Both in turns, so
that whatever else the machine does falls on both. Prints one JSON object of medians, in
milliseconds.
"""

import argparse
import asyncio
import json
import shutil
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from leptonai.engines.local import LocalEngine
from leptonai.ports.engine import Attempt, Ended, Loaded, Seen, Tree, Warm
from leptonai.testing.platform import RunningPlatform, eventually

COMMAND = ("python", "-m", "leptonai.serving.model")
PLAIN = f"LEPTON_MODEL_DIR=. exec {' '.join(COMMAND)}"
PATIENCE_S = 60.0
ASLEEP_AFTER = "1s"


class Clock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "model"
        from leptonai.training.models import CNN

        CNN(input_shape=(32, 32, 3), num_classes=10).save(model)
        figures = asyncio.run(by_the_engine(Path(place) / "engine", model, rounds))
        figures |= by_the_platform(Path(place) / "home", model, rounds)
    print(json.dumps(figures))
    return 0


async def by_the_engine(home: Path, model: Path, rounds: int) -> dict[str, float]:
    async def fetch(digest: str, directory: Path) -> None:
        shutil.copytree(model, directory, dirs_exist_ok=True)

    engine = LocalEngine(home, fetch_tree=fetch, clock=Clock())
    await engine.open()
    try:
        await engine.warm(attempt("template", Warm("key")), epoch=1)
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance((await seen(engine)).templates.get("key"), Loaded):
                await engine.changed()
        took: dict[str, list[float]] = {"copy": [], "plain": []}
        for number in range(rounds):
            for how, warm in (("copy", Warm("key")), ("plain", None)):
                each = attempt(f"{how}-{number}", warm)
                began = time.perf_counter()
                await engine.start(each, epoch=1)
                await answers(each.ports[0])
                took[how].append(time.perf_counter() - began)
                await engine.stop("local", each.id, grace_ms=5_000, epoch=1)
                while not isinstance((await seen(engine)).attempts.get(each.id), Ended):
                    await engine.changed()
        return {f"engine_{how}_ms": in_ms(times) for how, times in took.items()}
    finally:
        await engine.fence("local", epoch=1)
        await engine.close()


def by_the_platform(home: Path, model: Path, rounds: int) -> dict[str, float]:
    with RunningPlatform(home) as platform:
        platform.cli("model", "create", "-n", "m", str(model))
        urls = {
            "copy": serve(platform, "copy", "--model", "m@1"),
            # The same server, which the platform does not know to be one of a model's.
            "plain": serve(platform, "plain", "--workdir", str(model), "--command", PLAIN),
        }
        eventually(lambda: "WarmStartsOn" in events(platform, "copy"))
        took: dict[str, list[float]] = {how: [] for how in urls}
        with platform.client() as client:
            for _ in range(rounds):
                for how, url in urls.items():
                    eventually(
                        lambda how=how: len(client.endpoints.replicas(how)), lambda n: n == 0
                    )
                    began = time.perf_counter()
                    urllib.request.urlopen(f"{url}/signature", timeout=PATIENCE_S).read()
                    took[how].append(time.perf_counter() - began)
        return {f"held_{how}_ms": in_ms(times) for how, times in took.items()}


def serve(platform: RunningPlatform, name: str, *what: str) -> str:
    options = ("--public", "--scale-to-zero-after", ASLEEP_AFTER, "--wait")
    done = platform.cli("endpoint", "create", "-n", name, *options, *what)
    return done.stdout.strip()


def events(platform: RunningPlatform, name: str) -> set[str]:
    return {each["reason"] for each in platform.answer("endpoint", "events", name, "-o", "json")}


def attempt(id: str, warm: Warm | None) -> Attempt:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Attempt(
        id=f"{id}.0",
        node="local",
        command=COMMAND,
        env={"PORT": str(port), "OMP_NUM_THREADS": "1"},
        ports=(port,),
        trees=(Tree(digest="any", at="model"),),
        warm=warm,
    )


async def seen(engine: LocalEngine) -> Seen:
    found = await engine.observe("local")
    assert isinstance(found, Seen)
    return found


async def answers(port: int) -> None:
    """Return once a request was answered."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.001)
                continue
            writer.write(b"GET /signature HTTP/1.0\r\n\r\n")
            assert b" 200 " in await reader.readline()
            writer.close()
            return


def in_ms(times: list[float]) -> float:
    return round(1000 * statistics.median(times), 1)


if __name__ == "__main__":
    sys.exit(main())
