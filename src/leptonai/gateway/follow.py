"""Keeping the route table: from the disk at the start, from the control plane ever after."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from pathlib import Path

import msgspec

from leptonai.core.routing import RouteTable

from .control_plane import FAILURES, ControlPlane
from .gateway import NO_SEQ, Gateway

NOTHING_NEW_PAUSE_S = 0.02  # so that one that does not hold polls is not asked without end
FIRST_RETRY_S = 0.1
MAX_RETRY_S = 5.0
SAVE_DELAY_S = 0.2  # tables that follow each other quickly are written once

_decoder = msgspec.json.Decoder(RouteTable)


class Follower:
    """Follows the control plane at `GET /internal/routes?after=SEQ`.

    Whatever table the control plane sends is served, also one with a smaller seq than before:
    there is one control plane, it is asked one question at a time, and one that was restored from
    a backup or made anew may count from an earlier seq. So that such a one answers at all, the
    first poll, and each that follows a failed or a quiet one, asks with after=-1: any table is
    newer than that, and a gateway is never wrong for longer than one poll. The control plane, in
    turn, answers only once it has read its store: an empty table would close every endpoint.
    """

    def __init__(self, gateway: Gateway, control_plane: ControlPlane, copy: Path) -> None:
        self._gateway = gateway
        self._control_plane = control_plane
        self._copy = copy
        self._save: asyncio.TimerHandle | None = None
        self._last = b""  # the table that was sent last
        self._polled = asyncio.Event()

    def load_copy(self) -> None:
        """Serve by the table of the last run until the control plane sends one."""
        try:
            table = _decoder.decode(self._copy.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            self._gateway.log(f"the kept route table cannot be read: {error}", file=str(self._copy))
            return
        self._gateway.follow(table)

    async def polled(self, within_s: float) -> None:
        """Wait for the outcome of the first poll, whatever it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._polled.wait()

    async def run(self) -> None:
        """Never returns; a control plane that is away changes nothing but the age of the table."""
        after = NO_SEQ
        retry_s = FIRST_RETRY_S
        silent = False  # one line an outage
        while True:
            try:
                after = await self._take_table(after)
            except (*FAILURES, msgspec.MsgspecError) as error:
                failure = str(error) or type(error).__name__
                self._gateway.reporter.unheard()
            else:
                retry_s = FIRST_RETRY_S
                silent = False
                continue
            finally:
                self._polled.set()
            if not silent:
                silent = True
                self._gateway.log(f"the control plane does not send routes: {failure}")
            after = NO_SEQ
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))  # noqa: S311
            retry_s = min(2 * retry_s, MAX_RETRY_S)

    async def _take_table(self, after: int) -> int:
        """Poll once; the seq to ask after next."""
        body = await self._control_plane.get(f"/internal/routes?after={after}")
        if body is None:
            await asyncio.sleep(NOTHING_NEW_PAUSE_S)
            return NO_SEQ
        table = _decoder.decode(body)
        if body != self._last:
            self._gateway.follow(table)
            self._last = body
            self._plan_save()
        elif table.seq == after:
            await asyncio.sleep(NOTHING_NEW_PAUSE_S)
        return table.seq

    def save_now(self) -> None:
        if self._save is not None:
            self._save.cancel()
            self._save = None
            self._write(self._last)

    def _plan_save(self) -> None:
        if self._save is None:
            self._save = asyncio.get_running_loop().call_later(SAVE_DELAY_S, self.save_now)

    def _write(self, body: bytes) -> None:
        """Atomic. Not synced: a copy lost with the machine's power is sent again."""
        fresh = self._copy.with_suffix(".new")
        try:
            self._copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                fresh.unlink()
            with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as f:
                f.write(body)
            fresh.replace(self._copy)
        except OSError as error:
            self._gateway.log(f"the route table cannot be kept: {error}", file=str(self._copy))
