"""Derive the sync SDK from the async one: `python tools/derive_sync_client.py [--check]`.

Works on tokens, so that comments and strings stay as they are, except for the names in them.
"""

import io
import sys
import tokenize
from pathlib import Path

CLIENT = Path(__file__).parent.parent / "src" / "leptonai" / "client"
SOURCE = CLIENT / "asynchronous.py"
DERIVED = CLIENT / "synchronous.py"

DROPPED = {"async", "await"}
RENAMED = {
    "aclose": "close",
    "aclosing": "closing",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "http_async": "http_sync",
}
DOCSTRING = """\
\"\"\"The SDK: `asynchronous.py` as `tools/derive_sync_client.py` made it sync; change that.\"\"\"
"""


def derive(source: str) -> str:
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
    assert docstring.startswith('"""'), "the source begins with its docstring"
    return DOCSTRING + rest


def _derived(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        if token.string in DROPPED:
            return ""
        return _renamed(token.string)
    if token.type == tokenize.STRING and token.string.startswith(('"Async', '"_Async')):
        return '"' + _renamed(token.string[1:-1]) + '"'  # an annotation that looks ahead
    return token.string


def _renamed(name: str) -> str:
    bare = name.removeprefix("_")
    if bare.startswith("Async") and bare not in RENAMED:
        return name[: len(name) - len(bare)] + bare.removeprefix("Async")
    return RENAMED.get(name, name)


def main() -> int:
    derived = derive(SOURCE.read_text(encoding="utf-8"))
    if "--check" in sys.argv[1:]:
        if DERIVED.read_text(encoding="utf-8") != derived:
            print(f"{DERIVED.name} is not current: run python tools/derive_sync_client.py")
            return 1
        return 0
    DERIVED.write_text(derived, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
