"""How a training ends: asked to by a signal, or with a word on whether another try would end the
same, so that its job does not try.

The exit status is `leptonai.spec.jobs.FINAL_EXIT_CODE`; a job is told in `final_exit_codes` which
statuses mean that, and those of trainings are.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from leptonai.errors import Conflict, LeptonError, RequestError


def exit_code_of(error: LeptonError) -> int:
    """What is to be changed first (data, settings, the script) is final. A conflict is not: what
    held the port may be gone the next time."""
    from leptonai.spec.jobs import FINAL_EXIT_CODE  # what it is built on has no part in training

    is_final = isinstance(error, RequestError) and not isinstance(error, Conflict)
    return FINAL_EXIT_CODE if is_final else 1


def tell(error: LeptonError) -> None:
    sys.stdout.flush()
    hint = f"\nhint: {error.hint}" if error.hint else ""
    print(f"error: {error.message}{hint}", file=sys.stderr, flush=True)


def exit_by_error() -> None:
    """Within a job, an error of ours that nobody catches ends the process so. Another one does as
    always, and so does a program that has a way of its own."""
    if "LEPTON_JOB_NAME" in os.environ and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _exit


@contextmanager
def on_stop(act: Callable[[], None]) -> Iterator[None]:
    """A SIGTERM only asks, for as long as this lasts. Elsewhere than in the main thread it is not
    heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not isinstance(error, LeptonError):
        sys.__excepthook__(kind, error, traceback)
        return
    tell(error)
    raise SystemExit(exit_code_of(error))
