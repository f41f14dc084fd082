"""The composition root: the only module that names adapters.

``python -m leptonai.main`` runs the control plane of one home, and sees to it that a gateway runs
beside it: another process, which goes on when this one dies. ``leptonai up`` starts it.

Heavy imports wait until the ports are bound and the gateway is on its way: being ready in a second
depends on it.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from leptonai import __version__
from leptonai.envoy_process import EnvoyProcess
from leptonai.errors import Conflict, InvalidRequest, LeptonError, Locked, NotFound, Unavailable
from leptonai.gateway_process import GatewayProcess, end_gateway
from leptonai.home import OPTIONS_VARIABLE, Home, PlatformState, Settled, replace_file
from leptonai.listening import bind, url_of
from leptonai.log_files import keep_bounded
from leptonai.processes import Process
from leptonai.spec.names import check_name

if TYPE_CHECKING:
    from leptonai.blobs import BlobStore
    from leptonai.ports.store import Store

GC_THRESHOLD = 20_000  # new objects between collections: records are values, and rarely in cycles
DRAIN_S = 2  # for requests under way when the platform stops
ENDS_WITHIN_S = 15.0  # a platform that was asked to
START_OR_STOP_S = 90.0  # longer than any of them takes
LOOK_AGAIN_S = 0.05

log = logging.getLogger("leptonai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    host: str = "127.0.0.1"
    port: int = 8420
    gateway_port: int = 8421
    gateway: Literal["own", "envoy"] = "own"  # what takes requests first
    access_log: bool = False  # of the gateway
    otlp_endpoint: str = ""  # a collector that the gateway sends spans to; "" is none
    workspace: str = "default"
    database: str = ""  # URL; "" is SQLite in the home
    blobs: str = ""  # a directory, or a bucket's URL; "" is what was settled before
    encrypt_blobs: bool = False
    containers: Literal["off", "auto"] = "off"  # auto: run images with podman or docker


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM. Tells `--ready-fd` what became of the start, as one line of JSON."""
    parser = argparse.ArgumentParser(prog="leptonai.main")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int)
    given = parser.parse_args(arguments)
    # Not an argument: a database URL may hold a password, and arguments are for all to see.
    options = Options(**json.loads(os.environ.pop(OPTIONS_VARIABLE, "{}")))
    home = Home(given.home)

    def tell(answer: dict[str, Any]) -> None:
        if given.ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(given.ready_fd, json.dumps(answer).encode() + b"\n")
                os.close(given.ready_fd)

    try:
        with home.locked(as_platform=True):
            _serve(home, options, ready=lambda state: tell({"ready": asdict(state)}))
    except LeptonError as error:
        tell({"error": error.wire()})
        print(f"{error}\nhint: {error.hint}", file=sys.stderr)
        return 1
    except OSError as error:
        told = Unavailable(
            f"the platform cannot use {error.filename or home.path}: {error.strerror or error}",
            hint=f"look at that place; {home.control_log} tells more",
        )
        tell({"error": told.wire()})
        raise
    except Exception as error:
        tell({"error": {"code": "Internal", "message": f"{type(error).__name__}: {error}",
                        "hint": f"see {home.control_log}"}})  # fmt: skip
        raise
    return 0


def _serve(home: Home, options: Options, ready: Callable[[PlatformState], None]) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the API logs what goes wrong itself
    gc.disable()  # nothing that imports make is garbage
    check_name(options.workspace, "workspace")
    control = bind(options.host, options.port, "--port")
    for path in (home.token_file, home.gateway_token_file):
        _see_to_token(path)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # until it serves
    front = None
    if options.gateway == "envoy":
        front = EnvoyProcess(home, host=options.host, port=options.gateway_port)
    gateway = GatewayProcess(
        home,
        host=options.host if front is None else "127.0.0.1",
        port=options.gateway_port if front is None else 0,
        front=front,
        control_url=url_of(options.host, control.getsockname()[1]),
        access_log=options.access_log,
        otlp_endpoint=options.otlp_endpoint,
    )
    is_ready = False

    def say_ready(state: PlatformState) -> None:
        nonlocal is_ready
        is_ready = True
        ready(state)

    try:
        gateway.start()
        import uvloop

        uvloop.run(_run(home, options, control, gateway, say_ready))
    except BaseException:
        if not is_ready:
            gateway.undo()
        raise
    finally:
        gateway.let_go()
        home.forget_state()


