"""What this machine can do for a platform, for whoever asks before there is one."""

import asyncio


def machine_facts() -> tuple[str, int, str]:
    """How this machine enforces limits, and its GPUs: how many, and of which type."""
    from leptonai.engines.local.machine import find_gpus
    from leptonai.supervisor import Cgroups

    gpus = find_gpus()
    return Cgroups.detect("lepton-doctor").limits, gpus.count, gpus.type


def container_facts() -> tuple[bool, str, str]:
    """Whether this machine can run images, with or why not, and what to do then."""
    from leptonai.engines.local.containers import NoRuntime, find_runtime

    found = asyncio.run(find_runtime())
    if isinstance(found, NoRuntime):
        return False, found.because, found.hint
    return True, f"{found.program} starts containers", ""
