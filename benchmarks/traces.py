"""Where the published traces lie."""

import os
from pathlib import Path


class NoTraces(Exception):
    """They are data to fetch, not a part of this project."""


def trace_folder(name: str) -> Path:
    """Of one trace: in `$LEPTON_TRACES`, or in `shared/traces` beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "traces"
    folder = Path(os.environ.get("LEPTON_TRACES", beside)) / name
    if not folder.is_dir():
        raise NoTraces(f"there is no folder {folder}: set LEPTON_TRACES to where the traces are")
    return folder
