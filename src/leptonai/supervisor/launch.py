"""What is to be started, and how: through the wrapper, which claims the attempt."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from leptonai.supervisor import processes
from leptonai.supervisor.cgroups import Group, Limits
from leptonai.supervisor.folder import Folder

ID_VARIABLE = "LEPTON_ATTEMPT_ID"
WRAPPER = Path(__file__).with_name("wrapper.sh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    id: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)  # all of it; may hold secrets
    directory: str = ""  # absolute; "" is the attempt's own empty one
    limits: Limits = field(default_factory=Limits)

    def directory_of(self, folder: Folder) -> str:
        """Where it starts."""
        return self.directory or folder.at("work")

    def environment(self, mark: str) -> dict[str, str]:
        return {**self.env, ID_VARIABLE: self.id, processes.MARK_VARIABLE: mark}


def start_wrapper(launch: Launch, folder: Folder, group: Group, mark: str) -> int:
    """Its pid; it is for the caller to wait for it.

    Raises:
        OSError, ValueError: it cannot be run; nothing of it runs.
    """
    log = folder.open_log()
    try:
        child = subprocess.Popen(
            [
                "/bin/sh",
                str(WRAPPER),
                _mv(),
                folder.identity(group.paths),
                launch.directory_of(folder),
                *group.paths,
                "--",
                *launch.command,
            ],
            cwd=folder.path,
            env=launch.environment(mark),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.DEVNULL,  # the wrapper's own; the command's goes to the log
            start_new_session=True,
        )
    finally:
        os.close(log)
    child.returncode = 0  # it is not Popen that waits for it
    return child.pid


@cache
def _mv() -> str:
    """exec needs the full path: the wrapper's PATH is the command's."""
    return shutil.which("mv", path="/usr/bin:/bin") or shutil.which("mv") or "/bin/mv"
