"""Programs that tests put on a PATH."""

import shlex
import sys
from pathlib import Path


def write_program(path: Path, source: str, *options: str) -> None:
    """A program in Python that is started by its name, and by this Python wherever that lies: no
    `#!` can name a path with a space.

    Args:
        options: of Python.
    """
    code = path.with_name(f"{path.name}.py")
    code.write_text(source)
    command = shlex.join([sys.executable, *options, str(code)])
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o700)
