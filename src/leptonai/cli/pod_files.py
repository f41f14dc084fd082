"""`leptonai pod sync`: a directory here, and one in a pod that is kept like it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from leptonai.cli.groups import Command
from leptonai.cli.output import printable, say, span
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, existing_directory

if TYPE_CHECKING:
    from leptonai.client.syncing import Listing
    from leptonai.spec.pods import SyncDone

LOOK_S = 0.5  # between two looks at a directory that is watched
MAX_SHOWN = 10


@click.command(
    "sync",
    cls=Command,
    example="""\
leptonai pod sync . work
leptonai pod sync . work:project --watch
leptonai pod sync src work:project/src --delete""",
)
@click.option("--delete", is_flag=True, help="Remove what is only in the pod's directory.")
@click.option("-w", "--watch", is_flag=True, help="Go on, and send what changes.")
@click.argument("directory", metavar="DIR")
@click.argument("pod", metavar="NAME[:PATH]")
def sync(delete: bool, watch: bool, directory: str, pod: str) -> None:
    """Bring what differs of DIR into a pod: to PATH below its home, or to a directory there of the
    same name.

    What .gitignore and .leptonignore name stays here, and is not removed there. A file appears
    under its name when it is whole.
    """
    from leptonai.client.syncing import listing

    name, _, to = pod.partition(":")
    here = existing_directory(directory).resolve()
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        found = client.pods.wait_ready(name)
        token = client.connection.token
    url = found.status.endpoint.external_endpoint if found.status else ""
    to = to or here.name

    async def rounds() -> None:
        from leptonai.client.sessions import entered
        from leptonai.client.syncing import sync as sync_once

        before: Listing | None = None
        async with entered(url, token, "/sync") as tunnel:
            while True:
                now = listing(here)
                if now != before:
                    began = time.monotonic()
                    done = await sync_once(tunnel, here, now, to=to, delete=delete)
                    if before is None or done.written or done.removed or done.refused:
                        _tell(now, done, time.monotonic() - began)
                    before = now
                if not watch:
                    return
                await asyncio.sleep(LOOK_S)

    asyncio.run(rounds())


def _tell(found: Listing, done: SyncDone, seconds: float) -> None:
    for line in (*found.skipped[:MAX_SHOWN], *done.refused[:MAX_SHOWN]):
        say(f"left out: {printable(line)}")
    took = f"{seconds:.1f} s" if seconds < 60 else span(seconds)
    click.echo(
        f"{done.written} written ({done.bytes_written} bytes sent), {done.removed} removed, "
        f"of {len(found.entries)}, in {took}"
    )
