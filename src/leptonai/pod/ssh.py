"""The pod's own SSH server, where the machine has OpenSSH's: for its user alone, by key alone."""

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import time
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

from leptonai.errors import InvalidRequest
from leptonai.pod.channel import Channel
from leptonai.pod.place import Place
from leptonai.pod.report import Report
from leptonai.spec.pods import SSH_KEY_VARIABLES, SSH_PORT, PodPlan, SshKey, SshReady
from leptonai.supervisor import processes

PROGRAM_PLACES = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/bin", "/usr/local/bin")
SFTP_PLACES = ("/usr/lib/openssh", "/usr/libexec/openssh", "/usr/libexec", "/usr/lib/ssh")
PRIVILEGES = Path("/run/sshd")  # where OpenSSH, run by root, wants an empty directory
AGAIN_S = (1.0, 60.0)  # before it is started again: at first, at most
MAX_ADDED_KEYS = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Also what scp, sftp and VS Code start comes by here, so that it finds what a terminal finds.
_SESSION = """\
. {folder}/environment
: >{folder}/last
cd "$HOME"
[ -z "$SSH_ORIGINAL_COMMAND" ] || exec "$SHELL" -c "$SSH_ORIGINAL_COMMAND"
exec "$SHELL" -l
"""


class SshServer:
    def __init__(self, place: Place, plan: PodPlan, report: Report) -> None:
        self._place = place
        self._plan = plan
        self._report = report
        self._folder = place.folder / "ssh"
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Have it run from here on, if there is one."""
        server, keygen, sftp = _program("sshd"), _program("ssh-keygen"), _sftp()
        if not (server and keygen and sftp):
            return
        try:
            await self._prepare(keygen, sftp)
        except OSError as error:
            self._report.note("SshFailed", f"there is no SSH server: {error}", "Warning")
            return
        self._keeping = asyncio.create_task(self._keep(server))
        self._report.ssh_host_key = " ".join(self._host_key_file(".pub").read_text().split()[:2])
        self._report.change()

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def authorize(self, channel: Channel) -> None:
        """Let a key of whoever is let in by the gateway in here too."""
        try:
            key = (await channel.receive_first(SshKey)).key.strip()
            if not self._report.ssh_host_key:
                raise InvalidRequest("the pod has no SSH server", hint="install openssh-server")
            self._add(key)
        except InvalidRequest as error:
            await channel.send(SshReady(error=error.message))
            return
        await channel.send(SshReady(host_key=self._report.ssh_host_key, user=self._place.user))

    def connections(self) -> int:
        process = self._process
        if process is None or process.returncode is not None:
            return 0
        return len(processes.children(process.pid))

    def last_session_age_s(self) -> float | None:
        try:
            return max(0.0, time.time() - (self._folder / "last").stat().st_mtime)
        except OSError:
            return None

    def _add(self, key: str) -> None:
        file = self._folder / "added_keys"
        kept = file.read_text().splitlines() if file.exists() else []
        if key in kept:
            return
        if len(kept) >= MAX_ADDED_KEYS:
            raise InvalidRequest("too many keys were added", hint=f"remove some from {file}")
        _write(file, "\n".join([*kept, key]) + "\n")

    async def _prepare(self, keygen: str, sftp: str) -> None:
        folder = self._folder
        folder.mkdir(mode=0o700, exist_ok=True)
        if not self._host_key_file().exists():
            command = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(self._host_key_file())]
            making = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL)
            if await making.wait():
                raise OSError("ssh-keygen made no key")
        variables = self._place.environment
        named = [variables[name] for name in SSH_KEY_VARIABLES if variables.get(name)]
        _write(folder / "authorized_keys", "\n".join([*self._plan.ssh_keys, *named]) + "\n")
        (folder / "last").unlink(missing_ok=True)
        lines = [
            f"export {name}={shlex.quote(value)}\n"
            for name, value in variables.items()
            if _NAME.fullmatch(name)
        ]
        _write(folder / "environment", "".join(lines))
        _write(folder / "session.sh", _SESSION.format(folder=shlex.quote(str(folder))))
        _write(folder / "config", self._config(sftp))
        if os.getuid() == 0:
            PRIVILEGES.mkdir(mode=0o755, exist_ok=True)

    def _config(self, sftp: str) -> str:
        folder, home = self._folder, self._place.home
        keys = [folder / "authorized_keys", folder / "added_keys", home / ".ssh/authorized_keys"]
        port = self._place.ports[SSH_PORT]
        address = self._plan.ssh_listen
        listen = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        return f"""\
ListenAddress {listen}
HostKey {_quoted(self._host_key_file())}
AuthorizedKeysFile {" ".join(map(_quoted, keys))}
AllowUsers {self._place.user}
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitUserEnvironment no
# The folder is ours alone; what lies above it, a shared /tmp say, is not looked at.
StrictModes no
PidFile none
X11Forwarding no
PrintMotd no
PrintLastLog no
MaxStartups 20:30:60
LoginGraceTime 30
ClientAliveInterval 60
Subsystem sftp {sftp}
ForceCommand exec /bin/sh {shlex.quote(str(folder / "session.sh"))}
"""

    async def _keep(self, server: str) -> None:
        first_s, longest_s = AGAIN_S
        pause_s = first_s
        while True:
            log = self._folder / "log"
            with contextlib.suppress(FileNotFoundError):
                log.replace(log.with_suffix(".1"))
            self._process = await asyncio.create_subprocess_exec(
                *(server, "-D", "-f", str(self._folder / "config"), "-E", str(log)),
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=DEVNULL,
                cwd="/",
                env=self._place.environment,
                start_new_session=True,
            )
            code = await self._process.wait()
            said = (
                log.read_text(errors="replace").strip().rpartition("\n")[2] if log.exists() else ""
            )
            self._report.note("SshEnded", f"the SSH server ended with {code}: {said}", "Warning")
            await asyncio.sleep(pause_s)
            pause_s = min(longest_s, 2 * pause_s)

    def _host_key_file(self, suffix: str = "") -> Path:
        return self._folder / f"host_ed25519{suffix}"


def _program(name: str) -> str | None:
    path = os.pathsep.join((*PROGRAM_PLACES, os.environ.get("PATH", "")))
    return shutil.which(name, path=path)


def _sftp() -> str | None:
    return shutil.which("sftp-server", path=os.pathsep.join(SFTP_PLACES))


def _quoted(path: Path) -> str:
    """As sshd reads words; % is its own sign."""
    return '"' + str(path).replace("%", "%%") + '"'


def _write(path: Path, text: str) -> None:
    """Whole, and for its owner alone."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)
