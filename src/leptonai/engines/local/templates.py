"""The templates of this machine: processes that have loaded a program, to be copied.

Each is an attempt of a supervisor of its own: started through the same wrapper, with a folder, a
claim and a log, found again by the next engine, and ended with all that it started.
"""

import asyncio
import hashlib
import itertools
import os
import secrets
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from leptonai.engines.local.environment import tree_variable
from leptonai.engines.local.rubbish import Rubbish
from leptonai.ports.engine import Attempt, Cold, Loaded, Loading, TemplateState, Tree
from leptonai.supervisor import Cgroups, Ending, Launch, Outcome, Supervisor
from leptonai.supervisor.folder import is_plain
from leptonai.supervisor.template import ROOM_BYTES, ROOM_VARIABLE

MAX_TEMPLATES = 4  # at once; the one that was not used for longest makes room
MAX_COLD = 1_000  # keys of which it is remembered why they have none
MAX_LOADING = 2  # at once
LOADED_WITHIN_S = 600.0
MAX_FAILURES = 2  # copies in a row that did not get ready: one may be a busy machine's fault
LOOK_S, LOOK_PART = 0.02, 10  # while one loads: so often, or after a tenth of what it has taken
MAX_TOLD_BYTES = 65_536
MAX_WORDS = 500  # characters of why there is none
END_GRACE_S = 5.0
# In the folder of an attempt: the template that it is a copy of, whose files it goes on reading.
COPY_OF = "copy-of"

PROGRAM = ("python", "-m", "leptonai.serving.template")

LayOut = Callable[[Path, str], Coroutine[None, None, None]]  # a tree's digest at a path


class _Told(msgspec.Struct, omit_defaults=True):
    """What a template says of itself: `leptonai.serving.template.Told`."""

    memory_bytes: int = 0
    refused: str = ""


@dataclass(slots=True)
class _Template:
    id: str
    used: int  # larger is later
    failures: int = 0  # of its last copies
    state: Loading | Loaded = field(default_factory=Loading)


