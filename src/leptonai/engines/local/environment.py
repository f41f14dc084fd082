"""The environment of an attempt: a small safe part of ours, and what it was given."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

INHERITED = (
    "HOME",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PYTHONPATH",
    "REQUESTS_CA_BUNDLE",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
)
INHERITED_PREFIXES = ("LC_",)
KEPT_VARIABLE = "LEPTON_CHECKPOINT_DIR"  # what a job saves there, its next attempt finds


def base_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What every attempt starts from. A list of what is let through, not of what is kept back: the
    platform's own environment may hold anything, secrets of its owner included."""
    base = {
        name: value
        for name, value in ours.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    # Not resolved: in a virtual environment the link's directory is the one with our programs.
    programs = str(Path(sys.executable).parent)
    path = [p for p in ours.get("PATH", os.defpath).split(os.pathsep) if p and p != programs]
    base["PATH"] = os.pathsep.join([programs, *path])
    if sys.prefix != sys.base_prefix:
        # The second is what programs for the hosted platform activate.
        base["VIRTUAL_ENV"] = base["LEPTON_VIRTUAL_ENV"] = sys.prefix
    base["PYTHONUNBUFFERED"] = "1"  # or a log would show nothing until the program ends
    return base


def gpu_environment(gpus: tuple[int, ...], *, machine_has_gpus: bool) -> dict[str, str]:
    """Always told on a machine with GPUs: without a word a program takes them all."""
    if not gpus and not machine_has_gpus:
        return {}
    return {
        # NVML counts devices by their bus; CUDA by its guess of their speed unless told.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
    }


def tree_variable(at: str) -> str:
    """The variable that tells a process where a tree lies."""
    return f"LEPTON_{at.upper().replace('-', '_')}_DIR"
