"""Folders that nobody needs any more: out of the way at once, and deleted by and by."""

import asyncio
import itertools
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from leptonai.supervisor.folder import MODE

MAX_AT_ONCE = 64  # folders that one `rm` is given
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 600.0  # after what could not be deleted

_log = logging.getLogger("leptonai.engines")


class Rubbish:
    """A folder may hold a hundred thousand files, so `rm` deletes it, in a process that takes
    nobody's turn. What is left of it when this process ends, by whatever, the next one finds."""

    def __init__(self, place: Path) -> None:
        """`place` must be in the file system of what is added."""
        self._place = place
        self._news = asyncio.Event()
        self._deleting: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin, with what an earlier process left.

        Raises:
            OSError: the place cannot be made.
        """
        self._place.mkdir(exist_ok=True, mode=0o700)
        self._news.set()
        self._deleting = asyncio.create_task(self._delete())

    def add(self, folder: Path) -> None:
        """Have it deleted; nothing happens if it is not there.

        Raises:
            OSError: it is still where it was.
        """
        # One rename: whenever the plug is pulled, it is there as a whole or to be deleted. The name
        # is new, for one that is called alike may still be waiting here.
        aside = self._place / f"{folder.name}.{secrets.token_hex(4)}"
        with suppress(FileNotFoundError):
            try:
                folder.rename(aside)
            except PermissionError:  # its program has taken our right to move it away
                folder.chmod(MODE)
                folder.rename(aside)
            self._news.set()

    async def close(self) -> None:
        if self._deleting is not None:
            self._deleting.cancel()
            await asyncio.gather(self._deleting, return_exceptions=True)

    async def _delete(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await self._news.wait()
            self._news.clear()
            while found := self._some():
                await _run("rm", "-rf", "--", *found)
                left = [path for path in found if os.path.lexists(path)]
                if not left:
                    pause_s = FIRST_PAUSE_S
                    continue
                # A program may have made folders that not even their owner may change.
                await _run("chmod", "-R", "u+rwx", "--", *left)
                _log.warning("%d folders in %s are hard to delete", len(left), self._place)
                await asyncio.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def _some(self) -> list[str]:
        try:
            with os.scandir(self._place) as entries:
                return [entry.path for entry in itertools.islice(entries, MAX_AT_ONCE)]
        except OSError:  # somebody took the place away, and what was in it
            return []


async def _run(*command: str) -> None:
    """As far as it can be done; what matters is what is left."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        _log.warning("%s cannot be run: %s", command[0], error)
        return
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
