"""The control plane of one home joined together, and a gateway beside it: another process, which
goes on when this one dies.

Heavy imports wait until the ports are bound and the gateway is on its way: being ready in a second
depends on it.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from urllib.parse import urlsplit

from leptonai import __version__
from leptonai.home import Home, PlatformState
from leptonai.listening import bind, url_of
from leptonai.log_files import keep_bounded
from leptonai.main.envoy_process import EnvoyProcess
from leptonai.main.gateway_process import GatewayProcess
from leptonai.main.opening import (
    honour_tokens,
    key_of,
    open_blobs,
    open_store_of,
    see_to_token,
    settle,
)
from leptonai.main.options import Options
from leptonai.main.serving import serve_until_stopped
from leptonai.processes import Process
from leptonai.spec.names import check_name

GC_THRESHOLD = 20_000  # new objects between collections: records are values, and rarely in cycles


def run(home: Home, options: Options, ready: Callable[[PlatformState], None]) -> None:
    """Until SIGTERM.

    Args:
        ready: told once, when requests are answered.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the API logs what goes wrong itself
    gc.disable()  # nothing that imports make is garbage
    check_name(options.workspace, "workspace")
    control = bind(options.host, options.port, "--port")
    for path in (home.token_file, home.gateway_token_file):
        see_to_token(path)
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
    settled = settle(before, options, is_new=is_new)
    clock = SystemClock()
    store = await open_store_of(home, settled)
    engine = LocalEngine(
        home.path,
        fetch_tree=lambda digest, directory: lay_out(blobs, digest, directory),
        clock=clock,
        containers=options.containers,
    )
    await engine.open()
    engine.forget_epochs()
    await check_whose_store(store, engine)  # before anything is written to it
    key = await key_of(home, store)
    sealer, job_tokens, links = Sealer(key), JobTokens(key), Links(key)
    pod_key, ray_token = pod_keys(key).of, ray_tokens(key).of
    blobs, blobs_encrypted = await open_blobs(home, before, settled, options, key)
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
        await honour_tokens(store, home, options.workspace, clock.now_ms())
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
        await serve_until_stopped(make_app(world), listening, plane, beside, serving)
    finally:
        await plane.close()
        await engine.close()
        await store.close()