async def _run(
    home: Home,
    options: Options,
    listening: socket.socket,
    gateway: GatewayProcess,
    ready: Callable[[PlatformState], None],
) -> None:
    from leptonai.control.actions.volumes import make_default_volume
    from leptonai.control.api.app import make_app
    from leptonai.control.clock import SystemClock
    from leptonai.control.dns import DomainLookups
    from leptonai.control.plane import ControlPlane, check_whose_store
    from leptonai.control.pod_reader import HttpPodReader
    from leptonai.control.prober import TcpProber
    from leptonai.control.world import Config, World
    from leptonai.engines.local import LocalEngine
    from leptonai.engines.local.trees import lay_out
    from leptonai.monitoring.audit import AuditLog
    from leptonai.security.keys import pod_keys, ray_tokens
    from leptonai.security.links import Links
    from leptonai.security.secrets import Sealer
    from leptonai.security.tokens import Authenticator, JobTokens

    url = url_of(options.host, listening.getsockname()[1])
    before = home.config()
    is_new = not (home.config_file.exists() or home.key_file.exists())
    settled = _settle(before, options, is_new=is_new)
    clock = SystemClock()
    store = await _open_store(home, settled)
    engine = LocalEngine(
        home.path,
        fetch_tree=lambda digest, directory: lay_out(blobs, digest, directory),
        clock=clock,
        containers=options.containers,
    )
    await engine.open()
    engine.forget_epochs()
    await check_whose_store(store, engine)  # before anything is written to it
    key = await _key_of(home, store)
    sealer, job_tokens, links = Sealer(key), JobTokens(key), Links(key)
    pod_key, ray_token = pod_keys(key).of, ray_tokens(key).of
    blobs, blobs_encrypted = await _open_blobs(home, before, settled, options, key)
    if settled != before:  # written now that it has proved good: what fails is not kept
        home.write_config(settled)
    serves = asyncio.Event()

    async def load_scheduler() -> None:
        """It brings numpy, which takes longer to load than all the rest: not before we answer."""
        await serves.wait()
        await asyncio.to_thread(import_module, "leptonai.control.advice")
        gc.collect()
        gc.freeze()  # what start-up made stays: the collector need not look at it again
        gc.set_threshold(GC_THRESHOLD)
        gc.enable()

    plane = ControlPlane(
        store,
        engine,
        clock,
        TcpProber(),
        home_workspace=options.workspace,
        workspace_url=lambda workspace: f"{url}/api/v2/workspaces/{workspace}",
        unseal=lambda secret: sealer.open(secret.workspace, secret.name, secret.ciphertext),
        job_token=lambda job: job_tokens.of(job.workspace, job.id),
        run_token=lambda job: job_tokens.of_runs.of(job.workspace, job.id),
        pod_key=pod_key,
        ray_token=ray_token,
        pod_reader=HttpPodReader(),
        runs_images=engine.runs_images,
        mounts_volumes=engine.mounts_volumes,
        blobs=blobs if settled.sole_database else None,
        before_placing=load_scheduler,
        apart=asyncio.to_thread,
    )
    try:
        await _honour_tokens(store, home, options.workspace, clock.now_ms())
        await plane.start()
        for workspace in settled.workspaces:
            await make_default_volume(store, workspace, engine.group, home.path, clock.now_ms())
        world = World(
            store=store,
            engine=engine,
            clock=clock,
            blobs=blobs,
            sealer=sealer,
            authenticator=Authenticator(store, clock, job_tokens, links),
            domains=DomainLookups(clock, urlsplit(gateway.url).hostname or ""),
            links=links,
            audit=AuditLog(home.audit_log),
            routes=plane.routes,
            traffic=plane.traffic,
            adviser=plane.adviser,
            pod_key=pod_key,
            ray_token=ray_token,
            notice=plane.mirror.notice,
            config=Config(
                workspaces=settled.workspaces,
                url=url,
                gateway_url=gateway.url,
                version=__version__,
                home=str(home.path),
            ),
        )
        state = PlatformState(
            url=url,
            gateway_url=gateway.url,
            workspace=options.workspace,
            pid=os.getpid(),
            version=__version__,
            token_file=str(home.token_file),
            started=Process.of(os.getpid()).started,
            blobs=settled.blobs or str(home.blobs),
            blobs_encrypted=blobs_encrypted,
        )

        def serving() -> None:
            home.write_state(state)
            ready(state)
            serves.set()

        beside = [plane.run(), gateway.supervise(), keep_bounded(home.control_log)]
        await _until_stopped(make_app(world), listening, plane, beside, serving)
    finally:
        await plane.close()
        await engine.close()
        await store.close()


