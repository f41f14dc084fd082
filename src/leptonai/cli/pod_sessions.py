"""`leptonai pod exec, ssh, ssh-config, proxy, forward`: into a pod and through it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leptonai.cli.groups import Command
from leptonai.cli.output import say
from leptonai.cli.pod_keys import default_key_file, read_key
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect
from leptonai.errors import Conflict, InvalidRequest, Unavailable

if TYPE_CHECKING:
    from leptonai.cli.pod_ssh import SshWay
    from leptonai.client import LeptonClient
    from leptonai.spec.endpoints import LeptonDeployment
    from leptonai.spec.pods import ExecControl, Window

MAX_CONNECTIONS = 100  # that are forwarded at once
LOST = 255  # the exit code of what broke off, as ssh has it


@click.command(
    "exec",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    example="""\
leptonai pod exec work -- nvidia-smi
leptonai pod exec -t work -- python
leptonai pod exec -t work
tar c src | leptonai pod exec work -- tar x""",
)
@click.option("-t", "--tty", is_flag=True, help="On a terminal.")
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.pass_context
def exec_(ctx: click.Context, tty: bool, name: str, command: tuple[str, ...]) -> None:
    """Run a command in a pod, or a login shell, and exit as it does."""
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        found = _entered(client, name)
    ctx.exit(run_in(found, client.connection.token, _words(command), on_terminal=tty))


@click.command(
    "ssh",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    example="""\
leptonai pod ssh work
leptonai pod ssh work -- ls -l
leptonai pod ssh --ssh-key ~/.ssh/work.pub work""",
)
@click.option("--ssh-key", metavar="FILE", help="Your public key, if not the one in ~/.ssh.")
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.pass_context
def ssh(ctx: click.Context, ssh_key: str | None, name: str, command: tuple[str, ...]) -> None:
    """Enter a pod: by SSH where its node has an SSH server, else by a terminal over WebSocket."""
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        found = _entered(client, name)
        token = client.connection.token
        way = _ssh_way(client, found, ssh_key)
    if way is not None:
        words = [*way.arguments, way.alias, *(["--", *_words(command)] if command else [])]
        sys.stdout.flush()
        os.execvp(words[0], words)  # noqa: S606
    ctx.exit(run_in(found, token, _words(command), on_terminal=sys.stdin.isatty()))


@click.command(
    "ssh-config",
    cls=Command,
    example="""\
leptonai pod ssh-config work >> ~/.ssh/config
ssh work.default.lepton
code --remote ssh-remote+work.default.lepton /path/in/the/pod""",
)
@click.option("--ssh-key", metavar="FILE", help="Your public key, if not the one in ~/.ssh.")
@click.argument("name")
def ssh_config(ssh_key: str | None, name: str) -> None:
    """Print what ~/.ssh/config has to say of a pod: then ssh, scp, rsync and VS Code know it.

    It works from wherever this command does, through the platform's own API.
    """
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        found = _entered(client, name)
        way = _ssh_way(client, found, ssh_key, needed=True)
    assert way is not None
    click.echo(way.config())


@click.command(
    "proxy",
    cls=Command,
    example="""\
leptonai pod proxy work --port 8888
ssh -o ProxyCommand='leptonai pod proxy work' root@work""",
)
@click.option("--port", default="ssh", help="Another port of the pod than that of SSH.")
@click.argument("name")
def proxy(port: str, name: str) -> None:
    """Connect stdin and stdout with a port of a pod: what ssh calls a ProxyCommand."""
    from leptonai.client.sessions import ThreadedReader, carry, entered

    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        found = _entered(client, name)
        token = client.connection.token

    async def work() -> None:
        async with entered(_url(found), token, "/forward", port=port) as tunnel:
            read = ThreadedReader(lambda most: os.read(0, most))
            await carry(tunnel, read, _writer(1), lambda: os.close(1))

    asyncio.run(work())


@click.command(
    "forward",
    cls=Command,
    example="""\
