"""The composition root: the only module that names adapters.

``python -m leptonai.main`` runs the control plane of one home, and sees to it that a gateway runs
beside it: another process, which goes on when this one dies. ``leptonai up`` starts it.

Heavy imports wait until the ports are bound and the gateway is on its way: being ready in a second
depends on it.
"""

import argparse
import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace

from leptonai import __version__
from leptonai.errors import Conflict, InvalidRequest, LeptonError, NotFound, Unavailable
from leptonai.home import Home, PlatformState, Settled, birth_of, is_alive, replace_file
from leptonai.spec.names import check_name

if TYPE_CHECKING:
    from leptonai.ports.store import Store

BACKLOG = 2048
OPTIONS_VARIABLE = "LEPTON_PLATFORM_OPTIONS"  # JSON of Options
DRAIN_S = 2  # for requests under way when the platform stops
GATEWAY_RESTART_S = (0.1, 5.0)  # wait before a gateway that ended is started again: first, longest
STOP_WORKLOADS_S = 30.0

log = logging.getLogger("leptonai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    host: str = "127.0.0.1"
    port: int = 8420
    gateway_port: int = 8421
    workspace: str = "default"
    database: str = ""  # URL; "" is SQLite in the home
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
        with _locked(home):
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


@contextlib.contextmanager
def _locked(home: Home) -> Iterator[None]:
    """One control plane for each home."""
    home.make()
    with home.lock.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = home.holder()
            raise Conflict(
                f"a platform already runs in {home.path}" + (f" (pid {holder})" if holder else ""),
                hint="see `leptonai status`, or stop it with `leptonai down`",
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()} {birth_of(os.getpid())}\n")
        lock.flush()
        yield


def _serve(home: Home, options: Options, ready: Callable[[PlatformState], None]) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the API logs what goes wrong itself
    gc.disable()  # nothing that imports make is garbage
    check_name(options.workspace, "workspace")
    control = bind(options.host, options.port, "--port")
    port = control.getsockname()[1]
    for path in (home.token_file, home.gateway_token_file):
        _see_to_token(path)
    gateway = Gateway(home, options, f"http://{_reachable(options.host)}:{port}")
    gateway.start()
    is_ready = False

    def say_ready(state: PlatformState) -> None:
        nonlocal is_ready
        is_ready = True
        ready(state)

    try:
        asyncio_run = _event_loop_runner()
        asyncio_run(_run(home, options, control, gateway, say_ready))
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
    gateway: "Gateway",
    ready: Callable[[PlatformState], None],
) -> None:
    from leptonai.blobs import BlobStore
    from leptonai.control.api.app import make_app
    from leptonai.control.api.context import Config, World
    from leptonai.control.clock import SystemClock
    from leptonai.control.plane import ControlPlane
    from leptonai.control.prober import TcpProber
    from leptonai.engines.local import LocalEngine
    from leptonai.engines.local.trees import lay_out
    from leptonai.monitoring.audit import AuditLog
    from leptonai.security.secrets import Sealer
    from leptonai.security.tokens import Authenticator, JobTokens

    url = f"http://{_reachable(options.host)}:{listening.getsockname()[1]}"
    before = home.config()
    settled = _settle(before, options)
    clock = SystemClock()
    store = await _open_store(home, settled)
    key = await _key_of(home, store)
    sealer, job_tokens = Sealer(key), JobTokens(key)
    if settled != before:  # written now that it has proved good: what fails is not kept
        home.write_config(settled)
    blobs = BlobStore(home.blobs)
    engine = LocalEngine(
        home.path,
        fetch_tree=lambda digest, directory: lay_out(blobs, digest, directory),
        clock=clock,
        containers=options.containers,
    )
    await engine.open()
    plane = ControlPlane(
        store,
        engine,
        clock,
        TcpProber(),
        home_workspace=options.workspace,
        workspace_url=lambda workspace: f"{url}/api/v2/workspaces/{workspace}",
        unseal=lambda secret: sealer.open(secret.workspace, secret.name, secret.ciphertext),
        job_token=lambda job: job_tokens.of(job.workspace, job.id),
        runs_images=engine.runs_images,
    )
    try:
        await _honour_tokens(store, home, options.workspace, clock.now_ms())
        await plane.start()
        world = World(
            store=store,
            engine=engine,
            clock=clock,
            blobs=blobs,
            sealer=sealer,
            authenticator=Authenticator(store, clock, job_tokens),
            audit=AuditLog(home.audit_log),
            routes=plane.routes,
            explain=plane.explain,
            notice=plane.mirror.notice,
            config=Config(
                workspaces=settled.workspaces, url=url, gateway_url=gateway.url, version=__version__
            ),
        )
        state = PlatformState(
            url=url,
            gateway_url=gateway.url,
            workspace=options.workspace,
            pid=os.getpid(),
            version=__version__,
            token_file=str(home.token_file),
        )

        def serving() -> None:
            home.write_state(state)
            ready(state)
            gc.collect()
            gc.freeze()  # what start-up made stays: the collector need not look at it again
            gc.enable()

        await _until_stopped(make_app(world), listening, plane, gateway, serving)
    finally:
        await plane.close()
        await engine.close()
        await store.close()


