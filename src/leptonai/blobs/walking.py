"""What of a directory is meant: all that no ignore file leaves out, and that is no platform's."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".gitignore"
NEVER = ".git"
HOME_MARK = "keys/platform.key"  # in a platform's home: its secrets go with nobody's code
_Rules = tuple[tuple[str, "GitIgnoreSpec"], ...]  # by directory, the outermost first


def walk(
    root: str, ignore_files: Sequence[str] = (IGNORE_FILE,)
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All that is meant, with its path from the root on, parents first, in the order of the names'
    bytes on every machine."""
    return _walk(root, "", ignore_files, ())


class Ignored:
    """What the ignore files of a directory leave out, of paths that may lie elsewhere."""

    def __init__(self, root: str, ignore_files: Sequence[str]) -> None:
        self._root = root
        self._ignore_files = ignore_files
        self._rules: dict[str, _Rules] = {}

    def __contains__(self, path: str) -> bool:
        """Whether it, or a directory that it lies in, is left out."""
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            directory = "/".join(parts[: depth - 1])
            is_directory = depth < len(parts)
            if parts[depth - 1] == NEVER:
                return True
            if _ignored("/".join(parts[:depth]), is_directory, self._rules_in(directory)):
                return True
        return False

    def _rules_in(self, directory: str) -> _Rules:
        if directory not in self._rules:
            above = self._rules_in(directory.rpartition("/")[0]) if directory else ()
            place = f"{self._root}/{directory}"
            self._rules[directory] = _with_rules(above, place, directory, self._ignore_files)
        return self._rules[directory]


def _walk(
    root: str, directory: str, ignore_files: Sequence[str], rules: _Rules
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    place = f"{root}/{directory}"  # strings: a Path costs microseconds, and there are many
    rules = _with_rules(rules, place, directory, ignore_files)
    with os.scandir(place) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        if entry.name == NEVER:
            continue
        path = f"{directory}/{entry.name}" if directory else entry.name
        is_directory = entry.is_dir(follow_symlinks=False)
        if is_directory and os.path.lexists(f"{place}/{entry.name}/{HOME_MARK}"):
            continue
        if rules and _ignored(path, is_directory, rules):
            continue  # with all below it: git, too, cannot re-include what lies in an ignored one
        yield path, entry
        if is_directory:
            yield from _walk(root, path, ignore_files, rules)


def _with_rules(rules: _Rules, place: str, directory: str, ignore_files: Sequence[str]) -> _Rules:
    for name in ignore_files:
        file = Path(place, name)
        if file.is_file() and not file.is_symlink():
            from pathspec import GitIgnoreSpec

            lines = file.read_text(errors="replace").splitlines()
            rules = (*rules, (directory, GitIgnoreSpec.from_lines(lines)))
    return rules


def _ignored(path: str, is_directory: bool, rules: _Rules) -> bool:
    """The innermost file that says anything about it decides."""
    for directory, spec in reversed(rules):
        name = path[len(directory) + 1 :] if directory else path
        verdict = spec.check_file(name + ("/" if is_directory else "")).include
        if verdict is not None:
            return verdict
    return False
