"""How ssh gets into a pod: by `leptonai pod proxy`, so from wherever the platform is reached."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from leptonai.client.connection import Connection
from leptonai.home import replace_file

# What says which platform is meant, and is no secret.
NAMING = ("LEPTON_HOME", "LEPTON_WORKSPACE_URL", "LEPTON_WORKSPACE_ID")


@dataclass(frozen=True, slots=True)
class SshWay:
    alias: str  # what the pod is called to ssh
    options: Mapping[str, str]

    @classmethod
    def to(
        cls,
        name: str,
        connection: Connection,
        *,
        user: str,
        host_key: str,
        identity: Path | None,
    ) -> SshWay:
        """Writes down the pod's host key, which came through the platform and so is believed."""
        alias = f"{name}.{connection.workspace}.lepton"
        known = _known_hosts_folder() / f"{alias}.known_hosts"
        known.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(known, f"{alias} {host_key}\n")
        named = [
            f"{variable}={os.environ[variable]}" for variable in NAMING if variable in os.environ
        ]
        command = [sys.executable, "-m", "leptonai.cli", "pod", "proxy", name]
        words = shlex.join(["env", *named, *command] if named else command)
        options = {
            "HostName": alias,
            "User": user,
            "ProxyCommand": words.replace("%", "%%"),
            "HostKeyAlias": alias,
            "UserKnownHostsFile": _word(known),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "ServerAliveInterval": "60",
        }
        if identity is not None:
            options["IdentityFile"] = _word(identity)
        return cls(alias, options)

    @property
    def arguments(self) -> list[str]:
        """Of a command line, but for the alias."""
        options = [f"-o{name}={value}" for name, value in self.options.items()]
        return ["ssh", *options]

    def config(self) -> str:
        """For ~/.ssh/config."""
        lines = [
            f"Host {self.alias}",
            *(f"  {name} {value}" for name, value in self.options.items()),
        ]
        return "\n".join(lines)


def _known_hosts_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "leptonai" / "pods"


def _word(path: Path) -> str:
    """As ssh reads words; % is its own sign."""
    return '"' + str(path).replace("%", "%%") + '"'