async def _until_stopped(
    app: Any,
    listening: socket.socket,
    plane: Any,
    beside: list[Coroutine[Any, Any, None]],
    serving: Callable[[], None],
) -> None:
    """Serve the API, and stop at SIGTERM or SIGINT, or when it or what runs beside it ends."""
    import uvicorn

    from leptonai.control.api.connections import BoundedConnection

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are ours

    server = Server(
        uvicorn.Config(
            app,
            http=BoundedConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody is believed about who he is
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[None]] = []

    def stop() -> None:
        server.should_exit = True
        app.stop()
        closing.append(asyncio.create_task(plane.routes.close()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    api = asyncio.create_task(server.serve(sockets=[listening]))
    others = [asyncio.create_task(each) for each in beside]
    while not server.started and not api.done():  # noqa: ASYNC110 - the server has no event
        await asyncio.sleep(0.001)
    if not api.done():
        serving()
    finished, _ = await asyncio.wait([api, *others], return_when=asyncio.FIRST_COMPLETED)
    stop()
    await asyncio.gather(api, *closing)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in finished:
        task.result()


def _settle(before: Settled, options: Options, *, is_new: bool) -> Settled:
    """What is asked now, and what was asked before and not again."""
    database = options.database or before.database
    return Settled(
        blobs=options.blobs or before.blobs,
        workspaces=tuple(dict.fromkeys((*before.workspaces, options.workspace))),
        database=database,
        sole_database=is_new or (before.sole_database and database == before.database),
    )


async def _open_store(home: Home, settled: Settled) -> "Store":
    """
    Raises:
        NotFound: its file is gone: an empty one in its place would hide that.
    """
    from leptonai.stores import open_store

    if not settled.database and home.key_file.exists() and not _has_bytes(home.database):
        raise NotFound(
            f"the database {home.database} is gone or empty, with all jobs, endpoints and secrets",
            hint=f"restore it; or, to begin anew without them, remove {home.key_file}",
        )
    return await open_store(settled.database or f"sqlite:///{home.database}")


async def _open_blobs(
    home: Home, before: Settled, settled: Settled, options: Options, key: bytes
) -> "tuple[BlobStore, bool]":
    """The blobs, and whether they are encrypted.

    Raises:
        InvalidRequest: the place cannot be one.
        Conflict: it is another's; or others lie where they were before.
    """
    from leptonai.blobs import BlobStore
    from leptonai.blobs.ownership import MARK
    from leptonai.blobs.places import check_bucket, is_url
    from leptonai.security.keys import derive

    def place_of(settled: Settled) -> str:
        return settled.blobs or str(home.blobs)

    place, place_before = place_of(settled), place_of(before)
    if is_url(place):
        check_bucket(place)
    if place != place_before and not await BlobStore(place_before).is_empty():
        raise Conflict(
            f"the blobs of this platform lie in {place_before}",
            hint=f"leave --blobs out; or move sha256/ and {MARK} from there to {place}, then "
            "start again",
        )
    own = place == str(home.blobs)
    if own and not options.encrypt_blobs and not (home.blobs / MARK).exists():
        return BlobStore(place), False  # as most are, without the time that a look takes
    encrypted = await BlobStore(place).claim(
        platform=derive(key, "lepton blobs owner v1").hex()[:32],
        encrypt=options.encrypt_blobs,
        alone=own,
    )
    return BlobStore(place, key=derive(key, "lepton blobs v1") if encrypted else None), encrypted


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


async def _key_of(home: Home, store: "Store") -> bytes:
    """
    Raises:
        NotFound: it is gone, and there are secrets that only it opens.
    """
    from leptonai.core.records import Secret
    from leptonai.ports.store import Query
    from leptonai.security.keys import load_or_create_key

    if not home.key_file.exists() and (secrets := await store.count(Secret, Query())):
        raise NotFound(
            f"the key {home.key_file} is gone, and {secrets} secrets are sealed with it",
            hint="restore it from a backup: without it, nobody can read them",
        )
    return load_or_create_key(home.key_file)


def _see_to_token(path: Path) -> None:
    """Make the token at the first start; later, see that it is one, and nobody else's to read.

    Raises:
        InvalidRequest: the file holds none.
    """
    from leptonai.security.tokens import is_token, new_token

    if not os.path.lexists(path):
        replace_file(path, f"{new_token()}\n")
        return
    try:
        whole = is_token(path.read_bytes().decode("ascii").strip())
        if path.stat().st_mode & 0o077:
            log.warning("%s could be read by others; now it cannot", path)
            path.chmod(0o600)
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise InvalidRequest(
            f"{path} holds no token",
            hint="restore it; or remove it, and the next start makes a new one",
        )


async def _honour_tokens(store: Any, home: Home, workspace: str, now_ms: int) -> None:
    """Let in who holds the tokens of the home's files, and no longer who held earlier ones."""
    from leptonai.core.records import Token
    from leptonai.ports.store import Change, Delete, Put, Query
    from leptonai.security.tokens import record_of

    files: tuple[tuple[Path, Literal["admin", "gateway"]], ...] = (
        (home.token_file, "admin"),
        (home.gateway_token_file, "gateway"),
    )
    for path, role in files:
        token = record_of(
            path.read_text().strip(), workspace=workspace, name=role, role=role, now_ms=now_ms
        )
        held = await store.find(Token, Query(workspace=workspace, name=role))
        changes: list[Change] = [Delete(each) for each in held if each.sha256 != token.sha256]
        if not any(each.sha256 == token.sha256 for each in held):
            changes.append(Put(token))
        if changes:
            await store.commit(*changes)


async def _nothing_starts(digest: str, directory: Path) -> None:
    raise AssertionError(f"nothing starts any more, and yet {digest} was asked for")


@dataclass(frozen=True, slots=True)
class ShutDown:
    """What was there to be ended."""

    platform: bool
    gateway: bool
    workloads: int


def shut_down(home: Home, *, keep: bool) -> ShutDown:
    """End the platform, also one that is just starting, its gateway, and all it runs unless kept.

    Raises:
        Locked, Unavailable: something goes on.
    """
    platform = False
    give_up_at = time.monotonic() + START_OR_STOP_S
    while True:
        state = home.state()
        process = state.process if state is not None else home.holder()
        if process is not None:
            platform = True
            if not process.end(grace_s=ENDS_WITHIN_S):
                raise Unavailable(
                    f"the platform (process {process.pid}) does not end",
                    hint=f"see {home.control_log}",
                )
        try:
            with home.locked():  # from here on none starts
                gateway = end_gateway(home)
                workloads = 0 if keep else asyncio.run(_stop_workloads(home))
                return ShutDown(platform, gateway, workloads)
        except Locked:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(LOOK_AGAIN_S)


async def _stop_workloads(home: Home) -> int:
    """End everything that runs here; returns how many attempts were ended."""
    from leptonai.control.clock import SystemClock
    from leptonai.control.workloads import stop_workloads
    from leptonai.engines.local import LocalEngine

    store = await _open_store(home, home.config())
    engine = LocalEngine(home.path, fetch_tree=_nothing_starts, clock=SystemClock())
    await engine.open()
    engine.forget_epochs()
    try:
        return await stop_workloads(store, engine)
    finally:
        await engine.close()
        await store.close()


def machine_facts() -> tuple[str, int, str]:
    """How this machine enforces limits, and its GPUs: how many, and of which type."""
    from leptonai.engines.local.machine import find_gpus
    from leptonai.supervisor import Cgroups

    gpus = find_gpus()
    return Cgroups.detect("lepton-doctor").limits, gpus.count, gpus.type


def container_facts() -> tuple[bool, str, str]:
    """Whether this machine can run images, with or why not, and what to do then."""
    from leptonai.engines.local.containers import NoRuntime, find_runtime

    found = asyncio.run(find_runtime())
    if isinstance(found, NoRuntime):
        return False, found.because, found.hint
    return True, f"{found.program} starts containers", ""


if __name__ == "__main__":
    sys.exit(main())
