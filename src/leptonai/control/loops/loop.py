"""What every loop is: look, decide, apply, and wait for news.

A loop is level-triggered. It may be killed at any instant and simply runs again; a conflict or a
failed port makes it look again a little later, never makes it give up.
"""

import asyncio
import logging
from typing import Protocol

from leptonai.control.mirror import Watch
from leptonai.errors import LeptonError, StaleEpoch, VersionConflict
from leptonai.ports.clock import Clock

RETRY_AFTER_MS = 50  # after a step that failed, doubling …
RETRY_AT_MOST_MS = 5_000  # … up to this

log = logging.getLogger("leptonai.control")


class Loop(Protocol):
    name: str
    watch: Watch

    async def step(self) -> int | None:
        """Do what is due, and say when to look again if there is no news before (in clock ms)."""
        ...


async def run_loop(loop: Loop, clock: Clock) -> None:
    """Step for ever. Ends only when another control plane has taken over."""
    failures = 0
    while True:
        loop.watch.news.clear()
        try:
            due_ms = await loop.step()
            failures = 0
        except StaleEpoch:
            raise
        except VersionConflict:
            due_ms = clock.now_ms() + RETRY_AFTER_MS  # news of what is newer is on its way
        except LeptonError as error:
            failures += 1
            due_ms = clock.now_ms() + retry_ms(failures)
            log.warning("%s loop: %s", loop.name, error)
        except Exception:
            failures += 1
            due_ms = clock.now_ms() + retry_ms(failures)
            log.exception("%s loop: unexpected error", loop.name)
        await wait_for_news(loop.watch.news, due_ms, clock)


def retry_ms(failures: int) -> int:
    return min(RETRY_AT_MOST_MS, RETRY_AFTER_MS << min(failures - 1, 10))


async def wait_for_news(news: asyncio.Event, due_ms: int | None, clock: Clock) -> None:
    """Until there is some, or until `due_ms` where it is given."""
    if due_ms is None:
        await news.wait()
        return
    seconds = (due_ms - clock.now_ms()) / 1000
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    try:  # wait_for, before Python 3.12, may swallow the cancellation that ends the loop
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return
