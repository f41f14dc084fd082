"""Derive the sync SDK from the async one: `python tools/derive_sync_client.py [--check]`.

Each file of `asynchronous/` becomes one of `synchronous/`. Works on tokens, so that comments and
strings stay as they are, except for the names in them.
"""

import io
import sys
import tokenize
from pathlib import Path

CLIENT = Path(__file__).parent.parent / "src" / "leptonai" / "client"
SOURCE = CLIENT / "asynchronous"
DERIVED = CLIENT / "synchronous"

DROPPED = {"async", "await"}
RENAMED = {
    "aclose": "close",
    "aclosing": "closing",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "asynchronous": "synchronous",
    "http_async": "http_sync",
}
DOCSTRING = """\
\"\"\"`{source}` as `tools/derive_sync_client.py` made it sync; change that.\"\"\"
"""


def derive(source: str, name: str) -> str:
    """The same program without `async`, `await` and the names that go with them."""
    lines = source.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    pieces: list[str] = []
    row, column = 1, 0
    for token in tokens:
        (start_row, start_column), (end_row, end_column) = token.start, token.end
        while row < start_row:  # what lies between tokens: blanks, line ends
            pieces.append(lines[row - 1][column:])
            row, column = row + 1, 0
        if token.type not in (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            pieces.append(lines[row - 1][column:start_column])
            pieces.append(_derived(token))
            row, column = end_row, end_column
            if token.string in DROPPED and token.type != tokenize.STRING:
                column += 1  # and the blank after it
    text = "".join(pieces)
    docstring, rest = text.split('"""\n', 1)
    assert docstring.startswith('"""'), f"{name} begins with its docstring"
    return DOCSTRING.format(source=f"asynchronous/{name}") + rest


def _derived(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        if token.string in DROPPED:
            return ""
        return _renamed(token.string)
    if token.type == tokenize.STRING and token.string.startswith('"Async'):
        return '"' + _renamed(token.string[1:-1]) + '"'  # an annotation that looks ahead
    return token.string


def _renamed(name: str) -> str:
    return RENAMED.get(name, name.removeprefix("Async"))


def derive_all(source: Path = SOURCE) -> dict[str, str]:
    """What each file of the sync SDK is to hold, by its name."""
    return {
        file.name: derive(file.read_text(encoding="utf-8"), file.name)
        for file in sorted(source.glob("*.py"))
    }


def stale(source: Path = SOURCE, derived: Path = DERIVED) -> list[str]:
    """The files of the sync SDK that are missing, differ, or have no source."""
    expected = derive_all(source)
    there = {
        str(file.relative_to(derived)): file.read_text(encoding="utf-8")
        for file in derived.rglob("*.py")
    }
    names = sorted(expected.keys() | there.keys())
    return [name for name in names if expected.get(name) != there.get(name)]


def main() -> int:
    names = stale()
    if "--check" in sys.argv[1:]:
        for name in names:
            print(f"{DERIVED.name}/{name} is not current: run python tools/derive_sync_client.py")
        return 1 if names else 0
    expected = derive_all()
    DERIVED.mkdir(exist_ok=True)
    for name in names:
        if name in expected:
            (DERIVED / name).write_text(expected[name], encoding="utf-8")
        else:
            (DERIVED / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
