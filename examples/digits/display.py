"""What the demo shows: a live progress display in a terminal, plain lines anywhere else."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Step(ABC):
    """One thing that is being done."""

    @abstractmethod
    def say(self, line: str) -> None:
        """Something worth keeping on the screen."""

    @abstractmethod
    def progress(self, done: int, total: int, status: str) -> None:
        """How far it is, and how it stands; the next report replaces this one."""


class Display(ABC):
    @abstractmethod
    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show that this is being done, and in the end, how long it took."""


def best_display() -> Display:
    return Terminal() if sys.stdout.isatty() and find_spec("rich") else Lines()


class Lines(Display):
    """For logs and pipes."""

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        began = time.monotonic()
        print(f"{title} …", flush=True)
        yield LinesStep()
        print(f"  done in {time.monotonic() - began:.1f} s", flush=True)


class LinesStep(Step):
    def say(self, line: str) -> None:
        print(f"  {line}", flush=True)

    def progress(self, done: int, total: int, status: str) -> None:
        """Nothing: a report that the next one replaces is no line of a log."""


class Terminal(Display):
    """With rich: a spinner, a bar and a clock for what is being done."""

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}", markup=False),
            TimeElapsedColumn(),
        ) as bar:
            task = bar.add_task(title, total=None, status="")
            yield TerminalStep(bar, task)
            total = bar.tasks[task].total or 1
            bar.update(task, total=total, completed=total)


class TerminalStep(Step):
    def __init__(self, bar: "Progress", task: "TaskID") -> None:
        self._bar = bar
        self._task = task

    def say(self, line: str) -> None:
        self._bar.console.print(f"  {line}", markup=False, highlight=False)

    def progress(self, done: int, total: int, status: str) -> None:
        self._bar.update(self._task, completed=done, total=total, status=status)
