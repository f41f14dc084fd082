"""What lies between the ask to start an attempt and its process: its files, volumes, a template."""

import asyncio
import errno
import shutil
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from leptonai.engines.local import mounts
from leptonai.engines.local.launching import Host, check_name, launch_of
from leptonai.engines.local.templates import COPY_OF, Templates
from leptonai.errors import LeptonError
from leptonai.ports.engine import Attempt, AttemptId
from leptonai.supervisor import Supervisor
from leptonai.supervisor.copying import Copying

FetchTree = Callable[[str, Path], Awaitable[None]]  # lays out a tree's digest in an empty directory

MAX_FETCHES = 4  # attempts whose trees are laid out at once


class Starting:
    """Attempts on their way to the supervisor, which refuses those that cannot be started."""

    def __init__(
        self, supervisor: Supervisor, templates: Templates, fetch_tree: FetchTree, host: Host
    ) -> None:
        self._supervisor = supervisor
        self._templates = templates
        self._fetch_tree = fetch_tree
        self._host = host
        self._preparing: dict[AttemptId, asyncio.Task[None]] = {}
        self._watching: set[asyncio.Task[None]] = set()  # copies, until they are ready
        self._fetches = asyncio.Semaphore(MAX_FETCHES)

    def __contains__(self, attempt: AttemptId) -> bool:
        return attempt in self._preparing

    def start(self, attempt: Attempt) -> None:
        """At once, if there is nothing to prepare."""
        template = None
        # What mounts for a volume becomes the command, which a copy has not.
        if attempt.warm is not None and not attempt.image and not attempt.volumes:
            template = self._templates.find(attempt.warm.key)
        if attempt.trees or attempt.volumes or template is not None:
            task = asyncio.create_task(self._prepare_and_launch(attempt, template))
            self._preparing[attempt.id] = task
            task.add_done_callback(lambda _: self._preparing.pop(attempt.id, None))
        else:
            self._launch(attempt, {})

    def give_up(self, attempt: AttemptId) -> None:
        """Prepare it no further, if it is being prepared."""
        if task := self._preparing.get(attempt):
            task.cancel()

    async def give_up_all(self) -> None:
        await _cancel([*self._preparing.values()])

    async def close(self) -> None:
        await _cancel([*self._preparing.values(), *self._watching])

    async def _prepare_and_launch(self, attempt: Attempt, template: Path | None) -> None:
        try:
            if template is not None and await self._copy(attempt, template):
                return
            place = Path(self._supervisor.folder(attempt.id).at("trees"))
            for tree in attempt.trees:
                check_name(tree.at)
            trees = {tree.at: place / tree.at for tree in attempt.trees}
            async with self._fetches:
                for tree in attempt.trees:
                    await lay_out(trees[tree.at], tree.digest, self._fetch_tree)
            found = await asyncio.to_thread(mounts.find, attempt.volumes)
        except LeptonError as error:
            self._supervisor.refuse(attempt.id, error.message)
        except OSError as error:
            self._supervisor.refuse(attempt.id, _reason(error))
        except Exception as error:  # a fault of whoever fetches must not leave it waiting for ever
            self._supervisor.refuse(attempt.id, f"its files could not be laid out: {error}")
        else:
            self._launch(attempt, trees, found)

    async def _copy(self, attempt: Attempt, template: Path) -> bool:
        """Start it as a copy of a template; False if none has claimed it."""
        if _taken_port(attempt.ports):
            return False  # which is told by the usual way
        folder = self._supervisor.folder(attempt.id)
        folder.prepare()
        # Before there is a copy: what it reads is not to be removed.
        with suppress(FileExistsError):
            Path(folder.at(COPY_OF)).symlink_to(template.name)
        trees = self._templates.trees(template, attempt.trees)
        launch = launch_of(attempt, folder, trees, (), self._host)
        copying = await self._supervisor.start_copy(launch, str(template))
        if copying is not None:
            task = asyncio.create_task(self._watch_copy(attempt, template, copying))
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)
        return self._supervisor.knows(attempt.id)

    async def _watch_copy(self, attempt: Attempt, template: Path, copying: Copying) -> None:
        trouble = await copying.trouble()
        if trouble is not None and attempt.warm is not None:
            self._templates.note_copy(attempt.warm.key, template, trouble)

    def _launch(
        self, attempt: Attempt, trees: Mapping[str, Path], found: Sequence[mounts.Found] = ()
    ) -> None:
        if taken := _taken_port(attempt.ports):
            self._supervisor.refuse(attempt.id, f"port {taken} is taken on {attempt.node}")
            return
        folder = self._supervisor.folder(attempt.id)
        try:
            launch = launch_of(attempt, folder, trees, found, self._host)
            self._supervisor.start(launch)
        except LeptonError as error:
            self._supervisor.refuse(attempt.id, error.message)
        except OSError as error:
            self._supervisor.refuse(attempt.id, _reason(error))
        except ValueError as error:  # a zero byte in the command or in a variable
            self._supervisor.refuse(attempt.id, f"it cannot be run: {error}")


async def lay_out(target: Path, digest: str, fetch: FetchTree) -> None:
    """At a path that appears when all of it is there."""
    if target.exists():
        return  # an earlier control plane got this far
    draft = target.with_name(f"{target.name}.draft")
    await asyncio.to_thread(shutil.rmtree, draft, True)
    draft.mkdir(parents=True)
    await fetch(digest, draft)
    draft.rename(target)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _taken_port(ports: tuple[int, ...]) -> int | None:
    """The first port that somebody listens on."""
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do: what is only left over from closed connections does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                return port
    return None


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    if error.errno == errno.E2BIG:
        return "its command and environment are longer than the system allows"
    return f"it cannot be started: {error.strerror or error}" + (
        f" ({error.filename})" if error.filename else ""
    )
