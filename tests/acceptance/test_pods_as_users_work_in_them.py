"""Pods: created, entered, stopped and started, shared with nobody, removed."""

import asyncio
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import connect

from leptonai.client import LeptonClient
from leptonai.client.sessions import entered
from leptonai.core.records import Token
from leptonai.errors import Forbidden, LeptonError, NotFound, Unauthenticated
from leptonai.ports.store import Put
from leptonai.security.tokens import issue
from leptonai.spec.endpoints import EndpointSpec, LeptonDeployment
from leptonai.spec.metadata import Metadata
from leptonai.spec.pods import ExecEnd, ExecRequest, Window
from leptonai.stores import open_store
from leptonai.testing.platform import RunningPlatform, eventually

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
needs_sshd = pytest.mark.skipif(
    not (SSHD and shutil.which("ssh") and shutil.which("ssh-keygen")),
    reason="OpenSSH's server and client are not installed",
)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with RunningPlatform(tmp_path_factory.mktemp("pods") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def client(platform: RunningPlatform) -> Iterator[LeptonClient]:
    with platform.client() as client:
        yield client


@pytest.fixture(scope="module")
def work(platform: RunningPlatform) -> str:
    platform.cli("pod", "create", "work", "--wait")
    return "work"


@pytest.fixture(scope="module")
def member(platform: RunningPlatform) -> str:
    """The token of somebody else in the workspace."""
    literal, record = issue(workspace="default", name="bob", role="member", now_ms=0)

    async def add(token: Token) -> None:
        store = await open_store(f"sqlite:///{platform.home.database}")
        await store.commit(Put(token))
        await store.close()

    platform.terminate()
    asyncio.run(add(record))
    platform.up()
    return literal


def url_of(platform: RunningPlatform, name: str, at: str = "e") -> str:
    return f"{platform.state.gateway_url}/{at}/default/{name}"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_command_runs_in_it_as_here(platform: RunningPlatform, work: str) -> None:
    done = platform.cli(
        *("pod", "exec", work, "--", "sh", "-c", "cat; echo err >&2; exit 3"),
        stdin="hello",
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("hello", "err\n", 3)


def test_it_is_no_endpoint_and_an_endpoint_is_no_pod(
    platform: RunningPlatform, client: LeptonClient, work: str
) -> None:
    assert [pod.metadata.name for pod in client.pods.list()] == [work]
    assert client.endpoints.list() == []
    assert "work" in platform.cli("pod", "list").stdout
    with pytest.raises(NotFound):
        client.pods.get("nope")


def test_a_terminal_of_the_command_line_is_one_in_the_pod(
    platform: RunningPlatform, work: str
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "leptonai.cli", "pod", "exec", "-t", work, "--", "sh"]
    shell = subprocess.Popen(
        command, env=platform.environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""

    def hear(words: bytes) -> None:
        nonlocal said
        while words not in said:
            assert select.select([ours], [], [], 60)[0], said
            said += os.read(ours, 1 << 16)

    os.write(ours, b"echo sum $((40+2)); tty\n")
    hear(b"sum 42")
    hear(b"/dev/pts/")
    os.write(ours, b"exit 9\n")
    assert shell.wait(60) == 9
    os.close(ours)


def test_only_its_owner_and_admins_enter(platform: RunningPlatform, work: str, member: str) -> None:
    async def enter(token: str, path: str) -> None:
        async with entered(url_of(platform, work), token, path):
            pass

    def refusal(token: str, path: str) -> str:
        try:
            asyncio.run(enter(token, path))
        except LeptonError as error:
            return error.code
        return ""

    for path in ("/exec", "/forward?port=22", "/sync", "/jupyter", "/authorize"):
        eventually(lambda path=path: refusal(member, path), lambda code: code == Forbidden.code)
        assert refusal("no-token-at-all", path) == Unauthenticated.code
    with LeptonClient(
        url=f"{platform.state.url}/api/v2/workspaces/default", token=member
    ) as theirs:
        for refused in (theirs.pods.stop, theirs.pods.remove, theirs.pods.login):
            with pytest.raises(Forbidden):
                refused(work)


def test_nobody_who_reaches_its_port_gets_in_without_the_gateway(
    platform: RunningPlatform, client: LeptonClient, work: str
) -> None:
    listening = _listening_ports(client, work)
    assert listening
    for port in listening:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/report",
            headers={"Authorization": f"Bearer {platform.token}"},
        )
        with pytest.raises((urllib.error.HTTPError, OSError)):
            urllib.request.urlopen(request, timeout=10)
    table = urllib.request.Request(
        f"{platform.state.url}/internal/routes",
        headers={"Authorization": f"Bearer {platform.token}"},
    )
    with urllib.request.urlopen(table) as answer:
        routes = json.load(answer)["routes"]
    assert any(route["name"] == work for route in routes)
    assert not any(route.get("credential") or route.get("browser_key") for route in routes)


def _listening_ports(client: LeptonClient, name: str) -> list[int]:
    status = client.pods.get(name).status
    assert status is not None
    told = [port.host_port for port in status.container_port_status or [] if port.host_port]
    first = min(told) - 1 if told else 0
    return [first] if first else []


def test_files_stay_and_processes_end_when_it_is_stopped(
    platform: RunningPlatform, client: LeptonClient
) -> None:
    platform.cli("pod", "create", "stays", "--wait")
    said = platform.cli(
        *("pod", "exec", "stays", "--", "sh", "-c"),
        "echo kept >file; nohup sleep 600 >/dev/null 2>&1 & setsid sleep 601 & echo $$ $!",
    )
    pids = [int(word) for word in said.stdout.split()]
    platform.cli("pod", "stop", "stays")
    eventually(lambda: client.pods.get("stays").status.phase == "Stopped")
    assert not any(map(alive, pids))
    refused = platform.cli("pod", "exec", "stays", "--", "true", check=False)
    assert refused.returncode == 1
    assert "leptonai pod start stays" in refused.stderr
    platform.cli("pod", "start", "stays", "--wait")
    assert platform.cli("pod", "exec", "stays", "--", "cat", "file").stdout == "kept\n"
    place = Path(client.pods.get("stays").status.files)
    assert (place / "file").exists()
    asked = platform.cli("pod", "remove", "stays", check=False, stdin="n\n")
    assert asked.returncode != 0
    assert "nothing was removed; --yes does not ask" in asked.stderr
    assert client.pods.get("stays")
    platform.cli("pod", "remove", "stays", "--yes")
    eventually(lambda: not place.exists())


def test_files_that_are_to_be_kept_outlive_the_pod(
    platform: RunningPlatform, client: LeptonClient
) -> None:
    platform.cli("pod", "create", "kept", "--wait")
    platform.cli("pod", "exec", "kept", "--", "touch", "file")
    eventually(lambda: client.pods.get("kept").status.files)
    place = Path(client.pods.get("kept").status.files)
    said = platform.cli("pod", "remove", "kept", "--keep-files")
    assert str(place) in said.stderr
    platform.cli("pod", "create", "kept", "--wait")  # the name is free, and the files another's
    assert "file" not in platform.cli("pod", "exec", "kept", "--", "ls").stdout
    assert (place / "file").exists()
    platform.cli("pod", "remove", "kept", "--yes")


def test_a_session_outlives_the_control_plane(platform: RunningPlatform, work: str) -> None:
    url, token = url_of(platform, work), platform.token

    async def main() -> ExecEnd | bytes:
        async with entered(url, token, "/exec") as tunnel:
            window = Window(rows=24, columns=80)
            await tunnel.send(ExecRequest(command=["cat"], window=window))
            await asyncio.to_thread(platform.kill)
            await asyncio.to_thread(platform.up)
            await tunnel.send(b"\0still here\n")
            return await tunnel.receive(ExecEnd)

    assert b"still here" in asyncio.run(main())  # type: ignore[operator]
    assert platform.cli("pod", "exec", work, "--", "true").returncode == 0


def test_a_port_of_it_is_a_port_here(platform: RunningPlatform, work: str) -> None:
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "leptonai.cli",
            "pod",
            "exec",
            work,
            "--",
            "sh",
            "-c",
            "exec python -m http.server $LEPTON_PORT_18888 --bind 127.0.0.1",
        ],
        env=platform.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    forward = subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli", "pod", "forward", work, "18888:0"],
        env=platform.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert forward.stdout is not None
        address = forward.stdout.readline().split()[0]

        def ask() -> bytes:
            try:
                with urllib.request.urlopen(f"http://{address}/", timeout=30) as answer:
                    return answer.read()
            except OSError:
                return b""

        assert b"Directory listing" in eventually(ask)
        found: list[bytes] = []
        asking = [threading.Thread(target=lambda: found.append(ask())) for _ in range(8)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(60)
        assert all(b"Directory listing" in each for each in found)
        assert len(found) == 8
    finally:
        forward.send_signal(signal.SIGINT)
        assert forward.wait(60) == 0
        server.terminate()
        server.wait(60)


def test_a_directory_is_brought_in_and_followed(
    platform: RunningPlatform, work: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "a.py").write_text("print('one')")
    assert "1 written" in platform.cli("pod", "sync", str(project), work).stdout
    said = platform.cli("pod", "exec", work, "--", "python", "project/a.py").stdout
    assert said == "one\n"
    watching = subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli", "pod", "sync", "--watch", str(project), work],
        env=platform.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        assert "0 written" in watching.stdout.readline()
        (tmp_path / "b.py").write_text("print('two')")
        (tmp_path / "b.py").rename(project / "b.py")  # whole, whenever it is looked at
        assert "1 written" in watching.stdout.readline()
    finally:
        watching.send_signal(signal.SIGINT)
        watching.wait(60)
    assert platform.cli("pod", "exec", work, "--", "python", "project/b.py").stdout == "two\n"


# --- by SSH ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ssh_home(platform: RunningPlatform, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose user has a key."""
    home = tmp_path_factory.mktemp("ssh")
    (home / ".ssh").mkdir(mode=0o700)
    key = str(home / ".ssh" / "id_ed25519")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return {**platform.environment, "HOME": str(home)}


def by_ssh(
    environment: dict[str, str], *arguments: str, given: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "leptonai.cli", "pod", *arguments],
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs_sshd
def test_ssh_scp_and_sftp_find_what_a_terminal_finds(
    platform: RunningPlatform, work: str, ssh_home: dict[str, str], tmp_path: Path
) -> None:
    line = "cat; echo $LEPTON_DEPLOYMENT_NAME $SSH_CONNECTION; pwd; exit 5"
    done = by_ssh(ssh_home, "ssh", work, "--", line, given="given\n")
    assert done.returncode == 5, done.stderr
    given, name, place = done.stdout.splitlines()
    assert (given, name.split()[:2]) == ("given", [work, "127.0.0.1"])
    config = tmp_path / "config"
    config.write_text(by_ssh(ssh_home, "ssh-config", work).stdout)
    alias = config.read_text().split()[1]
    (tmp_path / "f").write_text("by scp")
    subprocess.run(
        ["scp", "-q", "-F", str(config), str(tmp_path / "f"), f"{alias}:copied"],
        env=ssh_home,
        check=True,
        timeout=120,
    )
    assert (Path(place) / "copied").read_text() == "by scp"
    listed = subprocess.run(
        ["sftp", "-q", "-b", "-", "-F", str(config), alias],
        env=ssh_home,
        input="ls\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "copied" in listed.stdout


@needs_sshd
def test_without_a_key_that_was_let_in_ssh_stays_out(
    platform: RunningPlatform, client: LeptonClient, work: str, tmp_path: Path
) -> None:
    status = client.pods.get(work).status
    assert status is not None
    port = next(p.host_port for p in status.container_port_status or [] if p.container_port == 2222)
    key = str(tmp_path / "stranger")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    done = subprocess.run(
        [
            "ssh",
            "-p",
            str(port),
            "-i",
            key,
            "-oIdentitiesOnly=yes",
            "-oBatchMode=yes",
            "-oStrictHostKeyChecking=no",
            "-oUserKnownHostsFile=/dev/null",
            f"{status.ssh_user}@127.0.0.1",
            "true",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr
    with socket.create_connection(("127.0.0.1", port or 0)) as wire:
        assert wire.recv(8) == b"SSH-2.0-"


@needs_sshd
def test_ssh_sessions_end_with_the_pod_and_its_host_key_stays(
    platform: RunningPlatform, client: LeptonClient, ssh_home: dict[str, str]
) -> None:
    platform.cli("pod", "create", "ends", "--wait")
    before = eventually(lambda: client.pods.get("ends").status.ssh_host_key)
    session = subprocess.Popen(
        [sys.executable, "-m", "leptonai.cli", "pod", "ssh", "ends", "--", "echo $$; sleep 600"],
        env=ssh_home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert session.stdout is not None
    pid = int(session.stdout.readline())
    assert alive(pid)
    platform.cli("pod", "stop", "ends")
    eventually(lambda: not alive(pid))
    assert session.wait(60) == 255
    platform.cli("pod", "start", "ends", "--wait")
    assert eventually(lambda: client.pods.get("ends").status.ssh_host_key) == before
    platform.cli("pod", "remove", "ends", "--yes")


# --- by the published client ----------------------------------------------------------------------

LEP = os.environ.get("LEPTON_LEP") or shutil.which("lep")


@pytest.mark.lep
@pytest.mark.skipif(LEP is None, reason="the published client is not installed: set its path in "
                    "LEPTON_LEP")  # fmt: skip
def test_the_published_client_works_with_pods(
    platform: RunningPlatform, client: LeptonClient, tmp_path: Path, ssh_home: dict[str, str]
) -> None:
    environment = {
        **{name: value for name, value in ssh_home.items() if name != "PYTHONPATH"},
        "LEPTON_CACHE_DIR": str(tmp_path),
        "LEPTON_WORKSPACE_ID": "default",
        "LEPTON_WORKSPACE_TOKEN": platform.token,
        "LEPTON_WORKSPACE_URL": f"{platform.state.url}/api/v2/workspaces/default",
        "COLUMNS": "300",
    }
    (tmp_path / "latest_version_check").write_text(str(time.time()))

    def lep(*arguments: str, given: str = "") -> str:
        done = subprocess.run(
            [str(LEP), "pod", *arguments],
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    key = (Path(ssh_home["HOME"]) / ".ssh" / "id_ed25519.pub").read_text().strip()
    lep("create", "-n", "theirs", "-rs", "cpu.small", "-e", f"SSH_PUBLIC_KEY={key}")
    client.pods.wait_ready("theirs", 60)
    assert "theirs" in lep("list")
    if SSHD:
        eventually(lambda: client.pods.get("theirs").status.ssh_host_key)
        ports = client.pods.get("theirs").status.container_port_status
        assert f"ssh -p {ports[0].host_port} root@127.0.0.1" in lep("list", "-d")
    if SSHD and os.getuid() == 0:  # it logs in as root, whoever the platform's user is
        options = f"-i {ssh_home['HOME']}/.ssh/id_ed25519 -o BatchMode=yes -o LogLevel=ERROR"
        options += " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        ssh = tmp_path / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
        ssh.chmod(0o755)
        environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
        said = lep("ssh", "-n", "theirs", given="echo by lep in $LEPTON_DEPLOYMENT_NAME\n")
        assert "by lep in theirs" in said
    lep("get", "-n", "theirs")
    lep("stop", "-n", "theirs")
    eventually(lambda: client.pods.get("theirs").status.phase == "Stopped")
    assert "No action taken" in lep("stop", "-n", "theirs")
    client.pods.start("theirs")
    client.pods.wait_ready("theirs", 60)
    lep("remove", "-n", "theirs")
    assert "theirs" not in lep("list")


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_jupyterlab_is_installed_once_opened_by_a_link_and_computes(
    platform: RunningPlatform, client: LeptonClient
) -> None:
    rendered = client.templates.render("public", "jupyterlab", {"resource_shape": "cpu.small"})
    spec = msgspec.convert(rendered.spec, EndpointSpec)
    client.pods.create(LeptonDeployment(metadata=Metadata(name="lab"), spec=spec))
    client.pods.wait_ready("lab")
    opened = subprocess.run(
        [sys.executable, "-m", "leptonai.cli", "pod", "open", "lab", "--print"],
        env=platform.environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if opened.returncode:
        pytest.skip(f"JupyterLab cannot be installed here: {opened.stderr}")
    link = opened.stdout.strip()
    base = url_of(platform, "lab", "lab")

    class Browser(urllib.request.HTTPRedirectHandler):
        cookie = ""

        def redirect_request(self, *_: object) -> None:
            return None

        def get(self, url: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
            request = urllib.request.Request(url, method=method, headers=headers)
            request.add_header("Cookie", self.cookie)
            try:
                with urllib.request.build_opener(self).open(request, timeout=60) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                self.cookie = (error.headers.get("set-cookie") or self.cookie).partition(";")[0]
                return error.code, error.read()

    browser = Browser()
    assert browser.get(f"{base}/lab")[0] == 401
    assert browser.get(link)[0] == 303
    code, page = browser.get(f"{base}/lab")
    assert (code, b"JupyterLab" in page) == (200, True)
    origin = platform.state.gateway_url
    code, body = browser.get(f"{base}/api/kernels", "POST", Origin=origin)
    assert code == 201
    kernel = json.loads(body)["id"]

    async def compute() -> str:
        url = f"{base}/api/kernels/{kernel}/channels".replace("http", "ws", 1)
        header = {"msg_id": "1", "msg_type": "execute_request", "session": "s", "username": "u"}
        header |= {"version": "5.3", "date": "2030-01-01T00:00:00Z"}
        asked = {
            "channel": "shell",
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": {"code": "print(6 * 7)", "silent": False},
            "buffers": [],
        }
        async with (
            asyncio.timeout(120),
            connect(
                url, origin=origin, additional_headers={"Cookie": browser.cookie}, proxy=None
            ) as kernel_wire,
        ):
            await kernel_wire.send(json.dumps(asked))
            async for message in kernel_wire:
                said = json.loads(message)
                if said["msg_type"] == "stream":
                    return str(said["content"]["text"])
        return ""

    assert asyncio.run(compute()) == "42\n"
    reasons = [event.reason for event in client.pods.events("lab")]
    assert reasons.count("JupyterInstalled") == 1
    platform.cli("pod", "stop", "lab")
    platform.cli("pod", "start", "lab", "--wait")
    platform.cli("pod", "open", "lab", "--print")
    reasons = [event.reason for event in client.pods.events("lab")]
    assert reasons.count("JupyterInstalled") == 1
    platform.cli("pod", "remove", "lab", "--yes")