class Templates:
    def __init__(
        self,
        place: Path,
        *,
        attempts: Path,
        rubbish: Rubbish,
        lay_out: LayOut,
        now_ms: Callable[[], int],
        on_change: Callable[[], None],
    ) -> None:
        """
        Args:
            attempts: where the folders of those are that may be copies.
        """
        self._place = place
        self._attempts = attempts
        self._rubbish = rubbish
        self._lay_out = lay_out
        self._on_change = on_change
        # Without cgroups: copies are to leave them, and their keepers stay where wrappers do.
        self._supervisor = Supervisor(
            place, Cgroups(0), now_ms=now_ms, on_change=self._supervisor_news
        )
        self._templates: dict[str, _Template] = {}  # by key
        self._cold: dict[str, Cold] = {}
        self._uses = itertools.count(1)
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by id: what loads
        self._loading = asyncio.Semaphore(MAX_LOADING)
        self._news = asyncio.Event()
        self._code = code_in_use(
            Path(__file__).parents[2],
            [Path(path) for path in sys.path if path.endswith("-packages")],
        )

    async def open(self) -> None:
        """Find those again that an earlier engine left, if they have the code that is there now."""
        await self._supervisor.adopt()
        for id in list(self._supervisor.running):
            code, _, rest = id.partition("-")
            key = rest.partition(".")[0]
            if code != self._code or key in self._templates:
                self._end(id)
                continue
            template = self._templates[key] = _Template(id, 0)
            told = self._told(id)
            if told is not None and not told.refused:
                template.state = Loaded(told.memory_bytes)
            else:
                self._spawn(id, self._watch(key, id))
        self.sweep()

    async def close(self) -> None:
        """Let go. What is loaded stays, and what was to end has."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * END_GRACE_S):
                while self._supervisor.running.keys() - {t.id for t in self._templates.values()}:
                    self._news.clear()
                    await self._news.wait()
        await self._supervisor.close()

    @property
    def states(self) -> dict[str, TemplateState]:
        return {**self._cold, **{key: each.state for key, each in self._templates.items()}}

    def find(self, key: str) -> Path | None:
        """The folder of the one that can be copied now."""
        template = self._templates.get(key)
        if template is None or not isinstance(template.state, Loaded):
            return None
        template.used = next(self._uses)
        return self._place / template.id

    @staticmethod
    def trees(template: Path, trees: tuple[Tree, ...]) -> dict[str, Path]:
        """Where they lie for its copies."""
        return {tree.at: template / "trees" / tree.at for tree in trees}

    def load(self, attempt: Attempt, environment: Mapping[str, str]) -> None:
        """Begin to load one for the attempt's key, unless it is known what becomes of it.

        Args:
            environment: what it starts from, beside the attempt's own variables.
        """
        warm = attempt.warm
        assert warm is not None
        if warm.key in self._templates or warm.key in self._cold:
            return
        while len(self._templates) >= MAX_TEMPLATES:
            self.cool(min(self._templates, key=lambda key: (self._templates[key].used, key)))
        id = f"{self._code}-{warm.key}.{secrets.token_hex(4)}"
        self._templates[warm.key] = _Template(id, next(self._uses))
        self._spawn(id, self._load(warm.key, id, attempt, environment))
        self._on_change()

    def cool(self, key: str) -> None:
        self._cold.pop(key, None)
        if template := self._templates.pop(key, None):
            if task := self._tasks.get(template.id):
                task.cancel()
            self._end(template.id)
            self._on_change()

    def note_copy(self, key: str, folder: Path, trouble: str) -> None:
        """What became of a copy. A template whose copies are no good is not used again."""
        template = self._templates.get(key)
        if template is None or template.id != folder.name:
            return
        template.failures = template.failures + 1 if trouble else 0
        if template.failures >= MAX_FAILURES:
            self._turn_cold(key, template.id, trouble)

    async def end_all(self, patience_s: float) -> bool:
        for key in list(self._templates):
            self.cool(key)
        return await self._supervisor.end_everything(patience_s)

    def sweep(self) -> None:
        """Remove what is left of those that ended, once no copy reads their files."""
        if not self._supervisor.ended:
            return
        used = {_copied_by(folder / COPY_OF) for folder in self._attempts.iterdir()}
        used |= self._tasks.keys()  # somebody is about to look how it ended
        for id in [id for id in self._supervisor.ended if id not in used]:
            with suppress(OSError):  # next time, then
                self._rubbish.add(self._place / id)
                self._supervisor.forget(id)

    # --- loading ---------------------------------------------------------------------------------

    async def _load(
        self, key: str, id: str, attempt: Attempt, environment: Mapping[str, str]
    ) -> None:
        trees = self.trees(self._place / id, attempt.trees)
        async with self._loading:
            try:
                for tree in attempt.trees:
                    await self._lay_out(trees[tree.at], tree.digest)
                self._supervisor.start(self._launch(id, attempt, environment, trees))
            except Exception as error:  # whoever lays out may raise anything
                self._supervisor.refuse(id, str(error))
                self._turn_cold(key, id, f"its template cannot be started: {error}")
                return
            await self._watch(key, id)

    def _launch(
        self,
        id: str,
        attempt: Attempt,
        environment: Mapping[str, str],
        trees: Mapping[str, Path],
    ) -> Launch:
        warm = attempt.warm
        assert warm is not None
        given = {name: value for name, value in attempt.env.items() if name not in warm.withheld}
        return Launch(
            id=id,
            command=PROGRAM,
            env={
                **environment,
                **given,
                **{tree_variable(at): str(path) for at, path in trees.items()},
                # More threads than one would be lost in a copy, which sets its own number.
                "OMP_NUM_THREADS": "1",
                "LEPTON_TEMPLATE_DIR": str(self._place / id),
                "LEPTON_TEMPLATE_WITHHELD": " ".join(sorted(warm.withheld)),
                ROOM_VARIABLE: " " * ROOM_BYTES,
            },
        )

    async def _watch(self, key: str, id: str) -> None:
        """Until it says what has become of it, or ends."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            ending = self._supervisor.ended.get(id)  # first: what it told, it told before
            told = self._told(id)
            if told is not None:
                break
            took_s = loop.time() - began
            if ending is not None:
                if ending.outcome is not Outcome.STOPPED:
                    self._turn_cold(key, id, _why_ended(ending))
                return
            if took_s > LOADED_WITHIN_S:
                self._turn_cold(key, id, f"it was not loaded within {LOADED_WITHIN_S / 60:.0f} min")
                return
            await asyncio.sleep(max(LOOK_S, took_s / LOOK_PART))
        if told.refused:
            self._turn_cold(key, id, told.refused)
        elif key in self._templates and self._templates[key].id == id:
            self._templates[key].state = Loaded(told.memory_bytes)
            self._on_change()

    def _told(self, id: str) -> _Told | None:
        path = self._place / id / "told"
        if not is_plain(path) or path.stat().st_size > MAX_TOLD_BYTES:
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Told)
        except (OSError, msgspec.DecodeError):
            return _Told(refused="what it said of itself cannot be read")

    def _turn_cold(self, key: str, id: str, because: str) -> None:
        if key not in self._templates or self._templates[key].id != id:
            return
        del self._templates[key]
        self._end(id)
        self._cold[key] = Cold(because[:MAX_WORDS])
        while len(self._cold) > MAX_COLD:
            del self._cold[next(iter(self._cold))]
        self._on_change()

    # --- ending ----------------------------------------------------------------------------------

    def _end(self, id: str) -> None:
        with suppress(OSError):  # a full disk, before it had started
            self._supervisor.stop(id, END_GRACE_S)

    def _supervisor_news(self, id: str) -> None:
        self._news.set()
        if id not in self._supervisor.ended:
            return
        for key, template in list(self._templates.items()):
            # One that was loaded and died is loaded again when it is asked for.
            if template.id == id and isinstance(template.state, Loaded):
                del self._templates[key]
                self._on_change()
        self.sweep()

    def _spawn(self, id: str, work: Coroutine[None, None, None]) -> None:
        async def watched() -> None:
            try:
                await work
            finally:
                self._tasks.pop(id, None)
                self.sweep()

        self._tasks[id] = asyncio.create_task(watched())


def _copied_by(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _why_ended(ending: Ending) -> str:
    code = "" if ending.code is None else f" with code {ending.code}"
    return f"its template ended{code} before it was loaded" + (
        f": {ending.message}" if ending.message else ""
    )


def code_in_use(package: Path, libraries: Iterable[Path]) -> str:
    """Another one as soon as a module of the package changed, or anything was installed into or
    removed from a directory of libraries."""
    # Not by the times of these directories: they change once more when Python puts its cache there.
    modules = (
        Path(directory, name)
        for directory, _, names in os.walk(package)
        for name in names
        if name.endswith(".py")
    )
    installed = (each for library in libraries for each in library.glob("*.*-info"))
    told = sorted(_dated(path) for path in (*modules, *installed))
    told += [sys.executable, sys.version]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def _dated(path: Path) -> str:
    try:
        return f"{path} {path.stat().st_mtime_ns}"
    except OSError:
        return str(path)
