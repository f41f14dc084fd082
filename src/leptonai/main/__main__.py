"""``python -m leptonai.main`` runs the control plane of one home. ``leptonai up`` starts it."""

import argparse
import contextlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leptonai.errors import LeptonError, Unavailable
from leptonai.home import OPTIONS_VARIABLE, Home
from leptonai.main.options import Options
from leptonai.main.running import run


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM. Tells `--ready-fd` what became of the start, as one line of JSON."""
    parser = argparse.ArgumentParser(prog="leptonai.main")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int)
    given = parser.parse_args(arguments)
    # Not an argument: a database URL may hold a password, and arguments are for all to see.
    options = Options(**json.loads(os.environ.pop(OPTIONS_VARIABLE, "{}")))
    home = Home(given.home)

    def tell(answer: dict[str, Any]) -> None:
        if given.ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(given.ready_fd, json.dumps(answer).encode() + b"\n")
                os.close(given.ready_fd)

    try:
        with home.locked(as_platform=True):
            run(home, options, ready=lambda state: tell({"ready": asdict(state)}))
    except LeptonError as error:
        tell({"error": error.wire()})
        print(f"{error}\nhint: {error.hint}", file=sys.stderr)
        return 1
    except OSError as error:
        told = Unavailable(
            f"the platform cannot use {error.filename or home.path}: {error.strerror or error}",
            hint=f"look at that place; {home.control_log} tells more",
        )
        tell({"error": told.wire()})
        raise
    except Exception as error:
        tell({"error": {"code": "Internal", "message": f"{type(error).__name__}: {error}",
                        "hint": f"see {home.control_log}"}})  # fmt: skip
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
