"""Files that people hand to a command."""

import io
from pathlib import Path

import click

from leptonai.errors import InvalidRequest

csv_file = click.Path(exists=True, dir_okay=False, path_type=Path)


def lines_of(file: Path) -> list[str]:
    """Of a text, with their ends as they are: a table's cells may hold some."""
    content = file.read_bytes()
    try:
        return io.StringIO(content.decode("utf-8-sig"), newline="").readlines()
    except UnicodeDecodeError as wrong:
        line = content.count(b"\n", 0, wrong.start) + 1
        what = f"{file}:{line}: the text is not UTF-8"
        raise InvalidRequest(what, hint="expected comma-separated values in UTF-8") from wrong
