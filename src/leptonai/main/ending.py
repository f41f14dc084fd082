"""The end of the platform, of what is beside it, and of all that it runs."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from leptonai.errors import Locked, Unavailable
from leptonai.home import Home
from leptonai.main.gateway_process import end_gateway
from leptonai.main.opening import open_store_of

ENDS_WITHIN_S = 15.0  # a platform that was asked to
START_OR_STOP_S = 90.0  # longer than any of them takes
LOOK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class ShutDown:
    """What was there to be ended."""

    platform: bool
    gateway: bool
    workloads: int


def shut_down(home: Home, *, keep: bool) -> ShutDown:
    """End the platform, also one that is just starting, its gateway, and all it runs unless kept.

    Raises:
        Locked, Unavailable: something goes on.
    """
    platform = False
    give_up_at = time.monotonic() + START_OR_STOP_S
    while True:
        state = home.state()
        process = state.process if state is not None else home.holder()
        if process is not None:
            platform = True
            if not process.end(grace_s=ENDS_WITHIN_S):
                raise Unavailable(
                    f"the platform (process {process.pid}) does not end",
                    hint=f"see {home.control_log}",
                )
        try:
            with home.locked():  # from here on none starts
                gateway = end_gateway(home)
                workloads = 0 if keep else asyncio.run(_stop_workloads(home))
                return ShutDown(platform, gateway, workloads)
        except Locked:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(LOOK_AGAIN_S)


async def _stop_workloads(home: Home) -> int:
    """End everything that runs here; returns how many attempts were ended."""
    from leptonai.control.clock import SystemClock
    from leptonai.control.workloads import stop_workloads
    from leptonai.engines.local import LocalEngine

    store = await open_store_of(home, home.config())
    engine = LocalEngine(home.path, fetch_tree=_nothing_starts, clock=SystemClock())
    await engine.open()
    engine.forget_epochs()
    try:
        return await stop_workloads(store, engine)
    finally:
        await engine.close()
        await store.close()


async def _nothing_starts(digest: str, directory: Path) -> None:
    raise AssertionError(f"nothing starts any more, and yet {digest} was asked for")
