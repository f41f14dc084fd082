"""Imports once what workers import, which takes each of them seconds, and forks them as it is told.

A line of JSON asks for workers, and is answered with a line of their exit codes. It ends with its
input.
"""

import json
import os
import runpy
import sys
from pathlib import Path

import leptonai.data
import leptonai.training.models  # noqa: F401


def become(program: str, arguments: list[str], environment: dict[str, str], log: str) -> None:
    """A worker, as if it had been started by itself. Raises what it raises."""
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [program, *arguments]
    sys.path[0] = str(Path(program).parent)
    runpy.run_path(program, run_name="__main__")


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        workers = []
        for environment, log in zip(asked["environments"], asked["logs"], strict=True):
            if (pid := os.fork()) == 0:
                become(asked["program"], asked["arguments"], environment, log)
                return
            workers.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