async def _until_stopped(
    app: Any,
    listening: socket.socket,
    plane: Any,
    gateway: "Gateway",
    serving: Callable[[], None],
) -> None:
    """Serve the API, and stop at SIGTERM or SIGINT, or when the plane or the server ends."""
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
    others = [asyncio.create_task(plane.run()), asyncio.create_task(gateway.supervise())]
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


def _settle(before: Settled, options: Options) -> Settled:
    """What is asked now, and what was asked before and not again."""
    workspaces = tuple(dict.fromkeys((*before.workspaces, options.workspace)))
    return Settled(workspaces=workspaces, database=options.database or before.database)


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


async def stop_workloads(home: Home) -> int:
    """End everything that runs, while no platform does: jobs are stopped, endpoints come back with
    the next start. Returns how many attempts were ended."""
    from leptonai.control.clock import SystemClock
    from leptonai.core.records import Job, Phase, Replica
    from leptonai.engines.local import LocalEngine
    from leptonai.ports.engine import Running, Seen
    from leptonai.ports.store import Put, Query

    with _locked(home):
        store = await _open_store(home, home.config())
        engine = LocalEngine(home.path, fetch_tree=_nothing_starts, clock=SystemClock())
        await engine.open()
        try:
            fence = await store.lease("control")
            active = {Phase.PLACED, Phase.RUNNING}
            replicas = await store.find(Replica, Query(live=True))
            busy = {(r.workspace, r.owner_id) for r in replicas if r.phase in active}
            for job in await store.find(Job, Query(live=True)):
                if (job.workspace, job.id) in busy:
                    stopped = replace(job, spec=replace(job.spec, stopped=True))
                    await store.commit(Put(stopped), fence=fence)
            ended = 0
            deadline = asyncio.get_running_loop().time() + STOP_WORKLOADS_S
            for machine in await engine.machines():
                while True:
                    seen = await engine.observe(machine.id)
                    assert isinstance(seen, Seen)
                    running = [id for id, s in seen.attempts.items() if isinstance(s, Running)]
                    ended = max(ended, len(running))
                    if not running:
                        break
                    if asyncio.get_running_loop().time() > deadline:
                        raise Unavailable(
                            f"{len(running)} replicas do not end: {', '.join(sorted(running)[:3])}",
                            hint="run `leptonai down` again, or look at their processes",
                        )
                    for id in running:
                        await engine.stop(machine.id, id, grace_ms=5_000, epoch=fence.epoch)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(engine.changed(), 0.2)
            return ended
        finally:
            await engine.close()
            await store.close()


def run_stop_workloads(home: Home) -> int:
    return asyncio.run(stop_workloads(home))


def end_gateway(home: Home) -> bool:
    """End the gateway that was left behind, if there is one."""
    gateway = Gateway(home, Options(), "")
    left = gateway.left_behind()
    if left is None:
        return False
    end_process(left["pid"], left["born"], home.gateway_log)
    return True


def machine_facts() -> tuple[str, int, str]:
    """How this machine enforces limits, and its GPUs: how many, and of which type."""
    from leptonai.engines.local.machine import find_gpus
    from leptonai.supervisor import Cgroups

    gpus = find_gpus()
    return Cgroups.detect("lepton-doctor").limits, gpus.count, gpus.type


