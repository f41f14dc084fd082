"""Where the workspace is, and the token for it: from arguments, the environment or this machine."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from leptonai.errors import InvalidRequest, Unauthenticated, Unavailable
from leptonai.home import place_of, refuse_if_locked_out
from leptonai.processes import Process

DEFAULT_WORKSPACE = "default"
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
START_HINT = "start one with `leptonai up -d`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A workspace and the right to use it."""

    url: str  # of the workspace: http://127.0.0.1:8420/api/v2/workspaces/default
    token: str = field(repr=False)
    local: bool = False  # it is the platform that runs under this machine's LEPTON_HOME
    blobs: Path | None = None  # where its blobs may be read as they are, and laid down

    @property
    def workspace(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def server(self) -> str:
        """The address alone, for people."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def unreachable_hint(self) -> str:
        return START_HINT if self.local else "check the address, the network, and that it is up"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlatform:
    """What `run/platform.json` says of the platform that was last started on this machine."""

    url: str
    workspace: str
    token_file: Path
    pid: int | None = None
    started: str = ""  # tells it from a later process of this number
    blobs: Path | None = None  # where they lie on this machine as they are

    def workspace_url(self, workspace: str | None = None) -> str:
        return f"{self.url}/api/v2/workspaces/{workspace or self.workspace}"

    @property
    def process_is_gone(self) -> bool:
        """True only where it is certain that it does not run any more."""
        if self.pid is None or self.pid <= 0:
            return False
        if self.started:
            return not Process(self.pid, self.started).alive
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False


def resolve(
    *,
    url: str | None = None,
    token: str | None = None,
    workspace: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Connection:
    """Decide which workspace is meant: the argument, else the environment, else this machine.

    The local platform's token is only ever sent to the local platform.

    Raises:
        Unavailable: nothing says where the platform is.
        Unauthenticated: nothing says which token to use.
        InvalidRequest: the URL or the token cannot be one.
    """
    variables = os.environ if environ is None else environ
    url = url or variables.get("LEPTON_WORKSPACE_URL") or None
    workspace = workspace or variables.get("LEPTON_WORKSPACE_ID") or None
    token = token or variables.get("LEPTON_WORKSPACE_TOKEN") or None
    home = lepton_home(variables)
    local = local_platform(home)
    if url is None:
        if local is None:
            refuse_if_locked_out(home)
            raise Unavailable(f"no Lepton platform is running in {home}", hint=START_HINT)
        url = local.workspace_url(workspace)
    else:
        url = workspace_url(url, workspace)
    is_local = local is not None and url.startswith(f"{local.url}/")
    if token is None and local is not None and is_local:
        if local.process_is_gone:
            # Whoever listens there now may be anybody, and the token is not for anybody.
            raise Unavailable(
                f"no Lepton platform is running at {local.url}: its process is gone",
                hint=START_HINT,
            )
        token = _read_token(local.token_file)
    if token is None:
        raise Unauthenticated(
            f"no token for {url}", hint="set LEPTON_WORKSPACE_TOKEN, or pass token=…"
        )
    blobs = local.blobs if local is not None and is_local else None
    return Connection(url=url, token=checked_token(token), local=is_local, blobs=blobs)


def checked_token(token: str) -> str:
    """Without the end of the line that it was read from.

    Raises:
        InvalidRequest: it cannot be one.
    """
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise InvalidRequest(
            "the token has characters that no token has", hint="copy it again, without line breaks"
        )
    return token


def workspace_url(url: str, workspace: str | None) -> str:
    """The full form of a URL that may name the server alone.

    Raises:
        InvalidRequest: not the http(s) URL of a server or a workspace.
    """
    bare = url.strip().rstrip("/")
    try:
        parts = urlsplit(bare)
        usable = (
            parts.scheme in ("http", "https")
            and _HOST.fullmatch(parts.hostname or "") is not None
            and parts.port != 0
        )
    except ValueError:  # a port that is no number, an unclosed bracket
        usable = False
    if not usable or parts.query or parts.fragment or not (bare.isascii() and bare.isprintable()):
        raise InvalidRequest(
            f"{url!r} is not the URL of a workspace",
            hint=f"for example http://127.0.0.1:8420/api/v2/workspaces/{DEFAULT_WORKSPACE}",
        )
    if parts.path:
        return bare
    return f"{bare}/api/v2/workspaces/{workspace or DEFAULT_WORKSPACE}"


def lepton_home(environ: Mapping[str, str]) -> Path:
    named = environ.get("LEPTON_HOME") or "~/.leptonai"
    try:
        return Path(named).expanduser().absolute()
    except (RuntimeError, OSError):  # nobody's home, or no directory that we are in
        raise InvalidRequest(
            f"nobody knows where {named} is", hint="set LEPTON_HOME to an absolute path"
        ) from None


def local_platform(home: Path) -> LocalPlatform | None:
    """The platform of this machine, running or not; None if none was ever started, or it was
    stopped in order."""
    try:
        facts = json.loads((home / "run" / "platform.json").read_bytes())
        if facts.get("place") not in (None, place_of(home)):
            return None  # the home is a copy, and the platform is that of the original
        blobs = str(facts.get("blobs") or home / "blobs")
        plain = "://" not in blobs and not facts.get("blobs_encrypted")
        return LocalPlatform(
            url=str(facts["url"]).rstrip("/"),
            workspace=str(facts["workspace"]),
            token_file=_path(facts.get("token_file") or str(home / "token")),
            pid=int(facts["pid"]) if facts.get("pid") else None,
            started=str(facts.get("started") or ""),
            blobs=_path(blobs) if plain else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _path(text: str) -> Path:
    """What another process wrote of a path, as this one names it: its locale may be POSIX, in which
    file names are ASCII, and all else in them bytes."""
    return Path(os.fsdecode(text.encode("utf-8", "surrogateescape")))


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as failure:
        raise Unauthenticated(
            f"cannot read the token in {path}: {failure}",
            hint="run as the user who started the platform, or set LEPTON_WORKSPACE_TOKEN",
        ) from failure
    if not token:
        raise Unauthenticated(f"the token file {path} is empty", hint="set LEPTON_WORKSPACE_TOKEN")
    return token