leptonai pod forward work 8888
leptonai pod forward work 6006:16006 8000""",
)
@click.option("--address", default="127.0.0.1", help="To listen on here.")
@click.argument("name")
@click.argument("ports", nargs=-1, required=True, metavar="PORT[:LOCAL]...")
def forward(address: str, name: str, ports: tuple[str, ...]) -> None:
    """Make ports of a pod ports of this machine, until Ctrl-C."""
    pairs = [_port_pair(text) for text in ports]
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        found = _entered(client, name)
        token = client.connection.token
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_forward(_url(found), token, address, pairs))


def _words(command: tuple[str, ...]) -> tuple[str, ...]:
    return command[1:] if command[:1] == ("--",) else command


def run_in(
    pod: LeptonDeployment, token: str, command: tuple[str, ...], *, on_terminal: bool
) -> int:
    """One session; returns its exit code."""
    if not on_terminal:
        return asyncio.run(_session(pod, token, command, None))
    if not sys.stdin.isatty():
        raise InvalidRequest(
            "there is no terminal here to be on", hint="leave out -t, or run it on a terminal"
        )
    with _raw_terminal():
        return asyncio.run(_session(pod, token, command, _window()))


def see_to_jupyter(client: LeptonClient, pod: LeptonDeployment) -> None:
    """Have it run, and say how that goes.

    Raises:
        Unavailable: it does not.
    """
    from leptonai.client.sessions import start_jupyter

    words = {
        "installing": "installing JupyterLab, which may take a minute",
        "starting": "starting JupyterLab",
    }
    progress = asyncio.run(
        start_jupyter(
            _url(pod),
            client.connection.token,
            lambda progress: say(words[progress.state]) if progress.state in words else None,
        )
    )
    if progress.state != "running":
        raise Unavailable(
            f"JupyterLab does not run: {progress.message}",
            hint=f"see `leptonai pod events {pod.metadata.name}`",
        )


# --- a session ------------------------------------------------------------------------------------


async def _session(
    pod: LeptonDeployment, token: str, command: tuple[str, ...], window: Window | None
) -> int:
    from leptonai.client.sessions import Broken, ThreadedReader, entered, run_session
    from leptonai.spec.pods import STDERR, ExecRequest

    request = ExecRequest(
        command=list(command), window=window, terminal=os.environ.get("TERM", "") if window else ""
    )
    controls: asyncio.Queue[ExecControl] = asyncio.Queue(maxsize=100)
    out, err = _writer(1), _writer(2)

    async def write(mark: bytes, data: bytes) -> None:
        await (err if mark == STDERR else out)(data)

    async with entered(_url(pod), token, "/exec") as tunnel:
        _heed_signals(controls, on_terminal=window is not None)
        try:
            ended = await run_session(
                tunnel,
                request,
                read=ThreadedReader(lambda most: os.read(0, most)),
                write=write,
                controls=controls,
            )
        except Broken as error:
            say(f"{error.message}; {error.hint}")
            return LOST
    if ended.error:
        say(ended.error)
    return ended.code


def _heed_signals(controls: asyncio.Queue[ExecControl], *, on_terminal: bool) -> None:
    from leptonai.spec.pods import ExecControl

    loop = asyncio.get_running_loop()

    def tell(control: ExecControl) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            controls.put_nowait(control)

    if on_terminal:
        loop.add_signal_handler(signal.SIGWINCH, lambda: tell(ExecControl(window=_window())))
        return
    loop.add_signal_handler(signal.SIGINT, lambda: tell(ExecControl(signal="INT")))


def _window() -> Window:
    from leptonai.spec.pods import Window

    size = os.get_terminal_size(0)
    return Window(rows=max(1, size.lines), columns=max(1, size.columns))


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the pod; afterwards the terminal is as it was."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)  # what was typed meanwhile is meant for the pod
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _writer(descriptor: int) -> Callable[[bytes], Awaitable[None]]:
    """Writes in a thread: a pager that waits must not keep the loop from answering."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    return lambda data: asyncio.to_thread(write, data)