class Gateway:
    """The gateway process of a home: found running, or started, and started again when it ends.

    Its listening socket is ours too, so that no caller is refused while it starts again.
    """

    def __init__(self, home: Home, options: Options, control_url: str) -> None:
        self._home = home
        self._options = options
        self._control_url = control_url
        self._state_file = home.gateway / "process.json"
        self._listening: socket.socket | None = None
        self._pid = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{_reachable(self._options.host)}:{self.port}"

    def start(self) -> None:
        """Take over the gateway that an earlier control plane left, or start one."""
        asked = self._options.gateway_port
        left = self.left_behind()
        if (
            left is not None
            and asked in (0, left["port"])
            and (left["host"], left["control_url"]) == (self._options.host, self._control_url)
        ):
            self._pid, self.port = left["pid"], left["port"]
            return
        if left is not None:
            end_process(left["pid"], left["born"], self._home.gateway_log)
        self._spawn()

    def undo(self) -> None:
        """End it again, if it was started here and not found running."""
        if self._listening is not None:
            end_process(self._pid, birth_of(self._pid), self._home.gateway_log)

    async def supervise(self) -> None:
        """Start it again whenever it ends, for ever."""
        wait_s, longest_s = GATEWAY_RESTART_S
        while True:
            await _ended(self._pid)
            log.warning("the gateway (pid %d) ended; starting it again", self._pid)
            await asyncio.sleep(wait_s)
            wait_s = min(longest_s, 2 * wait_s)
            self._spawn()

    def let_go(self) -> None:
        """Leave it running."""
        if self._listening is not None:
            self._listening.close()

    def _spawn(self) -> None:
        if self._listening is None:
            port = self.port or self._options.gateway_port
            self._listening = bind(self._options.host, port, "--gateway-port")
            self.port = self._listening.getsockname()[1]
        descriptor = self._listening.fileno()
        with self._home.gateway_log.open("ab") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "leptonai.gateway"),
                    *("--home", str(self._home.path), "--fd", str(descriptor)),
                    *("--control-url", self._control_url),
                    *("--token-file", str(self._home.gateway_token_file)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[descriptor],
                start_new_session=True,
                cwd="/",
            )
        self._pid = process.pid
        facts = {
            "pid": process.pid,
            "born": birth_of(process.pid),
            "host": self._options.host,
            "port": self.port,
            "control_url": self._control_url,
        }
        try:
            replace_file(self._state_file, json.dumps(facts))
        except OSError:
            process.kill()  # nobody would find it again
            raise

    def left_behind(self) -> dict[str, Any] | None:
        try:
            left: dict[str, Any] = json.loads(self._state_file.read_text())
            whole = {type(left["host"]), type(left["port"]), type(left["control_url"])}
            alive = is_alive(left["pid"], left["born"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return left if alive and whole == {str, int} else None


async def _ended(pid: int) -> None:
    """Wait for the end of any process, also one that is not our child; reap it if it is."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        _reap(pid)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def end_process(pid: int, born: str, its_log: Path, grace_s: float = DRAIN_S) -> None:
    """SIGTERM, and SIGKILL for one that does not heed it; another one of that number is left
    alone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if birth_of(pid) != born:  # asked after it was opened: the descriptor stays with who it is
            return
        for number, patience_s in ((signal.SIGTERM, grace_s + 1), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], [], [], patience_s)[0]:
                _reap(pid)
                return
    finally:
        os.close(descriptor)
    raise Unavailable(f"process {pid} does not end", hint=f"see {its_log}")


def bind(host: str, port: int, option: str) -> socket.socket:
    """A listening socket; 0 takes any free port."""
    if not 0 <= port <= 65535:
        raise InvalidRequest(f"{port} is not a port", hint=f"give {option} a number up to 65535")
    try:
        listening = socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        reason, _, _ = (error.strerror or str(error)).partition(" (while attempting")
        raise Unavailable(
            f"port {port} of {host} cannot be used: {reason}",
            hint=f"free it, or choose another: {option} 0 takes any free port",
        ) from None
    listening.setblocking(False)
    return listening


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104


def _event_loop_runner() -> Any:
    import uvloop

    return uvloop.run


if __name__ == "__main__":
    sys.exit(main())
