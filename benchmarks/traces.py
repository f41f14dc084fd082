"""Where the published traces lie."""

import os
from pathlib import Path


class NoTraces(Exception):
    """They are data to fetch, not a part of this project."""


def trace_folder(name: str) -> Path:
    """Of one trace: in `$LEPTON_TRACES`, or in `shared/traces` beside the repository or further
    up, where it is a worktree."""
    given = os.environ.get("LEPTON_TRACES")
    beside = [folder / "shared" / "traces" for folder in Path(__file__).parents[1].parents]
    for traces in [Path(given)] if given else beside:
        if (traces / name).is_dir():
            return traces / name
    raise NoTraces(f"the traces of {name} are missing: set LEPTON_TRACES to where the traces are")