# --- forwarding -----------------------------------------------------------------------------------


async def _forward(url: str, token: str, address: str, pairs: list[tuple[int, int]]) -> None:
    room = asyncio.Semaphore(MAX_CONNECTIONS)
    servers = []
    for remote, local in pairs:

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = remote
        ) -> None:
            async with room:
                await _forward_one(url, token, port, reader, writer)

        try:
            server = await asyncio.start_server(serve, address, local)
        except OSError as error:
            raise Conflict(
                f"port {local} here cannot be listened on: {error.strerror}",
                hint=f"choose another: {remote}:LOCAL",
            ) from None
        chosen = server.sockets[0].getsockname()[1]
        click.echo(f"{address}:{chosen} → port {remote} of the pod")
        sys.stdout.flush()
        servers.append(server)
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _forward_one(
    url: str, token: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    from leptonai.client.sessions import carry, entered
    from leptonai.errors import LeptonError
    from leptonai.spec.pods import CHUNK_BYTES

    async def write(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    def end() -> None:
        with contextlib.suppress(OSError):
            writer.write_eof()

    try:
        async with entered(url, token, "/forward", port=str(port)) as tunnel:
            await carry(tunnel, lambda: reader.read(CHUNK_BYTES), write, end)
    except LeptonError as error:
        say(f"port {port}: {error.message}")
        writer.transport.abort()
    except OSError:
        pass  # whoever called here has left
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _port_pair(text: str) -> tuple[int, int]:
    remote, _, local = text.partition(":")
    for part in (remote, local or remote):
        if not (part.isascii() and part.isdigit() and len(part) <= 5 and int(part) < 65536):
            raise InvalidRequest(f"{text!r} names no ports", hint="for example 8888 or 8888:18888")
    if int(remote) == 0:
        raise InvalidRequest("a pod has no port 0", hint="for example 8888")
    return int(remote), int(local or remote)


# --- by SSH ---------------------------------------------------------------------------------------


def _ssh_way(
    client: LeptonClient, pod: LeptonDeployment, key: str | None, *, needed: bool = False
) -> SshWay | None:
    """How ssh gets in; None where the pod has no SSH server, or this machine no ssh or no key.

    Raises:
        Unavailable: where it is `needed`, says why.
    """
    from leptonai.cli.pod_ssh import SshWay
    from leptonai.client.sessions import authorize

    missing = None
    file = Path(key).expanduser() if key else default_key_file()
    if pod.status is None or not pod.status.ssh_host_key:
        missing = "the pod's node has no SSH server", "install openssh-server there, or use exec -t"
    elif shutil.which("ssh") is None:
        missing = "there is no ssh on this machine", "install OpenSSH's client"
    elif file is None:
        missing = "there is no public key in ~/.ssh", "make one: ssh-keygen -t ed25519"
    if missing is not None:
        if needed or key is not None:
            raise Unavailable(missing[0], hint=missing[1])
        say(f"{missing[0]}: this is a terminal over WebSocket")
        return None
    assert file is not None
    ready = asyncio.run(authorize(_url(pod), client.connection.token, read_key(file)))
    identity = file.with_suffix("") if file.suffix == ".pub" else file
    return SshWay.to(
        pod.metadata.name or "",
        client.connection,
        user=ready.user,
        host_key=ready.host_key,
        identity=identity if identity.exists() else None,
    )


# --- which pod ------------------------------------------------------------------------------------


def _entered(client: LeptonClient, name: str) -> LeptonDeployment:
    """The pod, once it can be entered.

    Raises:
        Conflict: it is stopped.
    """
    return client.pods.wait_ready(name)


def _url(pod: LeptonDeployment) -> str:
    return pod.status.endpoint.external_endpoint if pod.status else ""
