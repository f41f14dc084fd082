"""The data library, where it is installed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from leptonai.cli.output import say
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.data.dataset import Dataset


def data_library(*also: str) -> type[Dataset]:
    """The data library, which needs more than the command line itself does.

    Args:
        also: modules of others that the command needs.

    Raises:
        InvalidRequest: something of that is not installed.
    """
    try:
        for module in also:
            import_module(module)
        from leptonai.data.dataset import Dataset
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("leptonai"):
            raise
        raise InvalidRequest(
            f"this needs {missing.name}", hint="pip install 'openlepton[data]'"
        ) from missing
    return Dataset


def say_if_two(reference: str) -> None:
    """Which of two is meant: what lies here goes before what is registered."""
    from leptonai.data.workspace import looks_like_a_reference

    if looks_like_a_reference(reference) and Path(reference).exists():
        say(f"{reference} is what lies in this directory; the registered one: {reference}@latest")
