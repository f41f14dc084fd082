"""A table of parts that were each measured in one run, on a machine of their own."""

from collections.abc import Mapping
from typing import Any


def parts_table(heading: str, command: str, titles: Mapping[str, str], measured: Any) -> str:
    """
    Args:
        titles: of the parts by their names, in order; those that were not measured are left out.
    """
    lines = [
        f"# {heading}",
        "",
        f"Measured by `{command}`; each part in one run, in turns with what it is compared",
        "with. Compare within a part only. A row without goal is information.",
    ]
    for name, title in titles.items():
        if part := measured.get(name):
            lines += ["", f"## {title}", "", f"On {part['machine']}.", ""]
            lines += ["| what | measured | goal |", "| --- | ---: | ---: |"]
            lines += [f"| {r['what']} | {r['measured']} | {r['goal']} |" for r in part["rows"]]
    return "\n".join(lines) + "\n"
