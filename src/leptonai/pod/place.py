"""Where a pod is: its files, its ports, and the variables that everything in it finds."""

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leptonai.spec.pods import PodPlan

OWN_FOLDER = ".lepton"  # in the pod's home: what the platform keeps there
ENVIRONMENT = ".venv"  # the pod's own Python environment
# Of the pod's process alone.
_PRIVATE = frozenset({"LEPTON_POD_KEY", "LEPTON_PORTS", "PORT"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    home: Path
    key: str = field(repr=False)  # what whoever is let in shows
    port: int
    ports: Mapping[int, int]  # container port: that of the node
    environment: Mapping[str, str] = field(repr=False)
    installing: Mapping[str, str] = field(repr=False)  # for pip, whose settings are the machine's
    user: str
    shell: str

    @classmethod
    def of(cls, plan: PodPlan, variables: Mapping[str, str], home: Path) -> "Place":
        own, *others = map(int, variables["LEPTON_PORTS"].split(","))
        person = pwd.getpwuid(os.getuid())
        ports = dict(zip(plan.ports, others, strict=True))
        shell = person.pw_shell if os.access(person.pw_shell, os.X_OK) else "/bin/sh"
        kept = {name: value for name, value in variables.items() if name not in _PRIVATE}
        own_programs = str(home / ENVIRONMENT / "bin")
        environment = {
            **kept,
            **{f"LEPTON_PORT_{port}": str(number) for port, number in ports.items()},
            "HOME": str(home),
            "PATH": os.pathsep.join([own_programs, kept.get("PATH", os.defpath)]),
            "SHELL": shell,
            "USER": person.pw_name,
            "LOGNAME": person.pw_name,
        }
        return cls(
            home=home,
            key=variables["LEPTON_POD_KEY"],
            port=own,
            ports=ports,
            environment=environment,
            installing=kept,
            user=person.pw_name,
            shell=shell,
        )

    @property
    def folder(self) -> Path:
        """What is in it is nobody else's to read."""
        return self.home / OWN_FOLDER

    @property
    def python(self) -> Path:
        """Of the pod's own environment, whether it is there or not."""
        return self.home / ENVIRONMENT / "bin" / "python"

    def make(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.folder.chmod(0o700)
