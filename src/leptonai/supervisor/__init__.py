"""Starts, limits and watches attempts on this machine, with nothing but the standard library.

An attempt is one try to run a command. Everything that is known of it lies in its folder and in the
kernel, so a supervisor may die at any instant and another one carries on from what it finds.
"""

from leptonai.supervisor.cgroups import Cgroups, Limits
from leptonai.supervisor.folder import Claimed, Ending, Folder, Outcome
from leptonai.supervisor.launch import Launch
from leptonai.supervisor.supervise import Supervisor

__all__ = ["Cgroups", "Claimed", "Ending", "Folder", "Launch", "Limits", "Outcome", "Supervisor"]
